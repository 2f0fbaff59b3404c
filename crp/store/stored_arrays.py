"""The arrays of a store, mapped from its files, which are compared with their hashes when they are first read."""
from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from crp.store.files import TABLE_DEPTH
from crp.store.records import StoreError, file_hash
from crp.store.schema import FileEntry, Seal, check_file, read_shard_record


class StoredArrays:
    """Opens the arrays of shards and tables.

    Parameters
    ----------
    path : Path
        Folder of the store.
    seal : Seal or None
        None for a store that is not finished.
    entries : mapping
        Name of the folder of each shard -> what its record says of its files; None to read them as they are. Those of
        a sealed store are read when they are needed.
    has_matrices : bool
        Whether the store keeps its shards.
    """

    def __init__(
        self, path: Path, seal: Seal | None, entries: Mapping[str, Mapping[str, FileEntry] | None], has_matrices: bool
    ):
        self.path, self.seal, self.has_matrices = path, seal, has_matrices
        self.shards = list(entries if seal is None else seal.shards)
        self._entries = dict(entries)
        self._of_shards: dict[str, list[np.ndarray]] = {}
        self._tables: dict[str, np.ndarray] = {}

    def of_shards(self, stem: str) -> list[np.ndarray]:
        """An array of each shard. Threads compare the files with their hashes."""
        if not self.has_matrices:
            raise StoreError(
                f"{self.path} was swept with keep='top': it holds the top {TABLE_DEPTH} samples of each concept and "
                "the mean of each class, but no matrices. For anything else, sweep again with keep='all'"
            )
        if stem not in self._of_shards:
            paths = [self.path / "shards" / shard / f"{stem}.npy" for shard in self.shards]
            with ThreadPoolExecutor() as threads:
                list(threads.map(_check_array, paths, map(self._entries_of, self.shards)))
            self._of_shards[stem] = list(map(_mapped, paths))  # by one thread: gh-106905 of CPython 3.11
        return self._of_shards[stem]

    def table(self, name: str) -> np.ndarray:
        """A table of the store."""
        if name not in self._tables:
            path = self.path / "tables" / f"{name}.npy"
            _check_array(path, None if self.seal is None else self.seal.tables)
            self._tables[name] = _mapped(path)
        return self._tables[name]

    def _entries_of(self, shard: str) -> Mapping[str, FileEntry] | None:
        if shard not in self._entries and self.seal is not None:
            record = read_shard_record(self.path / "shards" / shard)
            if file_hash(self.path / "shards" / shard / "shard.json") != self.seal.shards[shard]:
                raise StoreError(f"{self.path}: shard {shard} is not the one that was sealed")
            self._entries[shard] = record.files
        return self._entries[shard]


def _check_array(path: Path, entries: Mapping[str, FileEntry] | None) -> None:
    """Compare the file of an array with what a record says of it, if one does."""
    if entries is not None:
        check_file(path, entries.get(path.name))


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} is missing or damaged: {error}") from error
