"""Rows of a matrix as points, and their clusters by HDBSCAN."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.analysis.arrays import as_array

if TYPE_CHECKING:
    import hdbscan

_BLOCK = 4096


@dataclass(frozen=True)
class Space:
    """How values become the points that are clustered: divided unit by unit, then projected on principal axes."""

    scale: np.ndarray
    mean: np.ndarray
    axes: np.ndarray | None = None

    def points(self, values: np.ndarray) -> np.ndarray:
        """Points [N, K] of values [N, D]."""
        scaled = np.asarray(values, np.float64) / self.scale
        return scaled if self.axes is None else (scaled - self.mean) @ self.axes.T


@dataclass(frozen=True)
class Clustering:
    """HDBSCAN of some points, its clusters numbered by descending persistence.

    The fitted object of the hdbscan package is made when it is needed: what is saved are the points.
    """

    points: np.ndarray
    options: dict

    @cached_property
    def fitted(self) -> hdbscan.HDBSCAN:
        import hdbscan  # which takes seconds to import

        return hdbscan.HDBSCAN(**self.options, core_dist_n_jobs=1).fit(self.points)

    @cached_property
    def persistence(self) -> np.ndarray:
        """[P], descending."""
        return np.sort(np.asarray(self.fitted.cluster_persistence_, np.float64))[::-1]

    def renumbered(self, labels: np.ndarray) -> np.ndarray:
        """Numbers of the fitted object as ours."""
        order = np.argsort(-np.asarray(self.fitted.cluster_persistence_), kind="stable")
        return np.append(np.argsort(order), -1)[labels]

    @cached_property
    def predicting(self) -> hdbscan.HDBSCAN:
        """The fitted object, ready to assign other points."""
        self.fitted.generate_prediction_data()
        return self.fitted

    @cached_property
    def own(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and outlier scores of the points themselves."""
        fitted = self.fitted
        return self.renumbered(fitted.labels_), fitted.probabilities_, np.nan_to_num(fitted.outlier_scores_)

    def of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and outlier scores of other points."""
        if not len(self.persistence) or not len(points):
            return np.full(len(points), -1), np.zeros(len(points)), np.zeros(len(points))
        import hdbscan

        labels, probability = hdbscan.approximate_predict(self.predicting, points)
        with np.errstate(invalid="ignore"):  # among equal points densities are infinite
            scores = hdbscan.approximate_predict_scores(self.predicting, points)
        found = self.renumbered(labels), probability, np.nan_to_num(scores)
        # what lies on a clustered point goes with it; hdbscan takes a cluster of equal points for noise
        equal = {place: self._row_of[key] for place, key in enumerate(_keys(points)) if key in self._row_of}
        for result, own in zip(found, self.own):
            result[list(equal)] = own[list(equal.values())]
        return found

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {key: row for row, key in enumerate(_keys(self.points))}


def as_values(values: Any) -> Any:
    """Something [N, D] whose rows can be read, from an array or tensor; a store's matrix stays as it is.

    Raises
    ------
    ValueError
        If it has other axes.
    """
    if not (isinstance(values, np.ndarray) or hasattr(values, "blocks")):  # which matrices of stores have
        values = as_array(values)
    if len(values.shape) != 2 or 0 in values.shape:
        raise ValueError(
            f"values are [rows, units], not of the shape {tuple(values.shape)}: crp.concepts.aggregate reads them from "
            "a layer's tensor"
        )
    return values


def _keys(points: np.ndarray) -> Iterator[bytes]:
    """A key for each point [N, K]; equal points have the same."""
    return (point.tobytes() for point in points.astype(np.float32) + 0.)


def check_assigning(epsilon: float) -> None:
    """Raise a ValueError if rows cannot be assigned to patterns found with this ``epsilon``."""
    if epsilon > 0:
        raise ValueError("hdbscan does not assign rows to patterns that epsilon has joined: take epsilon=0, or cluster "
                         "all rows with fit_samples=len(values)")


def _blocks(values: Any) -> Iterator[np.ndarray]:
    for first in range(0, values.shape[0], _BLOCK):
        yield np.asarray(values[first:first + _BLOCK])


def fit_space(values: Any, rows: np.ndarray, normalize: bool | str, components: int | None) -> Space:
    """The space in which rows are clustered: scales of all rows, principal axes of those that are to be clustered."""
    largest = np.zeros(values.shape[1])
    for block in _blocks(values):
        np.maximum(largest, np.abs(block).max(0), out=largest)
    if not np.isfinite(largest).all():
        raise ValueError(f"values hold NaN or infinite numbers, as in unit {int(np.argmin(np.isfinite(largest)))}")
    scale = np.where(largest > np.finfo(float).tiny, largest, np.inf) if normalize else np.ones_like(largest)
    if normalize == "mean_std":
        if len(scale) % 2:
            raise ValueError(f"normalize='mean_std' needs as many deviations as means, not {len(scale)} units")
        means = scale[:len(scale) // 2]
        scale = np.concatenate([means, np.sqrt(means)])
    space = Space(scale, np.zeros_like(scale))
    if components is None:
        return space
    from sklearn.decomposition import PCA  # which takes seconds to import

    pca = PCA(components, svd_solver="covariance_eigh").fit(space.points(np.asarray(values[rows])))
    return Space(scale, pca.mean_, pca.components_)


def assigned(
    clustering: Clustering, space: Space, values: Any, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Labels, probabilities and outlier scores of rows that were not clustered, some at a time, after the rows."""
    for first in range(0, len(rows), _BLOCK):
        part = rows[first:first + _BLOCK]
        yield part, clustering.of(space.points(np.asarray(values[part])))
