"""Prototypes of a class: the typical ways in which concepts add up to a prediction (PCX)."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.model.arrays import as_float_array
from crp.store.reader import ReferenceStore, StoreError

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

REGULARISATION = 1e-2


@dataclass(frozen=True)
class ClassPrototypes:
    """A Gaussian mixture over the profiles of a class; its means are the prototypes.

    A profile is a row of concept values divided by the sum of their absolute values.

    Attributes
    ----------
    layer : str
    target : int
    means : numpy.ndarray
        [n, C], the prototypes, the most frequent first.
    weights : numpy.ndarray
        [n], the share of the class that each stands for.
    samples : numpy.ndarray
        [N], positions in the dataset of the samples of the class.
    profiles : numpy.ndarray
        [N, C], their profiles.
    labels : numpy.ndarray
        [N], the prototype of each.
    log_likelihoods : numpy.ndarray
        [N], how usual each is for its class.

    References
    ----------
    M. Dreyer, R. Achtibat, W. Samek, S. Lapuschkin (2024). Understanding the (Extra-)Ordinary: Validating Deep Model
    Decisions with Prototypical Concept-based Explanations. CVPR Workshops.
    """

    layer: str
    target: int
    means: np.ndarray
    weights: np.ndarray
    samples: np.ndarray
    profiles: np.ndarray
    labels: np.ndarray
    log_likelihoods: np.ndarray
    _mixture: GaussianMixture = field(repr=False)
    _order: np.ndarray = field(repr=False)
    _unit: float = field(repr=False)

    def __len__(self) -> int:
        """Number of prototypes."""
        return len(self.means)

    def nearest(self, prototype: int, k: int = 8) -> np.ndarray:
        """Samples whose profiles are nearest to a prototype, the nearest first; on ties the lower one."""
        if not 0 <= prototype < len(self):
            raise IndexError(f"there is no prototype {prototype}: there are {len(self)}, numbered from 0")
        distances = np.linalg.norm(self.profiles - self.means[prototype], axis=1)
        return self.samples[np.argsort(distances, kind="stable")[:k]]

    def assign(self, values: Any) -> np.ndarray:
        """The prototype of each row of values [M, C]."""
        return np.argsort(self._order)[self._mixture.predict(self._points(values))]

    def log_likelihood(self, values: Any) -> np.ndarray:
        """How usual rows of values [M, C] are for the class: the log density of the mixture, up to a constant."""
        return self._mixture.score_samples(self._points(values))

    def is_unusual(self, values: Any, quantile: float = 0.05) -> np.ndarray:
        """Which rows of values [M, C] are less likely than this share of the class's own samples."""
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is from 0 to 1, not {quantile}")
        return self.log_likelihood(values) < np.quantile(self.log_likelihoods, quantile)

    def difference(self, values: Any) -> np.ndarray:
        """Per concept, how much more share it has in each row of values [M, C] than in the row's prototype."""
        return _profiles(values, self.means.shape[1]) - self.means[self.assign(values)]

    def _points(self, values: Any) -> np.ndarray:
        return _profiles(values, self.means.shape[1]) / self._unit


def class_prototypes(
    store: ReferenceStore, layer: str, target: int, n: int = 4, *, quantity: str = "relevance",
    covariance: str = "full", random_state: Any = None,
) -> ClassPrototypes:
    """Find the prototypes of a class in what has been swept.

    Parameters
    ----------
    store : ReferenceStore
    layer : str
    target : int
        The class.
    n : int, default 4
        Number of prototypes.
    quantity : {"relevance", "activation"}
    covariance : {"full", "diag"}
        Of each Gaussian. "full" needs more samples than concepts to say much about single samples; "diag" fewer.
    random_state : int or None
        Starts the mixture.

    Returns
    -------
    ClassPrototypes

    Raises
    ------
    StoreError
        If the class has fewer than two samples per prototype.
    """
    rows = store.rows_of_target(target, quantity)
    if n < 1:
        raise ValueError(f"n is at least 1, not {n}")
    if covariance not in ("full", "diag"):
        raise ValueError(f"covariance is 'full' or 'diag', not {covariance!r}")
    if len(rows) < 2 * n:
        raise StoreError(f"{n} prototypes need {2 * n} samples, but the store has {len(rows)} of class {target}")
    matrix = store.values(layer, quantity)
    profiles = _profiles(matrix[rows], matrix.shape[1])
    unit = float(np.sqrt(profiles.var(0).mean())) or 1.
    from sklearn.mixture import GaussianMixture  # which takes seconds to import

    mixture = GaussianMixture(n, covariance_type=covariance, reg_covar=REGULARISATION, random_state=random_state)
    mixture.fit(profiles / unit)
    order = np.argsort(-mixture.weights_, kind="stable")
    return ClassPrototypes(
        layer, int(target), mixture.means_[order] * unit, mixture.weights_[order], store.rows(quantity)["sample"][rows],
        profiles, np.argsort(order)[mixture.predict(profiles / unit)], mixture.score_samples(profiles / unit),
        mixture, order, unit,
    )


def _profiles(values: Any, concepts: int) -> np.ndarray:
    """Rows divided by the sum of their absolute values, in float64."""
    values = as_float_array(values)
    if values.ndim != 2 or values.shape[1] != concepts:
        raise ValueError(f"values are [rows, {concepts}], not of the shape {values.shape}")
    values = values.astype(np.float64)
    return values / np.maximum(np.abs(values).sum(1, keepdims=True), np.finfo(float).tiny)
