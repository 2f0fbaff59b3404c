"""Values of units, read in blocks: an array, arrays by layer, or a store."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from crp.model.arrays import as_array
from crp.model.names import unknown_layer_message
from crp.store.folder import StoreError
from crp.store.reader import ReferenceStore

UnitId: TypeAlias = int | tuple[str, int]
_BLOCK_BYTES = 2 ** 27


class Source(NamedTuple):
    """The store and the quantity that values are of."""

    store: ReferenceStore
    quantity: str


@dataclass(frozen=True)
class UnitTable:
    """Values [rows, units] of one or several layers side by side, which are read in blocks.

    Attributes
    ----------
    matrices : dict
        Layer -> anything [rows, units] that can be sliced; the name of an array that has none is empty.
    samples : numpy.ndarray or None
        [rows], position of each row's sample in its dataset, where that is known.
    targets : numpy.ndarray or None
        [rows], classes that come with the values, -1 for none.
    source : Source or None
        The store they are from.
    """

    matrices: Mapping[str, Any]
    samples: np.ndarray | None = None
    targets: np.ndarray | None = None
    source: Source | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.matrices.values())))

    @property
    def sizes(self) -> list[int]:
        """Number of units of each layer."""
        return [int(matrix.shape[1]) for matrix in self.matrices.values()]

    @property
    def units(self) -> int:
        """Number of units of all layers."""
        return sum(self.sizes)

    def row_blocks(
        self, columns: slice | None = None, step: int | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """All rows, a few at a time: where they are, and [some rows, units], or some of their columns.

        ``step`` says how many rows; by default as many as fit.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        columns = slice(0, self.units) if columns is None else columns
        parts = list(self._parts(columns))
        step = step or max(_BLOCK_BYTES // (8 * (columns.stop - columns.start)), 16)
        for first in range(0, self.rows, step):
            rows = slice(first, min(first + step, self.rows))
            pieces = [self._checked(_span(matrix, rows)[:, part], layer, rows) for layer, matrix, part in parts]
            yield rows, pieces[0] if len(pieces) == 1 else np.concatenate(pieces, 1)

    def column_blocks(self, rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """All units, some at a time: their numbers, and their values at some rows, [rows, some units] float64."""
        step, first = max(_BLOCK_BYTES // (8 * max(len(rows), 1)), 1), 0
        for layer, matrix in self.matrices.items():
            for start in range(0, matrix.shape[1], step):
                part = slice(start, min(start + step, matrix.shape[1]))
                values = as_array(matrix[:, part])
                yield (
                    slice(first + part.start, first + part.stop),
                    self._checked(values[rows].astype(np.float64, copy=False), layer, rows),
                )
            first += matrix.shape[1]

    def subset(self, numbers: np.ndarray) -> UnitTable:
        """Some units, in this order, in memory."""
        chosen = np.concatenate([block[:, numbers] for _, block in self.row_blocks()])
        return replace(self, matrices={"": chosen})

    def shares(self) -> UnitTable:
        """The same units; of each row the absolute values, divided by their sum over a layer."""
        return replace(self, matrices={layer: _Made(matrix, _shares) for layer, matrix in self.matrices.items()})

    def absolute(self) -> UnitTable:
        """The same units, with absolute values."""
        return replace(self, matrices={layer: _Made(matrix, _absolute) for layer, matrix in self.matrices.items()})

    def _placed(self) -> Iterator[tuple[str, Any, int]]:
        """Layers, and the number of the first unit of each."""
        first = 0
        for layer, matrix in self.matrices.items():
            yield layer, matrix, first
            first += matrix.shape[1]

    def _parts(self, columns: slice) -> Iterator[tuple[str, Any, slice]]:
        """The layers that hold some columns, and which of theirs."""
        for layer, matrix, first in self._placed():
            start, stop = max(columns.start - first, 0), min(columns.stop - first, matrix.shape[1])
            if start < stop:
                yield layer, matrix, slice(start, stop)

    def _checked(self, values: np.ndarray, layer: str, rows: slice | np.ndarray) -> np.ndarray:
        if values.dtype.kind not in "fiub":
            raise TypeError(f"values are numbers, not {values.dtype}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            number = row + rows.start if isinstance(rows, slice) else int(rows[row])
            where = f" of {layer!r}" if layer else ""
            raise ValueError(f"row {number}{where} holds NaN or infinite values: leave it out")
        return values


@dataclass(frozen=True)
class _Made:
    """What is made of the rows of a matrix [rows, units], when they are read."""

    matrix: Any
    make: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def __len__(self) -> int:
        return len(self.matrix)

    def span(self, first: int, stop: int) -> np.ndarray:
        return self.make(_span(self.matrix, slice(first, stop)))


def _absolute(values: np.ndarray) -> np.ndarray:
    return np.abs(values if values.dtype.kind == "f" else values.astype(np.float64))


def _shares(values: np.ndarray) -> np.ndarray:
    """Absolute values, those of each row divided by their sum."""
    values = np.abs(values.astype(np.float64))
    total = values.sum(1, keepdims=True)
    return np.divide(values, total, out=values, where=total > 0)


def unit_table(values: Any, layers: Any = None, quantity: str = "activation") -> UnitTable:
    """The values that a caller gives.

    Parameters
    ----------
    values : array-like, dict or ReferenceStore
        [rows, units]; layer -> such an array; or a store.
    layers : str or list of str, optional
        Which layers of a dict or store; by default all.
    quantity : {"activation", "relevance"}
        Of a store.

    Raises
    ------
    ValueError, TypeError
        If a layer is not there, or values have other shapes.
    """
    if isinstance(values, ReferenceStore):
        names = values.layers if layers is None else _names(layers)
        matrices = {layer: values.values(layer, quantity) for layer in names}
        rows = values.rows(quantity)
        try:
            targets: np.ndarray | None = values.targets_of_rows(quantity)
        except StoreError:  # samples with several
            targets = None
        return UnitTable(
            matrices, rows["sample"], targets, Source(values, quantity)
        )
    if isinstance(values, Mapping):
        names = list(values) if layers is None else _names(layers)
        for layer in names:
            if layer not in values:
                raise ValueError(unknown_layer_message(layer, values))
        matrices = {layer: _as_matrix(values[layer], f"values[{layer!r}]") for layer in names}
    elif layers is not None:
        raise TypeError("layers= chooses from a store or a dict; an array holds the units of one")
    else:
        matrices = {"": _as_matrix(values, "values")}
    if not matrices:
        raise ValueError("there is no layer to look at")
    lengths = {layer: len(matrix) for layer, matrix in matrices.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the layers differ in their number of rows: {lengths}")
    return UnitTable(matrices)


def _span(matrix: Any, rows: slice) -> np.ndarray:
    """Rows of a matrix; of a store's not by its map, whose pages would stay in memory."""
    return matrix.span(rows.start, rows.stop) if hasattr(matrix, "span") else as_array(matrix[rows])


def _names(layers: Any) -> list[str]:
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    if not names:
        raise ValueError("layers is empty: name at least one")
    return names


def _as_matrix(values: Any, name: str) -> Any:
    """An array [rows, units]; one that is on the disk stays there."""
    matrix = values if hasattr(values, "shape") and hasattr(values, "__getitem__") and not hasattr(values, "iloc") \
        else as_array(values)
    if len(matrix.shape) != 2:
        raise ValueError(
            f"{name} is [rows, units], not of the shape {tuple(matrix.shape)}; positions are rows of their own, or "
            "reduced first, such as by .sum((2, 3))"
        )
    if 0 in matrix.shape:
        raise ValueError(f"{name} is empty: it has the shape {tuple(matrix.shape)}")
    return matrix

