"""What is explored: a store and, where they are given, the model and the dataset that it is of."""
from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from crp.explorer.documents import Class, ConceptName, Layer, StoreDocument
from crp.explorer.keeping import Kept
from crp.explorer.notes import Notebook
from crp.explorer.worker import Worker
from crp.store import QUANTITIES, ReferenceStore, StoreError
from crp.store.attached import attached_stamp, attached_stems
from crp.trust.names import Names
from crp.trust.names import stem as stem_of_names
from crp.trust.report import TrustReport
from crp.trust.report import stem as stem_of_report

if TYPE_CHECKING:
    from zennit.core import Composite

    from crp.analysis.patterns import Patterns
    from crp.explorer.portraits import Portraits
    from crp.explorer.summaries import Summary
    from crp.model.corpus import Corpus
    from crp.visualization import FeatureVisualization

NO_MODEL = (
    "This is the store alone. Heatmaps, predictions and experiments need the model: crp explore SPEC, with the file or "
    "function that crp run was given."
)
NO_SAMPLES = (
    " Samples are shown by their numbers, since a store holds none: pictures come with the dataset, or are kept in the "
    "store with crp explore SPEC --keep-pictures."
)
Key = TypeVar("Key")
Value = TypeVar("Value")
_MOST_READ = 48
_STAMP_LASTS = .5  # seconds
SOME_PICTURES = " Pictures of samples and concepts are those that the store keeps from an earlier look."


class NotThereError(ValueError):
    """Something that is asked for, and that the store or the model does not have."""


class Source:
    """A store, and perhaps the model and dataset of its sweep.

    Parameters
    ----------
    store : ReferenceStore
    fv : FeatureVisualization, optional
        Of which the store is; that has been checked.
    composite : zennit.core.Composite, optional
        The rules of the sweep; needed with ``fv``.
    class_names : list of str, optional
        By default those of ``fv``.
    """

    def __init__(
        self, store: ReferenceStore, fv: FeatureVisualization | None = None, composite: Composite | None = None,
        class_names: list[str] | None = None,
    ):
        self.store, self.fv, self.composite = store, fv, composite
        self.key = store.identity()[:16]
        self.class_names = class_names or (fv.class_names if fv is not None else None) or []
        self.kept, self.worker, self.notebook = Kept(store), Worker(), Notebook(store)
        self.reading = threading.Lock()  # of the dataset, which may not stand two readers
        self.standardised: dict[tuple[int, str], np.ndarray] = {}
        self.portraits: dict[tuple[int, str], Portraits] = {}
        self.summaries: dict[tuple[int, str], Summary] = {}
        self._read: dict[str, tuple[Any, Any]] = {}
        self._stamps: dict[str, tuple[float, tuple[int, int] | None]] = {}

    @classmethod
    def of(cls, what: Any, composite: Composite | None = None, class_names: list[str] | None = None) -> Source:
        """A source of a store, its folder, or a FeatureVisualization that has run.

        Raises
        ------
        StoreError
            If there is no store, or it is of another model, dataset or composite.
        """
        if isinstance(what, Source):
            return what
        if isinstance(what, (ReferenceStore, str, Path)):
            if composite is not None:
                raise ValueError("a composite is for a FeatureVisualization; a store alone draws no heatmaps")
            store = what if isinstance(what, ReferenceStore) else ReferenceStore(what)
            return cls(store, None, None, class_names)
        from crp.visualization import FeatureVisualization  # for which PyTorch is needed, as for stores it is not

        if not isinstance(what, FeatureVisualization):
            raise TypeError(f"a store, its folder or a FeatureVisualization is explored, not a {type(what).__name__}")
        if composite is None:
            raise ValueError("heatmaps need the rules of the sweep: give composite=")
        return cls(what.open_store(composite), what, composite, class_names)

    @property
    def corpus(self) -> Corpus | None:
        """The texts, where samples are some."""
        if self.fv is None:
            return None
        from crp.model.corpus import Corpus

        return self.fv.dataset if isinstance(self.fv.dataset, Corpus) else None

    @property
    def kind(self) -> Literal["pictures", "texts"]:
        """How samples are shown."""
        return "texts" if self.corpus is not None or self.fv is None and self.store.of_positions else "pictures"

    def need_model(self) -> tuple[FeatureVisualization, Composite]:
        """The model, its samples and the rules.

        Raises
        ------
        NotThereError
            If there is only a store.
        """
        if self.fv is None or self.composite is None:
            raise NotThereError(NO_MODEL)
        return self.fv, self.composite

    def layer(self, number: int) -> str:
        """The name of a layer.

        Raises
        ------
        NotThereError
            If there is none of this number.
        """
        if not 0 <= number < len(self.store.layers):
            raise NotThereError(f"there is no layer {number}; there are {len(self.store.layers)}, numbered from 0")
        return self.store.layers[number]

    def concepts(self, number: int, ids: list[int]) -> list[int]:
        """Ids of concepts, if the layer has them; a NotThereError if not."""
        count = len(self.store.concepts(self.layer(number)))
        for concept in ids:
            if not 0 <= concept < count:
                raise NotThereError(f"layer {self.layer(number)!r} has no concept {concept}; it has 0 to {count - 1}")
        return ids

    def samples(self, ids: list[int]) -> list[int]:
        """Numbers of samples, if the store holds them; a NotThereError if not."""
        known = self.known_samples
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        for sample, place in zip(ids, places):
            if len(known) == 0 or known[place] != sample:
                raise NotThereError(f"the store holds no sample {sample}; it holds {len(known)}")
        return ids

    @cached_property
    def has_labels(self) -> bool:
        """Whether the targets of rows are told from what the model predicts; if they are the same everywhere, they may
        be just that.
        """
        rows = self.rows("relevance")
        return bool((rows["target"] != rows["prediction"]).any())

    def need_class(self, target: int | None) -> None:
        """Raise a NotThereError if no sample is of a class."""
        if target is not None and target not in (found.target for found in self.classes):
            raise NotThereError(f"there is no sample of class {target}; there are {len(self.classes)} classes")

    @cached_property
    def known_samples(self) -> np.ndarray:
        """Numbers of all samples that were swept, ascending."""
        if self.store.options["keep"] == "top":
            ranges = [np.arange(first, stop) for first, stop in self.store.ranges]
            return np.setdiff1d(np.concatenate([np.empty(0, int), *ranges]), list(self.store.skipped))
        return np.unique(self.rows("activation")["sample"])

    def rows(self, quantity: str) -> np.ndarray:
        """Sample, target, position and prediction of each row of a quantity; of activation the first target."""
        return self._rows[quantity]

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        if self.store.options["keep"] == "top":
            empty = np.empty(0, [("sample", "<i8"), ("target", "<i8"), ("position", "<i8"), ("prediction", "<i8")])
            return dict.fromkeys(QUANTITIES, empty)
        relevance, activation = (self.store.rows(quantity).copy() for quantity in ("relevance", "activation"))
        samples, first = np.unique(relevance["sample"], return_index=True)
        if len(samples):
            place = np.minimum(np.searchsorted(samples, activation["sample"]), len(samples) - 1)
            is_known = samples[place] == activation["sample"]
            for field in ("target", "prediction"):
                activation[field][is_known] = relevance[field][first[place[is_known]]]
        return {"relevance": relevance, "activation": activation}

    def class_name(self, target: int) -> str:
        """The name of a class, or its number."""
        return str(self.class_names[target]) if 0 <= target < len(self.class_names) else str(target)

    @cached_property
    def classes(self) -> list[Class]:
        """The classes of the samples, in order."""
        if self.store.options["keep"] == "top":
            targets, counts, _ = self.store.profile_of_classes(self.store.layers[0])
        else:
            targets, counts = np.unique(self.rows("relevance")["target"], return_counts=True)
        return [
            Class(target=target, name=self.class_name(target), samples=count)
            for target, count in zip(targets.tolist(), counts.tolist()) if target >= 0
        ]

    def trust(self, layer: str) -> TrustReport | None:
        """The trust report that the store keeps of a layer, if it is of this sweep."""
        return self._attached(stem_of_report(self.store, layer), lambda: TrustReport.load(self.store, layer))

    def patterns(self, layer: str, quantity: str) -> Patterns | None:
        """The patterns that the store keeps, if they are of this sweep."""
        def load() -> Patterns:
            from crp.analysis.patterns import Patterns

            return Patterns.load(self.store, layer=layer, quantity=quantity)

        return self._attached(self.store.attached_stem(layer, quantity), load)

    def _attached(self, stem: str, load: Callable[[], Any]) -> Any:
        """What the store keeps beside its matrices, read again when it has changed; None if there is none."""
        with suppress(StoreError):
            stamp = self._stamp(stem)
            if stamp is None:
                return None
            known = self._read.get(stem)
            if known is None or known[0] != stamp:
                known = remember(self._read, stem, (stamp, load()), _MOST_READ)
            return known[1]
        return None

    def _stamp(self, stem: str) -> tuple[int, int] | None:
        """What tells a result that is kept from the one that takes its place, looked up not too often."""
        now = time.monotonic()
        known = self._stamps.get(stem)
        if known is None or now - known[0] > _STAMP_LASTS:
            known = self._stamps[stem] = now, attached_stamp(self.store, stem)
        return known[1]

    def names(self, number: int) -> dict[int, list[ConceptName]]:
        """The names of the concepts of a layer: those that people gave first."""
        layer, found = self.layer(number), dict[int, list[ConceptName]]()
        for concept, name in self.notebook.names(number).items():
            found.setdefault(concept, []).append(ConceptName(concept=concept, name=name, author="you", score=None))
        kept = self._attached(
            stem_of_names(self.store, layer), lambda: Names.load(self.store, layer)
        )
        for given in [] if kept is None else _described(kept):
            found.setdefault(given.concept, []).append(given)
        return found

    def naming(self) -> str:
        """What changes when concepts or classes are called otherwise."""
        stamps = [attached_stamp(self.store, stem) for stem in attached_stems(self.store, "names.")]
        names = [self.notebook.names(number) for number in range(len(self.store.layers))]
        return hashlib.sha256(json.dumps([self.class_names, names, stamps]).encode()).hexdigest()[:16]

    def name(self, number: int, concept: int) -> str:
        """The first name of a concept; empty if it has none."""
        names = self.names(number).get(concept)
        return names[0].name if names else ""

    def document(self, has_pictures: bool) -> StoreDocument:
        """What there is to explore."""
        store, settings = self.store, self.store.manifest.settings
        attached = set(attached_stems(store, ""))
        without = "" if self.fv is not None else NO_MODEL + (SOME_PICTURES if has_pictures else NO_SAMPLES)
        return StoreDocument(
            key=self.key, name=store.path.resolve().name, samples=len(self.known_samples),
            rows={"relevance": len(self.rows("relevance")), "activation": len(self.rows("activation"))},
            keep=store.options["keep"], of_positions=store.of_positions, layers=[
                Layer(
                    name=name, concepts=store.entry(name).concepts,
                    positions=list(store.entry(name).position_shape or ()),
                    patterns=[of for of in QUANTITIES if store.attached_stem(name, of) in attached],
                    trust=stem_of_report(store, name) in attached,
                ) for name in store.layers
            ],
            classes=self.classes, has_labels=self.has_labels, kind=self.kind,
            has_model=self.fv is not None, has_pictures=has_pictures,
            without=without, made={
                "model": settings.model.class_name, "attribution": settings.attribution.class_name,
                "composite": settings.composite.class_name,
            },
        )


def check_different(sources: list[Source]) -> None:
    """Raise a ValueError if two sources are of the same sweep."""
    known: dict[str, Path] = {}
    for source in sources:
        if source.key in known:
            raise ValueError(f"{known[source.key]} and {source.store.path} hold the same sweep: give one of them")
        known[source.key] = source.store.path


def _described(kept: Names) -> Iterator[ConceptName]:
    """Names as pages show them."""
    for concept, name, score in zip(kept.concepts.tolist(), kept.names, kept.scores.tolist()):
        yield ConceptName(concept=concept, name=name, author=kept.author, score=score)


def remember(known: dict[Key, Value], key: Key, value: Value, most: int) -> Value:
    """Put something among the last things that were made, and forget the oldest of too many."""
    known[key] = value
    while len(known) > most:
        del known[next(iter(known))]
    return value
