"""The largest values of each column of a matrix that is read a few rows at a time."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


def top_rows(blocks: Iterable[np.ndarray], columns: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each column, the rows with the largest values.

    Only values above a column's k-th best so far are looked at, so that most of a block is passed by in one comparison.

    Parameters
    ----------
    blocks : iterable of numpy.ndarray
        [rows, columns], consecutive rows. NaN counts as the smallest value.
    columns : int
    k : int

    Returns
    -------
    rows : numpy.ndarray
        [columns, min(k, rows)] int64, by descending value; on ties the lower row comes first.
    values : numpy.ndarray
        [columns, min(k, rows)]
    """
    blocks = iter(blocks if k > 0 else ())
    head = _head(blocks, k)
    if not any(map(len, head)):
        return np.empty((columns, 0), dtype=np.int64), np.empty((columns, 0))
    values = np.concatenate(head)
    dtype, first = values.dtype, len(values)
    values = np.ascontiguousarray(np.where(np.isnan(values), -np.inf, values).T)
    best_rows = _places_of_best(values, k)
    best_values = np.take_along_axis(values, best_rows, 1)
    for block in blocks:
        # A later row that equals the k-th best comes after it, hence the strict comparison.
        rows, found = np.divmod(np.flatnonzero(block > best_values[:, -1]), columns)
        if len(rows):
            order = np.argsort(found.astype(np.min_scalar_type(columns)), kind="stable")
            rows, found = rows[order], found[order]
            _insert(best_rows, best_values, found, rows + first, block[rows, found])
        first += len(block)
    return best_rows, best_values.astype(dtype)


def _head(blocks: Iterator[np.ndarray], rows: int) -> list[np.ndarray]:
    """Take the first blocks, as many as have so many rows together."""
    head: list[np.ndarray] = []
    while sum(map(len, head)) < rows and (block := next(blocks, None)) is not None:
        head.append(block)
    return head


def _places_of_best(values: np.ndarray, k: int) -> np.ndarray:
    """Where in each line its k largest values are, the largest first; of equal ones the first."""
    k = min(k, values.shape[1])
    places = (np.flatnonzero(_are_best(values, k)) % values.shape[1]).reshape(len(values), k)
    order = np.argsort(-np.take_along_axis(values, places, 1), axis=1, kind="stable")
    return np.take_along_axis(places, order, 1)


def _are_best(values: np.ndarray, k: int) -> np.ndarray:
    """Which entries are the k largest of their line, without sorting them; of equal ones the first."""
    least = np.partition(values, -k, axis=1)[:, -k, None]
    larger, equal = values > least, values == least
    return larger | equal & (equal.cumsum(1, dtype=np.int32) <= k - larger.sum(1, keepdims=True))


def _insert(
    best_rows: np.ndarray, best_values: np.ndarray, columns: np.ndarray, rows: np.ndarray, values: np.ndarray
) -> None:
    """Merge candidates, sorted by column and row, into the best of their columns."""
    changed, starts, counts = np.unique(columns, return_index=True, return_counts=True)
    slot = np.arange(len(columns)) - np.repeat(starts, counts)
    line = np.repeat(np.arange(len(changed)), counts)
    new_rows = np.zeros((len(changed), counts.max()), dtype=np.int64)
    new_values = np.full(new_rows.shape, -np.inf, best_values.dtype)
    new_rows[line, slot], new_values[line, slot] = rows, values
    joined_values = np.concatenate([best_values[changed], new_values], 1)
    places = _places_of_best(joined_values, best_values.shape[1])
    best_values[changed] = np.take_along_axis(joined_values, places, 1)
    best_rows[changed] = np.take_along_axis(np.concatenate([best_rows[changed], new_rows], 1), places, 1)
