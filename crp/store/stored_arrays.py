"""The arrays of a store, which are opened when they are read, and compared with their hashes the first time."""
from __future__ import annotations

import math
import mmap
import os
import resource
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from typing import Any

import numpy as np

from crp.store.files import TABLE_DEPTH
from crp.store.folder import StoreError, reading_errors
from crp.store.npy import Shape, in_words, is_shape, read_header
from crp.store.place import SEAL, Place
from crp.store.schema import FileEntry, Seal, ShardRecord, check_file, join_ranges, range_of

_WORTH_THREADS = 2 ** 22  # bytes
_MOST_MAPPED = 2 ** 29
_mapped: deque[weakref.ref[StoredArray]] = deque()
_mapping = threading.Lock()


class StoredArray:
    """An array in a file of a store.

    Indexing reads it through a map, of which only so many are open at a time; :meth:`rows` reads past the map.

    Parameters
    ----------
    place : Place
    folder : tuple of str
        Names of the folders to it.
    name : str
        Of its file, without ``.npy``.
    dtype : numpy.dtype
    shape : tuple
        What the manifest says of its shape; None for any length.
    entry : FileEntry or None
        What a record says of its file; None where it is being written.
    """

    def __init__(
        self, place: Place, folder: tuple[str, ...], name: str, dtype: np.dtype, shape: Shape, entry: FileEntry | None
    ):
        self._place, self._folder, self._file_name = place, folder, f"{name}.npy"
        self.dtype, self._expected, self._entry = dtype, shape, entry
        self._seen: tuple | None = None
        self._map: np.ndarray | None = None
        self._read(lambda file: None)

    @property
    def path(self) -> str:
        """Where the file is, for messages."""
        return str(self._place.folder.joinpath(*self._folder, self._file_name))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_map": None}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        mapped = self._map
        if mapped is None:
            mapped = self._read(self._mapped)
            _remember(self, mapped)
        return mapped[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[...], dtype)

    def rows(self, part: slice) -> np.ndarray:
        """Consecutive rows, read from the file, since pages that are mapped stay in memory."""
        of_row = math.prod(self.shape[1:])

        def read(file: BufferedReader) -> np.ndarray:
            file.seek(self._start + part.start * of_row * self.dtype.itemsize)
            count = (part.stop - part.start) * of_row
            return np.fromfile(file, self.dtype, count).reshape(-1, *self.shape[1:])

        return self._read(read)

    def _mapped(self, file: BufferedReader) -> np.ndarray:
        if math.prod(self.shape) == 0:
            return np.empty(self.shape, self.dtype)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, self.dtype, math.prod(self.shape), self._start).reshape(self.shape)

    def _read(self, read: Callable[[BufferedReader], Any]) -> Any:
        """Open the file, make sure that it is the one of the record, and read."""
        try:
            with self._place.open(*self._folder) as folder, folder.read(self._file_name) as file:
                status = os.fstat(file.fileno())
                identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
                if identity != self._seen:
                    self._check(file, status.st_size)
                    self._seen = identity
                return read(file)
        except OSError as error:
            raise reading_errors(error, self.path) from error

    def _check(self, file: BufferedReader, size: int) -> None:
        try:
            dtype, shape, start = read_header(file)
        except ValueError as error:
            raise StoreError(f"{self.path} is damaged: {error}") from None
        if dtype != self.dtype or not is_shape(shape, self._expected):
            raise StoreError(f"{self.path} is damaged: it holds {dtype} {shape}, and the manifest and records say "
                             f"{self.dtype} {in_words(self._expected)}")
        if size != start + math.prod(shape) * dtype.itemsize:
            raise StoreError(f"{self.path} is damaged: its {size} bytes do not fit its header: {dtype} {shape}")
        if self._entry is not None:
            file.seek(0)
            check_file(file, self._place.folder.joinpath(*self._folder, self._file_name), self._entry)
        self.shape, self._start = shape, start


def _remember(array: StoredArray, mapped: np.ndarray) -> None:
    """Keep a map open, and close the oldest ones that are too many: each holds a descriptor, and pages in memory."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _mapping:
        array._map = mapped
        _mapped.append(weakref.ref(array))
        while len(_mapped) > 1 and (len(_mapped) > min(most // 4, 1024) or _bytes_mapped() > _MOST_MAPPED):
            oldest = _mapped.popleft()()
            if oldest is not None:
                oldest._map = None


def _bytes_mapped() -> int:
    """How many bytes of memory all maps together can hold."""
    arrays = [reference() for reference in _mapped]
    return sum(array._map.nbytes for array in arrays if array is not None and array._map is not None)


class StoredArrays:
    """Opens the arrays of shards and tables.

    Parameters
    ----------
    place : Place
    seal : Seal or None
        None for a store that is not finished.
    records : mapping
        Name of the folder of each shard -> its record; None for one that is being written. Those of a sealed store are
        read when they are needed.
    has_matrices : bool
        Whether the store keeps its shards.
    """

    def __init__(
        self, place: Place, seal: Seal | None, records: Mapping[str, ShardRecord | None], has_matrices: bool
    ):
        self.place, self.seal, self.has_matrices = place, seal, has_matrices
        self.shards = list(records if seal is None else seal.shards)
        self._records = dict(records)
        self._of_shards: dict[str, list[StoredArray]] = {}
        self._tables: dict[str, StoredArray] = {}

    def of_shards(self, name: str) -> list[StoredArray]:
        """An array of each shard. Threads compare files with their hashes where these are large."""
        if not self.has_matrices:
            raise StoreError(
                f"{self.place.path} was swept with keep='top': it holds the top {TABLE_DEPTH} samples of each concept "
                "and the mean of each class, but no matrices. For anything else, sweep again with keep='all'"
            )
        if name not in self._of_shards:
            arrays = self._opened(name)
            self._check_samples()
            self._of_shards[name] = arrays
        return self._of_shards[name]

    def _opened(self, name: str) -> list[StoredArray]:
        files = [record.files[f"{name}.npy"].bytes for record in map(self.record, self.shards) if record is not None]
        if sum(files) < _WORTH_THREADS:
            return [self._of_shard(shard, name) for shard in self.shards]
        with ThreadPoolExecutor() as threads:
            return list(threads.map(lambda shard: self._of_shard(shard, name), self.shards))

    def table(self, name: str) -> StoredArray:
        """A table of the store."""
        if name not in self._tables:
            entry = None if self.seal is None else self.seal.tables.get(f"{name}.npy")
            if self.seal is not None and entry is None:
                raise StoreError(f"{self.place.folder / 'tables' / name}.npy does not belong to the store")
            self._tables[name] = StoredArray(self.place, ("tables",), name, *self.place.tables[name], entry)
        return self._tables[name]

    def record(self, shard: str) -> ShardRecord | None:
        """The record of a shard, if it has one."""
        if shard not in self._records and self.seal is not None:
            record, digest = self.place.shard(shard)
            if digest != self.seal.shards[shard]:
                raise StoreError(f"{self.place.path}: shard {shard} is not the one that was sealed")
            self._records[shard] = record
        return self._records[shard]

    def _check_samples(self) -> None:
        """Raise a StoreError if the shards do not hold the samples that the seal says, in order."""
        if self.seal is None or self._of_shards:
            return
        records = [record for record in map(self.record, self.shards) if record is not None]
        skipped = [sample for record in records for sample in record.skipped]
        if join_ranges(map(range_of, records)) != self.seal.samples or set(skipped) != self.seal.skipped.keys():
            raise StoreError(f"{self.place.folder / SEAL} says other samples than its shards hold, or not in order")

    def _of_shard(self, shard: str, name: str) -> StoredArray:
        record, (dtype, shape), entry = self.record(shard), self.place.matrices[name], None
        if record is not None:
            shape, entry = self.place.shape_in(record, name), record.files[f"{name}.npy"]
        return StoredArray(self.place, ("shards", shard), name, dtype, shape, entry)
