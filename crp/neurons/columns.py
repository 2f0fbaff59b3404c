"""Scores that look at the values of each unit by themselves, sorted or compared with their neighbours."""
from __future__ import annotations

import numpy as np

from crp.neurons.labels import Labels


def mean_distance(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean distance of values from their mean.

    Parameters
    ----------
    values : numpy.ndarray
        [n, U]
    weights : numpy.ndarray
        [R, n], how often each row counts.

    Returns
    -------
    numpy.ndarray
        [R, U]
    """
    rows = weights.sum(1, keepdims=True)
    means = weights @ values / rows
    return np.stack([row @ np.abs(values - mean) for row, mean in zip(weights, means)]) / rows


class SortedColumns:
    """Values [n, U] in descending order, where equal ones stand together, as one threshold tells them from others."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(-values, axis=0, kind="stable")
        ordered = np.take_along_axis(values, self.order, 0)
        place = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
        is_last = np.ones(values.shape, bool)
        is_last[:-1] = ordered[1:] != ordered[:-1]
        last = np.where(is_last, place, len(values) - 1)
        self.last = np.minimum.accumulate(last[::-1], axis=0)[::-1]

    def average_precision(self, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Average precision of each unit as a detector: precision at each positive row, averaged over these.

        Parameters
        ----------
        is_positive : numpy.ndarray
            [n] or [n, U], True for the rows that are to be detected.
        weights : numpy.ndarray
            [n], how often each row counts.

        Returns
        -------
        numpy.ndarray
            [U]
        """
        counted = weights[self.order].astype(np.float64)
        columns = is_positive[:, None] if is_positive.ndim == 1 else is_positive
        positive = counted * np.take_along_axis(np.broadcast_to(columns, self.order.shape), self.order, 0)
        found = np.take_along_axis(positive.cumsum(0), self.last, 0)
        shown = np.take_along_axis(counted.cumsum(0), self.last, 0)
        precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
        return (positive * precision).sum(0) / positive.sum(0)


def above_chance(precision: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Average precision in units of what there is to gain: 0 for that of chance, the share of the class; 1 at best."""
    return (precision - share) / (1 - share)


def mutual_information(
    values: np.ndarray, labels: Labels, neighbours: int, random_state: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Mutual information of each unit and the labels, and of each unit and each class against the rest, in nats.

    Parameters
    ----------
    values : numpy.ndarray
        [n, U]
    labels : Labels
    neighbours : int
        See :func:`sklearn.feature_selection.mutual_info_classif`.
    random_state : int or None

    Returns
    -------
    numpy.ndarray, numpy.ndarray
        [U] and [K, U]; no class for numbers.
    """
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression  # which takes seconds to import

    scale = values.std(0)  # beside 1, since noise of a fixed size is added that parts equal values
    values = (values - values.mean(0)) / np.where(scale > 0, scale, 1)
    how = {"n_neighbors": neighbours, "random_state": random_state}
    if not labels.classes:
        return mutual_info_regression(values, labels.values, **how), np.empty((0, values.shape[1]))
    overall = mutual_info_classif(values, labels.of_class, **how)
    if len(labels.classes) == 2:
        return overall, np.stack([overall, overall])
    return overall, np.stack([
        mutual_info_classif(values, labels.of_class == number, **how) for number in range(len(labels.classes))
    ])
