"""Sums by class over resampled rows, in one pass over values, and the scores that follow from them alone."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from crp.neurons.labels import Labels
from crp.neurons.values import UnitTable

_ACCUMULATED_BYTES = 2 ** 29


@dataclass(frozen=True)
class Moments:
    """Sums over rows, in several resamplings (R), the first of which holds each row once.

    Attributes
    ----------
    counts : numpy.ndarray
        [R, K, 1], rows of each class.
    sums : numpy.ndarray
        [R, K, U], of the values less ``shift``.
    squares : numpy.ndarray
        [R, U], of their squares, over all classes.
    products : numpy.ndarray
        [R, U], of the values and the centred labels; zeros where labels are no numbers.
    of_labels : numpy.ndarray
        [R, 2, 1], sums of the centred labels and of their squares.
    shift, lowest, highest : numpy.ndarray
        [U]
    """

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    products: np.ndarray
    of_labels: np.ndarray
    shift: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """[R, 1], how many rows there are."""
        return self.counts.sum(1)

    @property
    def means(self) -> np.ndarray:
        """[R, K, U], of each class; 0 for a class that a resampling lacks, beside a count of 0."""
        return self.sums / np.maximum(self.counts, 1) + self.shift

    @property
    def spread(self) -> np.ndarray:
        """[R, U], sums of the squared distances from the mean."""
        return np.maximum(self.squares - self.sums.sum(1) ** 2 / self.rows, 0)


def resamplings(
    labels: Labels, samples: np.ndarray | None, count: int, random_state: int | np.random.Generator | None
) -> np.ndarray:
    """How often each row is drawn, [1 + count, n] uint8: once each, then by the bootstrap.

    Whole samples are drawn where ``samples`` [n] says which rows belong together; otherwise rows, within each class.
    """
    random = np.random.default_rng(random_state)
    strata, group = labels.of_class, np.arange(len(labels.rows))
    if samples is not None and len(np.unique(samples)) < len(samples):
        _, group = np.unique(samples, return_inverse=True)
        strata = np.zeros(group.max() + 1, int)
    drawn = np.zeros((1 + count, len(labels.rows)), np.uint8)
    drawn[0] = 1
    for number in np.unique(strata):
        members = np.flatnonzero(strata == number)
        for resampling in drawn[1:]:
            times = np.bincount(random.integers(0, len(members), len(members)), minlength=len(members))
            of_group = np.zeros(len(strata), np.uint8)
            of_group[members] = np.minimum(times, 255)
            resampling += of_group[group]
    return drawn


def moments(table: UnitTable, labels: Labels, drawn: np.ndarray) -> Iterator[tuple[slice, Moments]]:
    """Moments of all units, a group at a time: their numbers and their moments."""
    classes = max(len(labels.classes), 1)
    step = max(_ACCUMULATED_BYTES // (8 * len(drawn) * classes), 1)
    for first in range(0, table.units, step):
        columns = slice(first, min(first + step, table.units))
        yield columns, _moments_of(table, labels, drawn, columns)


def _moments_of(table: UnitTable, labels: Labels, drawn: np.ndarray, columns: slice) -> Moments:
    classes, units = max(len(labels.classes), 1), columns.stop - columns.start
    counts, sums = np.zeros((len(drawn), classes, 1)), np.zeros((len(drawn), classes, units))
    squares, products = np.zeros((len(drawn), units)), np.zeros((len(drawn), units))
    of_labels = np.zeros((len(drawn), 2, 1))
    shift, lowest, highest = None, np.full(units, np.inf), np.full(units, -np.inf)
    centred = np.zeros(len(labels.rows)) if labels.classes else labels.values - labels.values.mean()
    for rows, block in table.row_blocks(columns):
        known = slice(*np.searchsorted(labels.rows, (rows.start, rows.stop)))
        if known.start == known.stop:
            continue
        values = block[labels.rows[known] - rows.start].astype(np.float64)
        shift = values[0].copy() if shift is None else shift
        lowest, highest = np.minimum(lowest, values.min(0)), np.maximum(highest, values.max(0))
        values -= shift
        of_class, weights = labels.of_class[known], drawn[:, known].astype(np.float64)
        for number in np.unique(of_class):
            inside = np.flatnonzero(of_class == number)
            counts[:, number, 0] += weights[:, inside].sum(1)
            sums[:, number] += weights[:, inside] @ values[inside]
        if not labels.classes:
            label = centred[known]
            products += (weights * label) @ values
            of_labels[:, :, 0] += weights @ np.stack([label, label ** 2], 1)
        squares += weights @ np.square(values, out=values)
    assert shift is not None
    return Moments(counts, sums, squares, products, of_labels, shift, lowest, highest)


def mean_and_scale(table: UnitTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each unit over some rows; a deviation of 0 for constant ones."""
    total, squares, shift = np.zeros(table.units), np.zeros(table.units), None
    for span, block in table.row_blocks():
        inside = rows[slice(*np.searchsorted(rows, (span.start, span.stop)))] - span.start
        if len(inside):
            values = block[inside].astype(np.float64)
            shift = values[0].copy() if shift is None else shift
            values -= shift  # of which constant units are zero exactly
            total += values.sum(0)
            squares += np.einsum("ij,ij->j", values, values)
    assert shift is not None
    mean = shift + total / len(rows)
    variance = np.maximum(squares - total ** 2 / len(rows), 0) / len(rows)
    return mean, np.sqrt(variance)


def variance(found: Moments) -> np.ndarray:
    """[R, U], over all rows."""
    return found.spread / found.rows


def f_statistic(found: Moments) -> np.ndarray:
    """[R, U], of one-way analysis of variance over all classes."""
    between = (found.sums ** 2 / np.maximum(found.counts, 1)).sum(1) - found.sums.sum(1) ** 2 / found.rows
    classes = (found.counts > 0).sum(1)
    return _ratio(between, classes - 1, found.spread - between, found.rows - classes)


def f_statistic_of_each(found: Moments) -> np.ndarray:
    """[K, U], of each class against the rest, in the first resampling."""
    sums, counts, rows = found.sums[0], found.counts[0], found.rows[0]
    rest = found.sums[0].sum(0) - sums
    between = sums ** 2 / counts + rest ** 2 / (rows - counts) - found.sums[0].sum(0) ** 2 / rows
    return _ratio(between, np.ones(1), found.spread[0] - between, rows - 2)


def f_statistic_of_numbers(found: Moments) -> np.ndarray:
    """[R, U], of the regression of a number on each unit."""
    total, squares = found.of_labels[:, 0], found.of_labels[:, 1]
    of_labels = squares - total ** 2 / found.rows
    together = found.products - found.sums.sum(1) * total / found.rows
    explained = np.divide(together ** 2, found.spread, out=np.zeros_like(together), where=found.spread > 0)
    return _ratio(explained, np.ones(1), of_labels - explained, found.rows - 2)


def _ratio(between: np.ndarray, of_between: np.ndarray, within: np.ndarray, of_within: np.ndarray) -> np.ndarray:
    """Mean squares; the largest number there is where classes explain everything.

    Raises
    ------
    ValueError
        If there are no more rows than classes.
    """
    if (of_within[0] <= 0).any() or (of_between[0] <= 0).any():
        raise ValueError("analysis of variance needs more rows than classes")
    of_within, of_between = np.maximum(of_within, 1), np.maximum(of_between, 1)
    between, within = np.maximum(between, 0), np.maximum(within, 0)
    scale = between + within
    within = np.where(within <= 1e-12 * scale, 0, within)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = (between / of_between) / (within / of_within)
    return np.nan_to_num(np.where(scale > 0, ratio, 0), nan=np.finfo(float).max, posinf=np.finfo(float).max)


def mean_differences(found: Moments) -> np.ndarray:
    """[R, U], sums of the distances between the means of all pairs of classes (probeless)."""
    means = np.sort(found.means, 1)
    classes = means.shape[1]
    weights = 2 * np.arange(classes) - classes + 1  # of the sorted means in the sum over pairs
    return np.einsum("k,rku->ru", weights.astype(float), means)


def mean_differences_of_each(found: Moments) -> np.ndarray:
    """[K, U], of each class from the others, in the first resampling."""
    means = found.means[0]
    return np.stack([np.abs(means - mean).sum(0) for mean in means])


def mean(found: Moments) -> np.ndarray:
    """[R, U], over all rows."""
    return (found.sums.sum(1) / found.rows) + found.shift


def mean_of_each(found: Moments) -> np.ndarray:
    """[K, U], in the first resampling."""
    return found.means[0]


def interval(replicates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Bias-corrected percentile intervals of 95 % (B. Efron, 1987).

    Parameters
    ----------
    replicates : numpy.ndarray
        [R, U], scores of the resamplings.
    scores : numpy.ndarray
        [U]

    Returns
    -------
    numpy.ndarray
        [U, 2], lower and upper bounds.
    """
    count = len(replicates)
    ordered = np.sort(replicates, 0)
    below = ((ordered < scores).sum(0) + (ordered <= scores).sum(0)) / 2
    shift = 2 * ndtri(np.clip(below / count, 1 / (count + 1), count / (count + 1)))
    bounds = []
    for end in ndtri([.025, .975]):
        place = np.clip(ndtr(shift + end) * (count - 1), 0, count - 1)
        lower, part = np.floor(place).astype(int), place % 1
        low, high = (
            np.take_along_axis(ordered, index[None], 0)[0] for index in (lower, np.minimum(lower + 1, count - 1))
        )
        bounds.append(low + part * (high - low))
    return np.stack(bounds, 1)

