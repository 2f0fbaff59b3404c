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
    best_rows = np.empty((columns, 0), dtype=np.int64)
    best_values = np.empty((columns, 0))
    first = 0
    for block in _doubling(blocks, k) if k > 0 else []:
        comparable = np.where(np.isnan(block), -np.inf, block)
        if best_rows.shape[1] < k:
            rows = np.broadcast_to(np.arange(first, first + len(block)), (columns, len(block)))
            best_rows, best_values = _best(
                np.concatenate([best_rows, rows], 1), np.concatenate([best_values, comparable.T], 1), k
            )
        else:
            # A later row that equals the k-th best comes after it, hence the strict comparison.
            candidate_columns, candidate_rows = np.nonzero((comparable > best_values[:, -1]).T)
            if len(candidate_columns):
                _insert(best_rows, best_values, candidate_columns, candidate_rows + first,
                        comparable[candidate_rows, candidate_columns])
        first += len(block)
    return best_rows, best_values.astype(block.dtype) if first else best_values


def _doubling(blocks: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """The same rows in pieces, of a few rows at first: few have to be sorted before there are values to beat."""
    for block in blocks:
        while len(block):
            yield block[:rows]
            block, rows = block[rows:], 2 * rows


def _best(rows: np.ndarray, values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best entries of each line, whose rows ascend where values are equal."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)


def _insert(best_rows, best_values, columns, rows, values) -> None:
    """Merge candidates, sorted by column and row, into the best of their columns."""
    changed, starts, counts = np.unique(columns, return_index=True, return_counts=True)
    slot = np.arange(len(columns)) - np.repeat(starts, counts)
    line = np.repeat(np.arange(len(changed)), counts)
    new_rows = np.zeros((len(changed), counts.max()), dtype=np.int64)
    new_values = np.full(new_rows.shape, -np.inf)
    new_rows[line, slot], new_values[line, slot] = rows, values
    best_rows[changed], best_values[changed] = _best(
        np.concatenate([best_rows[changed], new_rows], 1), np.concatenate([best_values[changed], new_values], 1),
        best_rows.shape[1],
    )
