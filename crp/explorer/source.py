"""What is explored: a store and, where they are given, the model and the dataset that it is of."""
from __future__ import annotations

import threading
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from zennit.core import Composite

from crp.analysis import Patterns
from crp.explorer.documents import Class, ConceptName, Layer, StoreDocument
from crp.explorer.keeping import Kept
from crp.explorer.notes import Notebook
from crp.explorer.worker import Worker
from crp.model.corpus import Corpus
from crp.store import QUANTITIES, ReferenceStore, StoreError
from crp.trust import Names, TrustReport
from crp.visualization import FeatureVisualization

NO_MODEL = (
    "This is the store alone. Heatmaps, predictions and experiments need the model: crp explore SPEC, with the file or "
    "function that crp run was given."
)
NO_SAMPLES = " Samples are shown by their numbers, since a store holds none: pictures come with the dataset."
SOME_PICTURES = " Pictures of samples and concepts are those that the store keeps from an earlier look."


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
        if isinstance(what, FeatureVisualization):
            if composite is None:
                raise ValueError("heatmaps need the rules of the sweep: give composite=")
            return cls(what.open_store(composite), what, composite, class_names)
        if composite is not None:
            raise ValueError("a composite is for a FeatureVisualization; a store alone draws no heatmaps")
        store = what if isinstance(what, ReferenceStore) else ReferenceStore(Path(what))
        return cls(store, None, None, class_names)

    @property
    def corpus(self) -> Corpus | None:
        """The texts, where samples are some."""
        dataset = None if self.fv is None else self.fv.dataset
        return dataset if isinstance(dataset, Corpus) else None

    @property
    def kind(self) -> Literal["pictures", "texts"]:
        """How samples are shown."""
        return "texts" if self.corpus is not None or self.fv is None and self.store.of_positions else "pictures"

    def need_model(self) -> tuple[FeatureVisualization, Composite]:
        """The model, its samples and the rules.

        Raises
        ------
        LookupError
            If there is only a store.
        """
        if self.fv is None or self.composite is None:
            raise LookupError(NO_MODEL)
        return self.fv, self.composite

    def layer(self, number: int) -> str:
        """The name of a layer.

        Raises
        ------
        LookupError
            If there is none of this number.
        """
        if not 0 <= number < len(self.store.layers):
            raise LookupError(f"there is no layer {number}; there are {len(self.store.layers)}, numbered from 0")
        return self.store.layers[number]

    def concepts(self, number: int, ids: list[int]) -> list[int]:
        """Ids of concepts, if the layer has them; a LookupError if not."""
        count = len(self.store.concepts(self.layer(number)))
        for concept in ids:
            if not 0 <= concept < count:
                raise LookupError(f"layer {self.layer(number)!r} has no concept {concept}; it has 0 to {count - 1}")
        return ids

    def samples(self, ids: list[int]) -> list[int]:
        """Numbers of samples, if the store holds them; a LookupError if not."""
        known = self.known_samples
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        for sample, place in zip(ids, places):
            if len(known) == 0 or known[place] != sample:
                raise LookupError(f"the store holds no sample {sample}; it holds {len(known)}")
        return ids

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
        with suppress(StoreError):
            return TrustReport.load(self.store, layer)
        return None

    def patterns(self, layer: str, quantity: str) -> Patterns | None:
        """The patterns that the store keeps, if they are of this sweep."""
        with suppress(StoreError):
            return Patterns.load(self.store, layer=layer, quantity=quantity)
        return None

    def names(self, number: int) -> dict[int, list[ConceptName]]:
        """The names of the concepts of a layer: those that people gave first."""
        layer, found = self.layer(number), dict[int, list[ConceptName]]()
        for concept, name in self.notebook.names(number).items():
            found.setdefault(concept, []).append(ConceptName(concept=concept, name=name, author="you", score=None))
        with suppress(StoreError):
            kept = Names.kept(self.store, layer)
            for i, concept in enumerate([] if kept is None else kept.concepts.tolist()):
                given = kept[concept] if kept is not None else None
                assert given is not None and kept is not None
                found.setdefault(concept, []).append(ConceptName(
                    concept=concept, name=kept.names[i][:4096], author=given.author, score=given.score,
                ))
        return found

    def name(self, number: int, concept: int) -> str:
        """The first name of a concept; empty if it has none."""
        names = self.names(number).get(concept)
        return names[0].name if names else ""

    def document(self, has_pictures: bool) -> StoreDocument:
        """What there is to explore."""
        store, settings = self.store, self.store.manifest.settings
        without = "" if self.fv is not None else NO_MODEL + (SOME_PICTURES if has_pictures else NO_SAMPLES)
        return StoreDocument(
            key=self.key, name=store.path.resolve().name, samples=len(self.known_samples),
            rows={"relevance": len(self.rows("relevance")), "activation": len(self.rows("activation"))},
            keep=store.options["keep"], of_positions=store.of_positions, layers=[
                Layer(
                    name=name, concepts=store.entry(name).concepts,
                    positions=list(store.entry(name).position_shape or ()),
                    patterns=[quantity for quantity in QUANTITIES if self.patterns(name, quantity) is not None],
                    trust=self.trust(name) is not None,
                ) for name in store.layers
            ],
            classes=self.classes, kind=self.kind, has_model=self.fv is not None, has_pictures=has_pictures,
            without=without, made={
                "model": settings.model.class_name, "attribution": settings.attribution.class_name,
                "composite": settings.composite.class_name,
            },
        )
