"""Reads a store: matrices, tables and the answers that come from them."""
from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.model.names import unknown_layer_message
from crp.store.contents import check_class_sums, check_classes, check_rows, check_table
from crp.store.files import (
    MATRIX_OF,
    QUANTITIES,
    ROW_FIELDS,
    TABLE_DEPTH,
    TOTAL_OF,
    class_sum_name,
    stored_statistics,
    table_name,
)
from crp.store.folder import StoreError
from crp.store.matrix import ShardedMatrix, sums_of_classes
from crp.store.place import Place, place_of_store
from crp.store.references import References, check_concept
from crp.store.schema import LayerEntry, Seal, ShardRecord
from crp.store.stored_arrays import StoredArray, StoredArrays
from crp.store.topk import top_rows

if TYPE_CHECKING:
    import xarray
    from scipy.sparse import csr_array


class ReferenceStore:
    """What a finished sweep found, read from its folder.

    Parameters
    ----------
    path : str or Path
        The folder given to ``FeatureVisualization``.

    Raises
    ------
    StoreError
        If there is no store, its sweep has not finished, or its files cannot be read.

    Examples
    --------
    >>> store = ReferenceStore("FeatureVisualization")  # doctest: +SKIP
    >>> samples, values, positions = store.top("features.28", 5, k=8)  # doctest: +SKIP
    """

    def __init__(self, path: str | Path):
        place = place_of_store(path)
        self._open(place, *place.seal(), {})

    @classmethod
    def at(cls, place: Place) -> ReferenceStore:
        """The store of a sweep that has finished."""
        store = cls.__new__(cls)
        store._open(place, *place.seal(), {})
        return store

    @classmethod
    def unsealed(cls, place: Place, shards: Mapping[str, ShardRecord | None]) -> ReferenceStore:
        """The shards of a store that is not finished: matrices, but no tables.

        Parameters
        ----------
        place : Place
        shards : dict
            Name of the folder of each shard -> its record; None for one that is being written.
        """
        store = cls.__new__(cls)
        store._open(place, None, "", shards)
        return store

    def _open(self, place: Place, seal: Seal | None, identity: str, shards: Mapping[str, ShardRecord | None]) -> None:
        self.place, self._seal, self._identity = place, seal, identity
        self.path, self.manifest = place.path, place.manifest
        has_matrices = seal is None or self.manifest.settings.options.keep == "all"
        self._arrays = StoredArrays(place, seal, shards, has_matrices)
        self.shards = self._arrays.shards
        self._checked: set[str] = set()
        self._entries = {entry.name: entry for entry in self.manifest.settings.layers}

    def __reduce__(self) -> tuple:
        if self._seal is None:
            raise TypeError("a store that is not finished cannot be copied")
        return _opened_again, (type(self), self.place, self._identity)

    def __repr__(self) -> str:
        samples = sum(stop - first for first, stop in self.ranges)
        return f"ReferenceStore({str(self.path)!r}, samples={samples}, layers={len(self._entries)})"

    def identity(self) -> str:
        """A hash that tells the sweep that the store held when it was opened from all others."""
        return self._identity

    @property
    def options(self) -> dict[str, Any]:
        """The options of the sweep: batch_size, checkpoint, max_target, keep, dtype."""
        return self.manifest.settings.options.model_dump()

    @property
    def of_positions(self) -> bool:
        """Whether rows are positions of samples, such as tokens, instead of whole samples."""
        return self.manifest.settings.options.rows == "positions"

    @property
    def statistics(self) -> list[str]:
        """The statistics over positions that the store holds."""
        return stored_statistics(self.manifest.settings.options.max_target)

    @property
    def ranges(self) -> list[list[int]]:
        """The samples that were swept, as ranges (first, stop)."""
        return self._seal.samples if self._seal else []

    @property
    def skipped(self) -> dict[int, str]:
        """Samples that were left out with ``on_error="skip"``, and what was wrong with them."""
        return {int(sample): reason for sample, reason in self._seal.skipped.items()} if self._seal else {}

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order of the model."""
        return list(self._entries)

    def concepts(self, layer: str) -> range:
        """Ids of the concepts of a layer."""
        return range(self.entry(layer).concepts)

    def entry(self, layer: str) -> LayerEntry:
        """What the manifest says of a layer."""
        if layer not in self._entries:
            raise StoreError(f"{self.path}: {unknown_layer_message(layer, self._entries)}")
        return self._entries[layer]

    def rows(self, quantity: str = "relevance") -> np.ndarray:
        """Sample, target, position and prediction of each row, as a structured array.

        Relevance has a row per (sample, target), activation one per sample; or one for each position of these, in
        sweeps with ``rows="positions"``. -1 stands for none.
        """
        name = f"{_quantity(quantity)}.rows"
        stored = self._arrays.of_shards(name)
        parts = [part[:].copy() for part in stored]  # a part of a map would keep its file open
        if name not in self._checked:
            for shard, part, rows in zip(self.shards, stored, parts):
                record = self._arrays.record(shard)
                if record is not None:
                    check_rows(rows, record, quantity, self.of_positions, part.path)
            self._checked.add(name)
        return np.concatenate(parts)

    @property
    def targets(self) -> np.ndarray:
        """Target of each row of relevance."""
        return self.rows()["target"]

    def targets_of_rows(self, quantity: str = "relevance") -> np.ndarray:
        """Target of each row of a quantity; activation has a row per sample.

        Raises
        ------
        StoreError
            If samples have several targets, so that a row of activation has no single one.
        """
        if _quantity(quantity) == "relevance":
            return self.targets
        pairs = self.rows()
        if not np.array_equal(pairs["sample"], self.rows(quantity)["sample"]):
            raise StoreError(f"{self.path}: samples have several targets, so activations belong to no single class; "
                             "relevance has a row for each")
        return pairs["target"]

    @property
    def predictions(self) -> np.ndarray:
        """Predicted class of each row of relevance; -1 for models that do not predict one class."""
        return self.rows()["prediction"]

    def values(
        self, layer: str, quantity: str = "relevance", *, statistic: str = "sum", normalised: bool = False
    ) -> ShardedMatrix:
        """The matrix of a layer.

        Parameters
        ----------
        layer : str
        quantity : {"relevance", "activation"}
        statistic : {"sum", "max"}
            Over positions; "max" only if the sweep was asked for it.
        normalised : bool, default False
            Divide each row by the sum of its absolute values.

        Returns
        -------
        ShardedMatrix
            [rows, concepts] float32
        """
        parts = self._matrix(layer, quantity, MATRIX_OF, statistic)
        holds_shares = self.manifest.settings.options.dtype == "float16"
        if normalised == holds_shares:
            return ShardedMatrix(parts)
        totals = self._matrix(layer, quantity, TOTAL_OF, statistic)
        return ShardedMatrix(parts, totals, np.multiply if holds_shares else np.divide)

    def totals(self, layer: str, quantity: str = "relevance", *, statistic: str = "sum") -> np.ndarray:
        """The sum of absolute values in each row of a matrix, by which :meth:`values` divides: [rows] float32."""
        return np.concatenate([part[:] for part in self._matrix(layer, quantity, TOTAL_OF, statistic)])

    def positions(self, layer: str, quantity: str = "relevance") -> ShardedMatrix:
        """Flat index of each concept's strongest position, [rows, concepts] int32."""
        entry = self.entry(layer)
        if self.of_positions:
            own = (part[:]["position"].astype(np.int32) for part in self._arrays.of_shards(
                f"{_quantity(quantity)}.rows"
            ))
            return ShardedMatrix([np.broadcast_to(part[:, None], (len(part), entry.concepts)) for part in own])
        if entry.has_positions:
            parts = self._arrays.of_shards(f"{entry.key}.{_quantity(quantity)}.position")
            return ShardedMatrix(parts, least=0)
        counts = [len(part) for part in self._arrays.of_shards(f"{_quantity(quantity)}.rows")]
        return ShardedMatrix([np.broadcast_to(np.int32(0), (count, entry.concepts)) for count in counts])

    def rows_of_target(self, target: int, quantity: str = "relevance") -> np.ndarray:
        """Numbers of the rows of one class, ascending; for activations, of samples that have it among their targets."""
        relevance_rows = self.rows()
        is_target = relevance_rows["target"] == _whole_number("target", target)
        if _quantity(quantity) == "relevance":
            return np.flatnonzero(is_target)
        return np.flatnonzero(np.isin(self.rows(quantity)["sample"], relevance_rows["sample"][is_target]))

    def top(
        self,
        layer: str,
        concept: int,
        quantity: str = "relevance",
        k: int = 8,
        target: int | None = None,
        *,
        statistic: str = "sum",
        normalised: bool = True,
    ) -> References:
        """The samples at which a concept is strongest.

        Parameters
        ----------
        layer : str
        concept : int
        quantity : {"relevance", "activation"}
        k : int, default 8
            How many; fewer come back if there are fewer.
        target : int, optional
            Only samples of this class.
        statistic : {"sum", "max"}
        normalised : bool, default True
            Rank by each sample's share of the layer instead of the raw value.

        Returns
        -------
        References
            ``samples, values, positions``, in descending order; on ties, the lower sample first.
        """
        check_concept(layer, concept, self.entry(layer).concepts)
        k = _whole_number("k", k)
        if k < 0:
            raise ValueError(f"k is not negative, as {k} is")
        if target is None and k <= TABLE_DEPTH:
            best = self.table(layer, quantity, statistic=statistic, normalised=normalised)[concept, :k]
            return References(*(np.array(best[field]) for field in ("sample", "value", "position")))
        rows = None if target is None else self.rows_of_target(target, quantity)
        matrix = self.values(layer, quantity, statistic=statistic, normalised=normalised)
        column = matrix[slice(None) if rows is None else rows, concept]
        order = np.argsort(-column, kind="stable")[:k]
        best = order if rows is None else rows[order]
        samples = self.rows(quantity)["sample"][best]
        positions = self.positions(layer, quantity)[best, concept]
        return References(samples, column[order], positions)

    def table(
        self, layer: str, quantity: str = "relevance", *, statistic: str = "sum", normalised: bool = True
    ) -> np.ndarray:
        """The top rows of each concept: [concepts, up to 40] with the fields row, sample, position and value."""
        self._check_statistic(statistic)
        entry = self.entry(layer)
        name = table_name(entry.key, _quantity(quantity), statistic, normalised)
        table = self._arrays.table(name)
        if name not in self._checked:
            check_table(table[:], 2 ** 63 - 1, 0, self.manifest.settings.dataset.length, table.path)
            self._checked.add(name)
        return table[:]

    def profile_of_classes(self, layer: str, quantity: str = "relevance") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The mean of each concept over the samples of each class.

        Returns
        -------
        classes, counts : numpy.ndarray
            [classes], ascending; how many samples each has.
        means : numpy.ndarray
            [classes, concepts]
        """
        key = self.entry(layer).key
        if self.manifest.settings.options.keep == "top":
            names = class_sum_name(key, _quantity(quantity)), "classes", f"{quantity}.class_count"
            sums, classes, counts = (self._arrays.table(name)[:] for name in names)
            check_classes(classes, counts, self.place.folder / "tables" / "classes.npy")
            check_class_sums(sums, classes, self._arrays.table(names[0]).path)
        else:
            classes, counts, membership = self.membership(quantity)
            sums = sums_of_classes(membership, self.values(layer, quantity))
        return classes, counts, sums / np.maximum(counts, 1)[:, None]

    def membership(self, quantity: str) -> tuple[np.ndarray, np.ndarray, csr_array]:
        """The classes, how many rows each has, and which: [classes, rows] of zeros and ones."""
        from scipy.sparse import csr_array  # which takes longer to import than to open a store

        pairs = self.rows()
        classes, number = np.unique(pairs["target"], return_inverse=True)
        row = self._rows_of_pairs(quantity)
        shape = len(classes), len(self.rows(quantity))
        membership = csr_array((np.ones(len(row)), (number, row)), shape=shape)
        return classes, np.bincount(number, minlength=len(classes)), membership

    def _rows_of_pairs(self, quantity: str) -> np.ndarray:
        """For each row of relevance, the row of a quantity with its sample, and its position where rows have one."""
        pairs = self.rows()
        if _quantity(quantity) == "relevance":
            return np.arange(len(pairs))
        own = self.rows(quantity)
        width = 2 + max(pairs["position"].max(initial=-1), own["position"].max(initial=-1))
        place, among = (rows["sample"] * width + rows["position"] + 1 for rows in (pairs, own))
        return np.searchsorted(among, place)

    def class_means(
        self, layer: str, concept: int, quantity: str, n: int, *, statistic: str = "sum", normalised: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per class, the mean of a concept's ``n`` largest values.

        Returns
        -------
        targets, means : numpy.ndarray
            [classes], classes ascending.
        """
        check_concept(layer, concept, self.entry(layer).concepts)
        if _whole_number("n", n) < 1:
            raise ValueError(f"n is at least 1, not {n}")
        column = self.values(layer, quantity, statistic=statistic, normalised=normalised)[:, concept]
        pairs = self.rows()
        values = column[self._rows_of_pairs(quantity)]
        order = np.lexsort((-values, pairs["target"]))
        targets, starts, counts = np.unique(pairs["target"][order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(starts, counts)
        counted = np.repeat(np.arange(len(targets)), counts)[rank < n]
        sums = np.bincount(counted, values[order][rank < n], len(targets))
        return targets, sums / np.minimum(counts, n)

    def sorted_rows(
        self, layer: str, quantity: str = "relevance", target: int | None = None, *, statistic: str = "sum",
        normalised: bool = True, k: int = TABLE_DEPTH,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples, values and positions of the top rows of all concepts at once, each [up to k, concepts]."""
        if target is None and k <= TABLE_DEPTH:
            table = self.table(layer, quantity, statistic=statistic, normalised=normalised)[:, :k].T
            return table["sample"], table["value"], table["position"]
        matrix = self.values(layer, quantity, statistic=statistic, normalised=normalised)
        if target is None:
            best, values = top_rows(matrix.blocks(), matrix.shape[1], k)
        else:
            rows = self.rows_of_target(target, quantity)
            if len(rows) == 0:
                classes = np.unique(self.targets).tolist()
                raise StoreError(f"{self.path} holds no sample of class {target}; it holds {classes}")
            blocks = (matrix[rows[first:first + 1024]] for first in range(0, len(rows), 1024))
            best, values = top_rows(blocks, matrix.shape[1], k)
            best = rows[best]
        positions = self.positions(layer, quantity).take_columnwise(best)
        return self.rows(quantity)["sample"][best].T, values.T, positions.T

    def attached_stem(self, layer: str, quantity: str) -> str:
        """What the names of the files begin with that keep patterns of a layer."""
        return f"{self.entry(layer).key}.{_quantity(quantity)}"

    def to_xarray(self) -> xarray.Dataset:
        """The store as an ``xarray.Dataset`` with named dimensions. Needs ``pip install crp-concepts[xarray]``.

        Returns
        -------
        xarray.Dataset
            ``"<layer>.<quantity>"`` [row, concept of the layer] and, per quantity, the rows' sample, target, position
            and prediction. Everything is read into memory.
        """
        try:
            import xarray
        except ImportError:
            raise ImportError("to_xarray needs xarray: pip install 'crp-concepts[xarray]'") from None
        data: dict[str, Any] = {}
        for quantity in QUANTITIES:
            rows = self.rows(quantity)
            data.update({f"{quantity}.{name}": (f"{quantity}.row", rows[name]) for name in ROW_FIELDS})
            for layer in self.layers:
                dimensions = (f"{quantity}.row", f"{layer}.concept")
                data[f"{layer}.{quantity}"] = (dimensions, np.asarray(self.values(layer, quantity)))
        return xarray.Dataset(data)

    def _matrix(self, layer: str, quantity: str, names: Mapping[str, str], statistic: str) -> list[StoredArray]:
        self._check_statistic(statistic)
        return self._arrays.of_shards(f"{self.entry(layer).key}.{_quantity(quantity)}.{names[statistic]}")

    def _check_statistic(self, statistic: str) -> None:
        if statistic not in MATRIX_OF:
            raise StoreError(f"statistic is 'sum' or 'max', not {statistic!r}")
        if statistic not in self.statistics:
            raise StoreError(
                f"{self.path} holds the statistics {self.statistics}, not {statistic!r}: sweep with max_target='max'"
            )


def _opened_again(cls: type[ReferenceStore], place: Place, identity: str) -> ReferenceStore:
    """A copy of a store, opened where that lies; a StoreError if another sweep is there."""
    store = cls.at(place)
    if store.identity() != identity:
        raise StoreError(f"{place.path} holds another sweep than the store that was copied")
    return store


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is a whole number, not {value!r}")
    return operator.index(value)


def _quantity(quantity: str) -> str:
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity is 'relevance' or 'activation', not {quantity!r}")
    return quantity
