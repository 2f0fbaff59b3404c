"""Units of two models, checkpoints or layers on the same rows: correlations, predictions, common directions."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg

from crp.neurons.moments import mean_and_scale
from crp.neurons.values import UnitTable

_ACCUMULATED_BYTES = 2 ** 28
_ROWS = 1024


def check_same_rows(tables: list[UnitTable], names: list[str]) -> None:
    """Raise a ValueError if tables are not of the same rows, by their samples where these are known."""
    first = tables[0]
    for table, name in zip(tables[1:], names[1:]):
        if table.rows != first.rows:
            raise ValueError(f"{names[0]} has {first.rows} rows, {name} has {table.rows}: they are to be of the same")
        if first.samples is None or table.samples is None:
            continue
        differing = np.flatnonzero(first.samples != table.samples)
        if len(differing):
            row = int(differing[0])
            raise ValueError(
                f"row {row} is sample {first.samples[row]} in {names[0]}, but {table.samples[row]} in {name}"
            )


@dataclass(frozen=True)
class Standardised:
    """A table whose units have mean 0 and standard deviation 1; constant ones are 0."""

    table: UnitTable
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, table: UnitTable, rows: np.ndarray | None = None) -> Standardised:
        """By the mean and deviation over some rows."""
        return cls(table, *mean_and_scale(table, np.arange(table.rows) if rows is None else rows))

    def blocks(self, columns: slice | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, a few at a time, [some rows, units] float64."""
        chosen = slice(None) if columns is None else columns
        scale = np.where(self.scale > 0, self.scale, 1)[chosen]
        for rows, block in self.table.row_blocks(columns, _ROWS):
            values = (block - self.mean[chosen]) / scale
            values[:, self.scale[chosen] == 0] = 0
            yield rows, values


def correlations(a: Standardised, b: Standardised) -> Iterator[tuple[slice, np.ndarray]]:
    """Pearson correlations of all units of ``a`` and ``b``, some units of ``a`` at a time, [some, units of b]."""
    step = max(_ACCUMULATED_BYTES // (4 * b.table.units), 1)
    for first in range(0, a.table.units, step):
        columns = slice(first, min(first + step, a.table.units))
        found = torch.zeros(columns.stop - columns.start, b.table.units)
        for (_, of_a), (_, of_b) in zip(a.blocks(columns), b.blocks()):
            found.addmm_(torch.from_numpy(of_a).float().T, torch.from_numpy(of_b).float())
        yield columns, (found / a.table.rows).clamp_(-1, 1).numpy()


def best_partners(a: Standardised, b: Standardised) -> tuple[np.ndarray, np.ndarray]:
    """For each unit of ``a``, the unit of ``b`` with the largest absolute correlation, and this correlation."""
    partner, best = np.zeros(a.table.units, int), np.zeros(a.table.units)
    for columns, found in correlations(a, b):
        partner[columns] = np.abs(found).argmax(1)
        best[columns] = np.take_along_axis(found, partner[columns][:, None], 1)[:, 0]
    return partner, best


def resampled_correlations(
    a: Standardised, b: Standardised, partner: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """Absolute correlations of units with their partners in resamplings, [R, units of a]; ``drawn`` is [R, rows]."""
    sums = [np.zeros((len(drawn), a.table.units)) for _ in range(5)]
    for (rows, of_a), (_, of_b) in zip(a.blocks(), b.blocks()):
        weights, of_partner = drawn[:, rows].astype(np.float64), of_b[:, partner]
        for total, values in zip(sums, (of_a, of_partner, of_a ** 2, of_partner ** 2, of_a * of_partner)):
            total += weights @ values
    count = drawn.sum(1, dtype=float)[:, None]
    x, y, xx, yy, xy = (total / count for total in sums)
    spread = np.sqrt(np.maximum(xx - x ** 2, 0) * np.maximum(yy - y ** 2, 0))
    return np.abs(np.divide(xy - x * y, spread, out=np.zeros_like(spread), where=spread > 0))


def products(a: Standardised, b: Standardised, rows: np.ndarray) -> np.ndarray:
    """Mean products of all units over some rows, [units of a, units of b] float64."""
    found = np.zeros((a.table.units, b.table.units))
    for (span, of_a), (_, of_b) in zip(a.blocks(), b.blocks()):
        inside = rows[slice(*np.searchsorted(rows, (span.start, span.stop)))] - span.start
        found += of_a[inside].T @ of_b[inside]
    return found / len(rows)


def explained(
    a: UnitTable, b: UnitTable, fitted: np.ndarray, held: np.ndarray, drawn: np.ndarray
) -> np.ndarray:
    """How well least squares predict each unit of ``a`` from all of ``b``: R squared on rows held out.

    Parameters
    ----------
    a, b : UnitTable
    fitted, held : numpy.ndarray
        Rows, ascending.
    drawn : numpy.ndarray
        [R, held], resamplings of the rows that are held out.

    Returns
    -------
    numpy.ndarray
        [R, units of a]; 0 for constant ones.
    """
    of_a, of_b = Standardised.of(a, fitted), Standardised.of(b, fitted)
    weights = linalg.pinvh(products(of_b, of_b, fitted), rtol=1e-10) @ products(of_b, of_a, fitted)
    sums = [np.zeros((len(drawn), a.units)) for _ in range(3)]
    for (span, x), (_, y) in zip(of_b.blocks(), of_a.blocks()):
        part = slice(*np.searchsorted(held, (span.start, span.stop)))
        inside = held[part] - span.start
        times, y = drawn[:, part].astype(np.float64), y[inside]
        for total, values in zip(sums, ((y - x[inside] @ weights) ** 2, y, y ** 2)):
            total += times @ values
    count = drawn.sum(1, dtype=float)[:, None]
    wrong, mean, square = (total / count for total in sums)
    spread = square - mean ** 2
    return np.where(spread > 1e-12, 1 - wrong / np.where(spread > 1e-12, spread, 1), 0)


def common_directions(a: UnitTable, b: UnitTable, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Singular vector canonical correlation analysis (M. Raghu et al., 2017).

    Parameters
    ----------
    a, b : UnitTable
    variance : float
        The share of the variance that the principal components hold which are compared.

    Returns
    -------
    correlations : numpy.ndarray
        [D], descending.
    directions : numpy.ndarray
        [D, units of a], of ``a``: the coefficients of its centred units, for values of variance 1.
    """
    rows = np.arange(a.rows)
    one = np.ones
    of_a, of_b = (
        Standardised(table, mean_and_scale(table, rows)[0], one(table.units)) for table in (a, b)
    )
    whiten_a, whiten_b = (_whitening(products(of, of, rows), variance) for of in (of_a, of_b))
    left, found, _ = linalg.svd(whiten_a.T @ products(of_a, of_b, rows) @ whiten_b, full_matrices=False)
    return np.minimum(found, 1), (whiten_a @ left).T


def _whitening(covariance: np.ndarray, variance: float) -> np.ndarray:
    """[units, components], principal components that hold a share of the variance, with variance 1."""
    values, vectors = linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    values = np.maximum(values, 0)
    if values.sum() == 0:
        raise ValueError("all units are constant")
    count = int(np.searchsorted(values.cumsum() / values.sum(), variance - 1e-12)) + 1
    count = min(count, int((values > 1e-12 * values[0]).sum()))
    return vectors[:, :count] / np.sqrt(values[:count])
