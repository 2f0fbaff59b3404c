"""Rows of a matrix as points, and their clusters by HDBSCAN."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.model.arrays import as_array

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

    Equal points, which it may spread over several clusters and noise, all go where most of those in a cluster are;
    clusters that lose all their points that way are none. The fitted object of the hdbscan package is made when it is
    needed: what is saved are the points.
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
        return self._fitted_persistence[self._order]

    def renumbered(self, labels: np.ndarray) -> np.ndarray:
        """Numbers of the fitted object as ours; those of clusters that are none as that of which took their points."""
        numbers = np.full(len(self._fitted_persistence) + 1, -1)
        numbers[self._order] = np.arange(len(self._order))
        for lost in np.setdiff1d(np.arange(len(numbers) - 1), self._order):
            numbers[lost] = numbers[self._labels[np.flatnonzero(self.fitted.labels_ == lost)[0]]]
        return numbers[labels]

    @property
    def _fitted_persistence(self) -> np.ndarray:
        return np.asarray(self.fitted.cluster_persistence_, np.float64)

    @cached_property
    def _order(self) -> np.ndarray:
        """The fitted object's numbers of the clusters that have points."""
        remaining = np.unique(self._labels[self._labels >= 0])
        return remaining[np.argsort(-self._fitted_persistence[remaining], kind="stable")]

    @cached_property
    def _labels(self) -> np.ndarray:
        """The fitted object's labels of the points, the same for equal points."""
        return self.fitted.labels_[self._representative]

    @cached_property
    def _representative(self) -> np.ndarray:
        """For each point, an equal one whose label holds for both: the firmest of those in the commonest cluster."""
        places: dict[bytes, list[int]] = {}
        for row, key in enumerate(_keys(self.points)):
            places.setdefault(key, []).append(row)
        labels, probability = self.fitted.labels_, self.fitted.probabilities_
        found = np.arange(len(self.points))
        for rows in places.values():
            in_clusters = [row for row in rows if labels[row] >= 0]
            if len(rows) > 1 and in_clusters:
                commonest = np.bincount(labels[in_clusters]).argmax()
                members = [row for row in in_clusters if labels[row] == commonest]
                found[rows] = members[int(np.argmax(probability[members]))]
        return found

    @cached_property
    def predicting(self) -> hdbscan.HDBSCAN:
        """The fitted object, ready to assign other points."""
        self.fitted.generate_prediction_data()
        return self.fitted

    @cached_property
    def own(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, probabilities and outlier scores of the points themselves."""
        rows, fitted = self._representative, self.fitted
        return self.renumbered(self._labels), fitted.probabilities_[rows], np.nan_to_num(fitted.outlier_scores_)[rows]

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
