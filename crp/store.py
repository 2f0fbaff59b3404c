"""The store: matrices of what every sample does to every concept, in a folder that numpy and a text editor can read.

::

    manifest.json                       format, versions, settings, layers
    shards/00000000/                    consecutive samples, named by the first
        relevance.rows.npy              sample, target, position, prediction of each row; activation.rows.npy likewise
        L0003.relevance.value.npy       [rows, concepts] sum over positions (.maximum: the largest value, if asked for)
        L0003.relevance.total.npy       [rows] sum of absolute values over the concepts (.maximum_total likewise)
        L0003.relevance.position.npy    [rows, concepts] flat index of the strongest position, if there are several
        shard.json                      size and sha256 of each file, sha256 of the manifest; skipped samples
    tables/L0003.relevance.value.npy    [concepts, 40] the top rows; .value_normalised likewise
    seal.json                           sha256 of all shards and tables: the store is complete
    patterns/L0003.activation.npz       clusters of the rows of a matrix, if they have been looked for

Nothing is pickled, so opening a store runs no code. The JSON files hold their own sha256, and that of the other files,
which are compared with it when they are first read.

A sweep with ``keep="top"`` leaves no shards: beside the top rows, ``tables`` then has the sums of each class
(``L0003.relevance.class_sum.npy`` [classes, concepts]; ``classes.npy`` and ``relevance.class_count.npy`` [classes]).
With ``dtype="float16"``, matrices hold each row divided by its total.
"""
from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from crp.layers import unknown_layer_message
from crp.records import StoreError, check_file, file_hash, read_record
from crp.topk import top_rows

FORMAT = "crp-store"
FORMAT_VERSION = 2
QUANTITIES = ("relevance", "activation")
TABLE_DEPTH = 40
ROW_DTYPE = np.dtype([("sample", "<i8"), ("target", "<i8"), ("position", "<i8"), ("prediction", "<i8")])
TABLE_DTYPE = np.dtype([("row", "<i8"), ("sample", "<i8"), ("position", "<i4"), ("value", "<f4")])
MATRIX_OF = {"sum": "value", "max": "maximum"}
TOTAL_OF = {"sum": "total", "max": "maximum_total"}
KEPT = ("all", "top")
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class LayerEntry:
    """A layer in a store.

    Attributes
    ----------
    key : str
        Short name of its files.
    name : str
        Name of the layer in the model.
    concepts : int
        Number of concepts.
    position_shape : tuple of int or None
        Shape of the positions of a concept; None where the concept does not know it.
    concept : dict
        Class and fingerprint of the concept.
    """

    key: str
    name: str
    concepts: int
    position_shape: tuple[int, ...] | None
    concept: dict

    @property
    def has_positions(self) -> bool:
        """Whether positions are stored."""
        return self.position_shape is None or int(np.prod(self.position_shape)) > 1

    def to_json(self) -> dict:
        """As the manifest holds it."""
        shape = None if self.position_shape is None else list(self.position_shape)
        return {"key": self.key, "name": self.name, "concepts": self.concepts, "position_shape": shape,
                "concept": self.concept}

    @classmethod
    def from_json(cls, entry: dict) -> LayerEntry:
        """From the manifest."""
        key, name, concepts, shape = (entry[field] for field in ("key", "name", "concepts", "position_shape"))
        is_possible = (
            isinstance(name, str) and re.fullmatch(r"L\d{4,9}", key) and _is_count(concepts)
            and (shape is None or isinstance(shape, list) and all(map(_is_count, shape)))
        )
        if not is_possible:
            raise StoreError(f"the manifest holds an impossible layer: {str(entry)[:200]}")
        return cls(key, name, concepts, None if shape is None else tuple(shape), entry["concept"])


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 2 ** 31


class References(NamedTuple):
    """The strongest samples of a concept, in descending order.

    Attributes
    ----------
    samples : numpy.ndarray
        [k] positions in the dataset.
    values : numpy.ndarray
        [k]
    positions : numpy.ndarray
        [k] flat index of the strongest position in the layer.
    """

    samples: np.ndarray
    values: np.ndarray
    positions: np.ndarray


class ShardedMatrix:
    """The rows of all shards as one array [rows, columns] that is read when it is indexed.

    Indexing by rows and columns gives a numpy array, as numpy would; ``numpy.asarray`` reads everything.

    Parameters
    ----------
    parts : list of numpy.ndarray
        One array per shard, usually mapped from a file.
    totals : list of numpy.ndarray, optional
        [rows] per shard.
    apply_totals : callable, default numpy.divide
        What is done with the values and the totals of their rows.
    """

    ndim = 2

    def __init__(
        self, parts: list[np.ndarray], totals: list[np.ndarray] | None = None, apply_totals: Callable = np.divide
    ):
        self._parts, self._totals, self._apply_totals = parts, totals, apply_totals
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), parts[0].shape[1])
        self.dtype = np.dtype(np.float32) if parts[0].dtype == np.float16 else parts[0].dtype

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"ShardedMatrix(shape={self.shape}, dtype={self.dtype}, shards={len(self._parts)})"

    def __array__(self, dtype=None, copy=None):
        array = self[:]
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, index):
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
        for shard, part in enumerate(self._parts):
            for first in range(0, len(part), rows):
                part_of_rows = slice(first, min(first + rows, len(part)))
                yield self._with_totals(_read_rows(part, part_of_rows), shard, part_of_rows)

    def take_columnwise(self, rows: np.ndarray) -> np.ndarray:
        """Entry [rows[c, i], c] of every column c, for ``rows`` [columns, k]."""
        return self._take(rows, np.broadcast_to(np.arange(len(rows))[:, None], rows.shape))

    def _read(self, shard, rows, columns):
        return self._with_totals(self._parts[shard][rows, columns], shard, rows)

    def _with_totals(self, values, shard, rows):
        values = np.array(values, self.dtype)
        if self._totals is None:
            return values
        total = floored(self._totals[shard][rows])
        return self._apply_totals(values, total[:, None] if values.ndim == 2 else total)


def _read_rows(part: np.ndarray, rows: slice) -> np.ndarray:
    """Rows of an array, past the map if it is mapped from a file."""
    if not isinstance(part, np.memmap):
        return part[rows]
    row_bytes = part.dtype.itemsize * part.shape[1]
    count = (rows.stop - rows.start) * part.shape[1]
    offset = part.offset + rows.start * row_bytes
    return np.fromfile(part.filename, part.dtype, count, offset=offset).reshape(-1, part.shape[1])


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
        manifest = read_manifest(path)
        seal = read_seal(path)
        if seal["manifest"] != file_hash(Path(path) / "manifest.json"):
            raise StoreError(f"{path}: the manifest is not that of the sweep that was sealed")
        self._open(path, manifest, list(seal["shards"]), seal)

    @classmethod
    def unsealed(cls, path: str | Path, shards: dict[str, dict | None]) -> ReferenceStore:
        """The shards of a store that is not finished: matrices, but no tables.

        Parameters
        ----------
        path : str or Path
        shards : dict
            Name of the folder of each shard -> what its record says of its files; None to read them as they are.
        """
        store = cls.__new__(cls)
        store._open(path, read_manifest(path), list(shards), None)
        store._files = dict(shards)
        return store

    def _open(self, path, manifest, shards, seal):
        self.path, self.manifest, self.shards, self._seal = Path(path), manifest, shards, seal
        self._entries = {entry.name: entry for entry in read_layers(self.manifest)}
        self._tables: dict[str, np.ndarray] = {}
        self._shard_arrays: dict[str, list[np.ndarray]] = {}
        self._files: dict[str, dict | None] = {}

    def __repr__(self):
        samples = sum(stop - first for first, stop in self.ranges)
        return f"ReferenceStore({str(self.path)!r}, samples={samples}, layers={len(self._entries)})"

    def identity(self) -> str:
        """A hash that changes with the contents of the store."""
        return file_hash(self.path / "seal.json")

    @property
    def options(self) -> dict[str, Any]:
        """The options of the sweep: batch_size, checkpoint, max_target, keep, dtype."""
        return self.manifest["settings"]["options"]

    @property
    def ranges(self) -> list[list[int]]:
        """The samples that were swept, as ranges (first, stop)."""
        return self._seal["samples"] if self._seal else []

    @property
    def skipped(self) -> dict[int, str]:
        """Samples that were left out with ``on_error="skip"``, and what was wrong with them."""
        return {int(sample): reason for sample, reason in self._seal["skipped"].items()} if self._seal else {}

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

        Relevance has a row per (sample, target), activation one per sample. -1 stands for none.
        """
        return np.concatenate(self._of_shards(f"{_quantity(quantity)}.rows"))

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
        holds_shares = self.options["dtype"] == "float16"
        if normalised == holds_shares:
            return ShardedMatrix(parts)
        totals = self._matrix(layer, quantity, TOTAL_OF, statistic)
        return ShardedMatrix(parts, totals, np.multiply if holds_shares else np.divide)

    def positions(self, layer: str, quantity: str = "relevance") -> ShardedMatrix:
        """Flat index of each concept's strongest position, [rows, concepts] int32."""
        entry = self.entry(layer)
        if entry.has_positions:
            return ShardedMatrix(self._of_shards(f"{entry.key}.{_quantity(quantity)}.position"))
        counts = [len(rows) for rows in self._of_shards(f"{_quantity(quantity)}.rows")]
        return ShardedMatrix([np.broadcast_to(np.int32(0), (count, entry.concepts)) for count in counts])

    def rows_of_target(self, target: int, quantity: str = "relevance") -> np.ndarray:
        """Numbers of the rows of one class, ascending; for activations, of samples that have it among their targets."""
        relevance_rows = self.rows()
        is_target = relevance_rows["target"] == int(target)
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
        if operator.index(k) < 0:
            raise ValueError(f"k is not negative, as {k} is")
        if target is None and k <= TABLE_DEPTH:
            best = self.table(layer, quantity, statistic=statistic, normalised=normalised)[concept, :k]
            return References(*(np.array(best[field]) for field in ("sample", "value", "position")))
        rows = slice(None) if target is None else self.rows_of_target(target, quantity)
        column = self.values(layer, quantity, statistic=statistic, normalised=normalised)[rows, concept]
        order = np.argsort(-column, kind="stable")[:k]
        best = order if target is None else rows[order]
        samples = self.rows(quantity)["sample"][best]
        return References(samples, column[order], self.positions(layer, quantity)[best, concept])

    def table(
        self, layer: str, quantity: str = "relevance", *, statistic: str = "sum", normalised: bool = True
    ) -> np.ndarray:
        """The top rows of each concept: [concepts, up to 40] with the fields row, sample, position and value."""
        self._check_statistic(statistic)
        return self._table(table_name(self.entry(layer).key, _quantity(quantity), statistic, normalised))

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
        if self.options["keep"] == "top":
            sums = self._table(class_sum_name(key, _quantity(quantity)))
            classes, counts = self._table("classes"), self._table(f"{quantity}.class_count")
        else:
            classes, counts, membership = self.membership(quantity)
            sums = sums_of_classes(membership, self.values(layer, quantity))
        return classes, counts, sums / np.maximum(counts, 1)[:, None]

    def membership(self, quantity: str) -> tuple[np.ndarray, np.ndarray, csr_array]:
        """The classes, how many rows each has, and which: [classes, rows] of zeros and ones."""
        pairs = self.rows()
        classes, number = np.unique(pairs["target"], return_inverse=True)
        row = np.arange(len(pairs))
        if _quantity(quantity) == "activation":
            row = np.searchsorted(self.rows(quantity)["sample"], pairs["sample"])
        shape = len(classes), len(self.rows(quantity))
        membership = csr_array((np.ones(len(row)), (number, row)), shape=shape)
        return classes, np.bincount(number, minlength=len(classes)), membership

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
        column = self.values(layer, quantity, statistic=statistic, normalised=normalised)[:, concept]
        pairs = self.rows()
        if _quantity(quantity) == "relevance":
            values = column
        else:
            values = column[np.searchsorted(self.rows(quantity)["sample"], pairs["sample"])]
        order = np.lexsort((-values, pairs["target"]))
        targets, starts, counts = np.unique(pairs["target"][order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(starts, counts)
        counted = np.repeat(np.arange(len(targets)), counts)[rank < n]
        sums = np.bincount(counted, values[order][rank < n], len(targets))
        return targets, sums / np.minimum(counts, n)

    def sorted_rows(
        self, layer: str, quantity: str = "relevance", target: int | None = None, *, statistic: str = "sum",
        normalised: bool = True,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples, values and positions of the top rows of all concepts at once, each [up to 40, concepts]."""
        if target is None:
            table = self.table(layer, quantity, statistic=statistic, normalised=normalised).T
            return table["sample"], table["value"], table["position"]
        rows = self.rows_of_target(target, quantity)
        if len(rows) == 0:
            classes = np.unique(self.targets).tolist()
            raise StoreError(f"{self.path} holds no sample of class {target}; it holds {classes}")
        matrix = self.values(layer, quantity, statistic=statistic, normalised=normalised)
        blocks = (matrix[rows[first:first + 1024]] for first in range(0, len(rows), 1024))
        best, values = top_rows(blocks, matrix.shape[1], TABLE_DEPTH)
        best = rows[best]
        positions = self.positions(layer, quantity).take_columnwise(best)
        return self.rows(quantity)["sample"][best].T, values.T, positions.T

    def patterns(self, layer: str, quantity: str = "activation"):
        """The patterns that ``FeatureVisualization.find_patterns`` wrote beside the matrices.

        Parameters
        ----------
        layer : str
        quantity : {"activation", "relevance"}

        Returns
        -------
        crp.patterns.Patterns

        Raises
        ------
        StoreError
            If there are none, or they were found before the store was made anew.
        """
        from crp.patterns import Patterns

        path = self.patterns_path(layer, quantity)
        how = f"FeatureVisualization.find_patterns({layer!r}, {quantity!r})"
        if not path.is_file():
            raise StoreError(f"{self.path} holds no patterns of the {quantity} of {layer!r}: find them with {how}")
        check_file(path, read_patterns_record(path.with_suffix(".json")).get(path.name))
        patterns = Patterns.load(path, self.values(layer, quantity))
        if (patterns.options["source"] or {}).get("store") != self.identity():
            raise StoreError(f"{path} is of another sweep than the store holds: find the patterns again with {how}")
        return patterns

    def patterns_path(self, layer: str, quantity: str) -> Path:
        """Where patterns of a layer are kept."""
        return self.path / "patterns" / f"{self.entry(layer).key}.{_quantity(quantity)}.npz"

    def to_xarray(self):
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
        data = {}
        for quantity in QUANTITIES:
            rows = self.rows(quantity)
            data.update({f"{quantity}.{name}": (f"{quantity}.row", rows[name]) for name in ROW_DTYPE.names})
            for layer in self.layers:
                dimensions = (f"{quantity}.row", f"{layer}.concept")
                data[f"{layer}.{quantity}"] = (dimensions, np.asarray(self.values(layer, quantity)))
        return xarray.Dataset(data)

    def _matrix(self, layer, quantity, names, statistic):
        self._check_statistic(statistic)
        entry = self.entry(layer)
        stem = f"{entry.key}.{_quantity(quantity)}.{names[statistic]}"
        parts = self._of_shards(stem)
        if any(part.shape[1:] != ((entry.concepts,) if names is MATRIX_OF else ()) for part in parts):
            raise StoreError(f"{self.path}: the manifest does not fit the matrices of {layer!r}")
        return parts

    def _check_statistic(self, statistic):
        if statistic not in MATRIX_OF:
            raise StoreError(f"statistic is 'sum' or 'max', not {statistic!r}")
        available = stored_statistics(self.options["max_target"])
        if statistic not in available:
            raise StoreError(
                f"{self.path} holds the statistics {available}, not {statistic!r}: sweep with max_target='max'"
            )

    def _of_shards(self, stem: str) -> list[np.ndarray]:
        """An array of each shard. Threads compare the files with their hashes when they are first read."""
        if self._seal is not None and self.options["keep"] == "top":
            raise StoreError(
                f"{self.path} was swept with keep='top': it holds the top {TABLE_DEPTH} samples of each concept and "
                "the mean of each class, but no matrices. For anything else, sweep again with keep='all'"
            )
        if stem not in self._shard_arrays:
            paths = [self.path / "shards" / shard / f"{stem}.npy" for shard in self.shards]
            with ThreadPoolExecutor() as threads:
                list(threads.map(_check_array, paths, map(self._files_of, self.shards)))
            self._shard_arrays[stem] = list(map(_mapped, paths))  # by one thread: gh-106905 of CPython 3.11
        return self._shard_arrays[stem]

    def _files_of(self, shard):
        if shard not in self._files:
            record = read_shard_record(self.path / "shards" / shard)
            if file_hash(self.path / "shards" / shard / "shard.json") != self._seal["shards"][shard]:
                raise StoreError(f"{self.path}: shard {shard} is not the one that was sealed")
            self._files[shard] = record["files"]
        return self._files[shard]

    def _table(self, name):
        if name not in self._tables:
            path = self.path / "tables" / f"{name}.npy"
            _check_array(path, self._seal and self._seal["tables"])
            self._tables[name] = _mapped(path)
        return self._tables[name]


def _check_array(path: Path, described: dict[str, dict] | None) -> None:
    """Compare the file of an array with what a record says of it, if one does."""
    if described is not None:
        check_file(path, described.get(path.name))


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} is missing or damaged: {error}") from error


def floored(totals: np.ndarray) -> np.ndarray:
    """Totals to divide by: not zero."""
    return np.maximum(totals, np.finfo(np.float32).tiny)


def sums_of_classes(membership: csr_array, matrix: ShardedMatrix) -> np.ndarray:
    """[classes, concepts] float64: the sums of the rows of each class."""
    sums = np.zeros((membership.shape[0], matrix.shape[1]))
    for rows, block in matrix.placed_blocks():
        sums += membership[:, rows] @ block.astype(np.float64)
    return sums


def check_concept(layer: str, concept: int, count: int) -> None:
    """Raise an IndexError if a layer has no such concept."""
    if not hasattr(concept, "__index__"):
        raise TypeError(f"a concept id is an integer, not {concept!r}")
    if not -count <= concept < count:
        raise IndexError(f"concept id {concept} is out of range: those of layer {layer!r} are 0 to {count - 1}")


def table_name(key: str, quantity: str, statistic: str, normalised: bool) -> str:
    """Name of the file with the top rows of a layer."""
    return f"{key}.{quantity}.{MATRIX_OF[statistic]}" + ("_normalised" if normalised else "")


def class_sum_name(key: str, quantity: str) -> str:
    """Name of the file with the sums of each class."""
    return f"{key}.{quantity}.class_sum"


def stored_statistics(max_target: str) -> list[str]:
    """The statistics over positions that a sweep writes: always the sum, the maximum when asked for."""
    return ["sum"] if max_target == "sum" else ["sum", "max"]


def is_store(path: str | Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    return (Path(path) / "manifest.json").is_file()


def is_sealed(path: str | Path) -> bool:
    """Whether a folder holds a store whose sweep has finished."""
    return is_store(path) and (Path(path) / "seal.json").is_file()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a store.

    Raises
    ------
    StoreError
        If there is none, or it is of another format.
    """
    manifest = read_record(Path(path) / "manifest.json", "there is no store: make one with FeatureVisualization.run")
    if manifest.get("format") != FORMAT or manifest.get("version") != FORMAT_VERSION:
        raise StoreError(f"{path}: manifest.json is not of the format {FORMAT} version {FORMAT_VERSION}")
    read_layers(manifest)
    return manifest


def read_seal(path: str | Path) -> dict[str, Any]:
    """The seal of a store.

    Raises
    ------
    StoreError
        If there is none, or what it says cannot be.
    """
    seal = read_record(Path(path) / "seal.json", "its sweep has not finished: call run or collect_results")
    try:
        if not seal["shards"] or not all(re.fullmatch(r"\d{8,}", shard) for shard in seal["shards"]):
            raise StoreError(f"{path}: the seal names impossible shards")
        checked_files(seal["tables"], Path(path) / "seal.json")
        str(seal["manifest"])
        [range(first, stop) for first, stop in seal["samples"]]
        {int(sample): str(reason) for sample, reason in seal["skipped"].items()}
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{path}: seal.json lacks what a seal says: {error!r}") from error
    return seal


def read_patterns_record(path: Path) -> dict[str, Any]:
    """What the record beside a file of patterns says of it."""
    record = read_record(path, "patterns have no record")
    return checked_files(record.get("files"), path)


def checked_files(files: Any, path: Path) -> dict[str, dict]:
    """Files as a record lists them.

    Raises
    ------
    StoreError
        If it names files elsewhere, or says something else.
    """
    if not isinstance(files, dict) or not all(
        Path(name).name == name and isinstance(described, dict) and {"bytes", "sha256"} <= set(described)
        for name, described in files.items()
    ):
        raise StoreError(f"{path} is damaged: it lists impossible files")
    return files


_SHARD_RECORD = {
    "manifest": str, "first": int, "stop": int, "rows": dict, "skipped": dict, "notes": list, "files": dict,
}


def read_shard_record(folder: Path) -> dict[str, Any]:
    """The record of a shard.

    Raises
    ------
    StoreError
        If there is none, or what it says cannot be.
    """
    record = read_record(folder / "shard.json", "the shard has no record")
    if not all(isinstance(record.get(name), kind) for name, kind in _SHARD_RECORD.items()):
        raise StoreError(f"{folder / 'shard.json'} is damaged: it lacks fields")
    if not all(isinstance(record["rows"].get(quantity), int) for quantity in QUANTITIES):
        raise StoreError(f"{folder / 'shard.json'} is damaged: it lacks numbers of rows")
    checked_files(record["files"], folder / "shard.json")
    return record


def read_layers(manifest: dict[str, Any]) -> list[LayerEntry]:
    """The layers that a manifest lists.

    Raises
    ------
    StoreError
        If what it says of them cannot be.
    """
    try:
        settings = manifest["settings"]
        _check_settings(manifest["made_with"], settings)
        return [LayerEntry.from_json(entry) for entry in settings["layers"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the manifest lacks settings of a store: {error!r}") from error


def _check_settings(made_with: Any, settings: dict[str, Any]) -> None:
    described = [settings[name] for name in ("model", "attribution", "dataset", "composite", "options")]
    if not all(isinstance(item, dict) for item in (made_with, *described)):
        raise StoreError("the manifest does not describe what the store was made from")
    model, options, length = settings["model"], settings["options"], settings["dataset"]["length"]
    if options["keep"] not in KEPT or options["dtype"] not in DTYPES or options["max_target"] not in MATRIX_OF:
        raise StoreError(f"the manifest holds impossible options: {options}")
    names = made_with["python"], model["class"], *model["passing"], settings["composite"]["class"]
    if not all(isinstance(name, str) for name in names):
        raise StoreError(f"the manifest holds impossible names: {names}")
    if not _is_count(length):
        raise StoreError(f"the manifest holds an impossible length of the dataset: {length}")


def _quantity(quantity: str) -> str:
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity is 'relevance' or 'activation', not {quantity!r}")
    return quantity
