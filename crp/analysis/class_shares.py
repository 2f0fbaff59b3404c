"""Which classes each concept of a layer serves, and how clearly."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crp.store.reader import ReferenceStore


@dataclass(frozen=True)
class ClassShares:
    """What the concepts of a layer hold of each class, in a store.

    Attributes
    ----------
    classes : numpy.ndarray
        [K], ascending.
    counts : numpy.ndarray
        [K], how many samples each class has.
    shares : numpy.ndarray
        [K, C], the part of a class's mean that a concept holds: with its sign, absolute values add up to 1 over the
        concepts. Zeros for classes whose mean is zero everywhere.
    """

    classes: np.ndarray
    counts: np.ndarray
    shares: np.ndarray

    @property
    def portions(self) -> np.ndarray:
        """[K, C], the part of a concept that a class holds: not negative, 1 over the classes, which all count alike.

        NaN for dead concepts.
        """
        return _portions(self.shares)

    def portions_of(self, concept: int) -> np.ndarray:
        """[K], the part of one concept that each class holds, as in :attr:`portions`."""
        return _portions(self.shares[:, concept])

    @property
    def clarity(self) -> np.ndarray:
        """[C], how few classes a concept serves, from 0 (all alike) to 1 (a single one); NaN for dead concepts.

        It is one minus the entropy of the concept's portions in units of that of all classes alike.
        """
        portions = self.portions
        surprise = np.log(portions, out=np.zeros_like(portions), where=portions > 0)
        return 1 + (portions * surprise).sum(0) / np.log(max(len(self.classes), 2))

    @property
    def dead(self) -> np.ndarray:
        """Ids of the concepts that are zero in every class."""
        return np.flatnonzero((self.shares == 0).all(0))

    def of_all(self) -> np.ndarray:
        """[C], the mean of the shares over the classes, which all count alike."""
        return self.shares.mean(0)

    def of_class(self, target: int) -> np.ndarray:
        """[C], the shares of one class.

        Raises
        ------
        ValueError
            If there is no sample of it.
        """
        if target not in self.classes:
            raise ValueError(f"there is no sample of class {target}; there are {self.classes.tolist()}")
        return self.shares[np.searchsorted(self.classes, target)]

    def served(self, concept: int, most: int = 3) -> tuple[np.ndarray, float]:
        """The classes that hold most of a concept, and the part that they hold together.

        Parameters
        ----------
        concept : int
        most : int, default 3
            How many classes at most. Those with less than half the portion of the first are left out.

        Returns
        -------
        classes : numpy.ndarray
            The strongest first; on ties, the lower. Empty for dead concepts.
        portion : float
        """
        portions = self.portions_of(concept)
        order = np.argsort(-portions, kind="stable")[:most]
        order = order[portions[order] >= portions[order[:1]] / 2]
        return self.classes[order], float(portions[order].sum())


def class_shares(store: ReferenceStore, layer: str, quantity: str = "relevance") -> ClassShares:
    """What the concepts of a layer hold of each class: of its relevance, or of its activation.

    Parameters
    ----------
    store : ReferenceStore
    layer : str
    quantity : {"relevance", "activation"}

    Returns
    -------
    ClassShares
        Of the classes' mean raw values.
    """
    return shares_of_means(*store.profile_of_classes(layer, quantity))


def shares_of_means(classes: np.ndarray, counts: np.ndarray, means: np.ndarray) -> ClassShares:
    """What concepts hold of classes, of the mean of each concept over each class [K, C]."""
    return ClassShares(classes, counts, _divided(means, np.abs(means).sum(1, keepdims=True), 0.))


def _portions(shares: np.ndarray) -> np.ndarray:
    amounts = np.abs(shares)
    return _divided(amounts, amounts.sum(0), np.nan)


def _divided(values: np.ndarray, sums: np.ndarray, otherwise: float) -> np.ndarray:
    """Values by sums; otherwise where a sum is zero."""
    return np.divide(values, sums, out=np.full(values.shape, otherwise), where=sums != 0)
