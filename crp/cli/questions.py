"""What commands answer from a store alone: which concepts matter, which classes they serve, which samples show them."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from crp.analysis.class_shares import ClassShares, class_shares
from crp.cli.concept_answers import Classes, ClassPortion, Concepts, RankedConcept, Reference, References
from crp.store import ReferenceStore
from crp.store.references import check_concept

NO_TARGET = -1  # in the rows of stores


class ClassNames:
    """Names of the classes, where a file has them; otherwise their numbers.

    Parameters
    ----------
    file : str or Path, optional
        A text file with a name per line, that of class 0 first.
    """

    def __init__(self, file: str | Path | None = None):
        self._file = file
        self._names = [] if file is None else [
            line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines()
        ]

    @property
    def all(self) -> list[str] | None:
        """The names as the file has them; None without one."""
        return None if self._file is None else list(self._names)

    def __getitem__(self, target: int) -> str:
        """The name of a class, with its number where several have the same.

        Raises
        ------
        ValueError
            If the file has none.
        """
        if self._file is None or target == NO_TARGET:
            return str(target)
        name = self._names[target] if target < len(self._names) else ""
        if not name:
            raise ValueError(f"{self._file} has {len(self._names)} lines, and no name for class {target}")
        return name if self._names.count(name) == 1 else f"{name} ({target})"

    def of(self, targets: Iterable[int]) -> list[str]:
        """The names of several classes."""
        return [self[int(target)] for target in targets]

    def labels(self, targets: np.ndarray) -> np.ndarray:
        """The names of the classes of rows; their numbers, which sort as such, where there are none."""
        if self._file is None:
            return targets
        classes, number = np.unique(targets, return_inverse=True)
        return np.array(self.of(classes))[number]


def rank_concepts(
    store: ReferenceStore, layer: str, quantity: str, names: ClassNames, *, target: int | None = None,
    sample: int | None = None, most: int = 10,
) -> Concepts:
    """The concepts of a layer that matter most: in all classes, in one, or in one sample (as one of a class)."""
    of_classes = class_shares(store, layer, quantity)
    if sample is not None:
        shares = _shares_of_sample(store, layer, quantity, sample, target)
    else:
        shares = of_classes.of_all() if target is None else of_classes.of_class(target)
    order = np.argsort(-shares, kind="stable")[:most]
    return Concepts(
        store=store.path, layer=layer, quantity=quantity, target=target, sample=sample, of=len(shares),
        concepts=[
            RankedConcept(concept=concept, share=shares[concept], **_summary(of_classes, concept, names))
            for concept in order.tolist()
        ],
        dead=of_classes.dead.tolist(),
    )


def _shares_of_sample(
    store: ReferenceStore, layer: str, quantity: str, sample: int, target: int | None
) -> np.ndarray:
    rows = store.rows(quantity)
    chosen = np.flatnonzero(rows["sample"] == sample)
    if len(chosen) == 0:
        raise ValueError(f"{store.path} holds no sample {sample}; it holds {_ranges_in_words(store.ranges)}")
    if target is not None:
        chosen = np.intersect1d(chosen, store.rows_of_target(target, quantity))
    if len(chosen) != 1:
        targets = np.unique(store.targets[store.rows()["sample"] == sample]).tolist()
        raise ValueError(f"sample {sample} has the classes {targets}: say which of them with target=N")
    return np.asarray(store.values(layer, quantity, normalised=True)[chosen])[0]


def _ranges_in_words(ranges: list[list[int]]) -> str:
    return ", ".join(f"{first} to {stop - 1}" for first, stop in ranges[:6]) + (" ..." if len(ranges) > 6 else "")


def classes_of_concept(
    store: ReferenceStore, layer: str, concept: int, quantity: str, names: ClassNames
) -> Classes:
    """The classes that a concept serves."""
    check_concept(layer, concept, store.entry(layer).concepts)
    found = class_shares(store, layer, quantity)
    shares, portions = found.shares[:, concept], found.portions[:, concept]
    return Classes(
        store=store.path, layer=layer, quantity=quantity, concept=concept, share=found.of_all()[concept],
        classes=[
            ClassPortion(
                target=found.classes[i], name=names[found.classes[i]], samples=found.counts[i], share=shares[i],
                portion=portions[i],
            ) for i in np.argsort(-portions, kind="stable")
        ],
        **_summary(found, concept, names),
    )


def _summary(found: ClassShares, concept: int, names: ClassNames) -> dict[str, Any]:
    classes, portion = found.served(concept)
    return {
        "clarity": found.clarity[concept], "serves": names.of(classes), "portion": portion if len(classes) else None,
    }


def references_of_concept(
    store: ReferenceStore, layer: str, concept: int, quantity: str, names: ClassNames, *, target: int | None = None,
    most: int = 8,
) -> References:
    """The samples at which a concept is strongest, and where in the layer."""
    entry = store.entry(layer)
    found = store.top(layer, concept, quantity, most, target)
    if target is not None and len(found.samples) == 0 and most:
        class_shares(store, layer, quantity).of_class(target)  # refuses classes that are not there
    places = np.unravel_index(found.positions, entry.position_shape) if entry.position_shape else ()
    positions = np.transpose(places).tolist() if entry.has_positions and entry.position_shape else [None] * most
    if store.of_positions:
        positions = found.positions[:, None].tolist()
    targets: dict[int, list[int]] = {}
    if store.options["keep"] != "top":
        rows = store.rows()
        targets = {i: rows["target"][rows["sample"] == i].tolist() for i in found.samples.tolist()}
    return References(
        store=store.path, layer=layer, quantity=quantity, concept=concept, target=target,
        references=[
            Reference(
                sample=sample, value=value, position=position, targets=targets.get(sample),
                names=names.of(targets[sample]) if sample in targets else None,
            ) for sample, value, position in zip(found.samples.tolist(), found.values.tolist(), positions)
        ],
    )
