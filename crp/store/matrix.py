"""Matrices whose rows lie in several files."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from crp.store.folder import StoreError
from crp.store.stored_arrays import StoredArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class ShardedMatrix:
    """The rows of all shards as one array [rows, columns] that is read when it is indexed.

    Indexing by rows and columns gives a numpy array, as numpy would; ``numpy.asarray`` reads everything.

    Parameters
    ----------
    parts : list of numpy.ndarray or StoredArray
        One array per shard.
    totals : list of numpy.ndarray or StoredArray, optional
        [rows] per shard.
    apply_totals : callable, default numpy.divide
        What is done with the values and the totals of their rows.
    least : int, optional
        The least value that files may hold; a StoreError tells of others.
    """

    ndim = 2

    def __init__(
        self, parts: Sequence[np.ndarray | StoredArray], totals: Sequence[np.ndarray | StoredArray] | None = None,
        apply_totals: Callable = np.divide, least: int | None = None,
    ):
        self._parts, self._totals, self._apply_totals, self._least = parts, totals, apply_totals, least
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), parts[0].shape[1])
        self.dtype = np.dtype(np.float32) if parts[0].dtype == np.float16 else parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"ShardedMatrix(shape={self.shape}, dtype={self.dtype}, shards={len(self._parts)})"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = self[:]
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        rows, columns = index if isinstance(index, tuple) and len(index) == 2 else (index, slice(None))
        if isinstance(rows, slice) and rows == slice(None) and isinstance(columns, (int, np.integer, slice)):
            return np.concatenate([self._read(shard, slice(None), columns) for shard in range(len(self._parts))])
        whole_rows = isinstance(rows, (int, np.integer, slice)) or (
            isinstance(rows, (list, np.ndarray)) and np.ndim(rows) == 1
        )
        if isinstance(columns, slice) and whole_rows:
            wanted = np.arange(len(self))[rows]
            result = self._gather(np.atleast_1d(wanted), lambda shard, local, _: self._read(shard, local, columns))
            return result if np.ndim(wanted) else result[0]
        # numpy itself says which entries are meant; the arrays of numbers take no memory before they are indexed
        row_numbers = np.broadcast_to(np.arange(len(self))[:, None], self.shape)[index]
        column_numbers = np.broadcast_to(np.arange(self.shape[1]), self.shape)[index]
        return self._take(np.asarray(row_numbers), np.asarray(column_numbers))[()]

    def _take(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The entries at pairs of rows and columns."""
        flat_columns = columns.reshape(-1)
        taken = self._gather(
            rows.reshape(-1), lambda shard, local, places: self._read(shard, local, flat_columns[places])
        )
        return taken.reshape(rows.shape)

    def _gather(self, rows: np.ndarray, read: Callable) -> np.ndarray:
        """Join what ``read(shard, rows of the shard, places of these rows in the result)`` gives."""
        shard_of = np.searchsorted(self._ends, rows, side="right")
        pieces, places = [read(0, rows[:0], np.arange(0))], [np.arange(0)]
        for shard in np.unique(shard_of):
            place = np.flatnonzero(shard_of == shard)
            local = rows[place] - (self._ends[shard] - len(self._parts[shard]))
            pieces.append(read(shard, local, place))
            places.append(place)
        gathered = np.concatenate(pieces)
        result = np.empty_like(gathered)
        result[np.concatenate(places)] = gathered
        return result

    def placed_blocks(self, rows: int = 1024) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows in order, a few at a time, each time with where they are."""
        first = 0
        for block in self.blocks(rows):
            yield slice(first, first + len(block)), block
            first += len(block)

    def blocks(self, rows: int = 1024) -> Iterator[np.ndarray]:
        """All rows in order, a few at a time; read from the files, since pages that are mapped stay in memory."""
        pieces: list[np.ndarray] = []
        count = 0
        for piece in self._pieces(rows):
            if pieces and count + len(piece) > rows:
                yield np.concatenate(pieces)
                pieces, count = [], 0
            pieces.append(piece)
            count += len(piece)
        if pieces:
            yield np.concatenate(pieces)

    def _pieces(self, rows: int) -> Iterator[np.ndarray]:
        """The rows of each shard, a few at a time."""
        for shard, part in enumerate(self._parts):
            for first in range(0, len(part), rows):
                part_of_rows = slice(first, min(first + rows, len(part)))
                yield self._with_totals(_read_rows(part, part_of_rows), shard, part_of_rows)

    def span(self, first: int, stop: int) -> np.ndarray:
        """Rows from one to another; read from the files, as :meth:`blocks` does."""
        found = [np.empty((0, self.shape[1]), self.dtype)]
        for shard, part in enumerate(self._parts):
            start = int(self._ends[shard]) - len(part)
            rows = slice(max(first - start, 0), min(stop - start, len(part)))
            if rows.start < rows.stop:
                found.append(self._with_totals(_read_rows(part, rows), shard, rows))
        return np.concatenate(found[1:] or found)

    def take_columnwise(self, rows: np.ndarray) -> np.ndarray:
        """Entry [rows[c, i], c] of every column c, for ``rows`` [columns, k]."""
        if rows.size == 0:
            return np.empty(rows.shape, self.dtype)
        return self._take(rows, np.broadcast_to(np.arange(len(rows))[:, None], rows.shape))

    def _read(self, shard: int, rows: Any, columns: Any) -> np.ndarray:
        return self._with_totals(self._parts[shard][rows, columns], shard, rows)

    def _with_totals(self, values: np.ndarray, shard: int, rows: Any) -> np.ndarray:
        values = np.array(values, self.dtype)
        if self._least is not None and values.min(initial=self._least) < self._least:
            raise StoreError(f"{getattr(self._parts[shard], 'path', self)} is damaged: a number is out of range")
        if self._totals is None:
            return values
        total = floored(self._totals[shard][rows])
        return self._apply_totals(values, total[:, None] if values.ndim == 2 else total)


def _read_rows(part: np.ndarray | StoredArray, rows: slice) -> np.ndarray:
    """Rows of an array, past the map if it is in a file."""
    return part.rows(rows) if isinstance(part, StoredArray) else part[rows]


def floored(totals: np.ndarray) -> np.ndarray:
    """Totals to divide by: not zero."""
    return np.maximum(totals, np.finfo(np.float32).tiny)


def sums_of_classes(membership: csr_array, matrix: ShardedMatrix) -> np.ndarray:
    """[classes, concepts] float64: the sums of the rows of each class."""
    sums = np.zeros((membership.shape[0], matrix.shape[1]))
    for rows, block in matrix.placed_blocks():
        sums += membership[:, rows] @ block.astype(np.float64)
    return sums
