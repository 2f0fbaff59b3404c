"""Writing the shards of a store, which appear whole or not at all."""
from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from io import BufferedRandom

import numpy as np

from crp.store.folder import Folder, StoreError
from crp.store.npy import header_of
from crp.store.place import SHARD, Place, place_with
from crp.store.reader import ReferenceStore
from crp.store.records import record_bytes
from crp.store.schema import LONGEST_REASON, MOST_SKIPPED, ShardRecord, entries_of, join_ranges, range_of
from crp.store.tables import write_class_sums, write_tables
from crp.store.temporaries import discard, is_temporary, remove_lock, temporary


class ShardWriter:
    """Writes the matrices of consecutive samples, row by row, and commits them with one rename.

    Used as a context: on an exception, what was written is removed.

    Parameters
    ----------
    place : Place
        The sweep that the shard belongs to.
    first, stop : int
        Range of the samples.
    rows_at_once : int
        How many rows a pass may have.

    Attributes
    ----------
    skipped : dict
        Sample -> why it was left out.
    notes : list of str
        What else is to be known of the shard.
    """

    def __init__(self, place: Place, first: int, stop: int, rows_at_once: int):
        self.name = shard_name(first)
        self._place, self._first, self._stop = place, first, stop
        self._files: dict[str, _GrowingArray] = {}
        self.rows_at_once = rows_at_once
        self.skipped: dict[int, str] = {}
        self.notes: list[str] = []

    def __enter__(self) -> ShardWriter:
        with self._place.removal_in_words(), ExitStack() as stack:
            self._shards = stack.enter_context(self._place.open("shards"))
            self._folder = stack.enter_context(temporary(self._shards, self.name))
            self._opened = stack.pop_all()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *exception: object) -> None:
        with self._opened:
            if exception_type is None:
                with self._place.removal_in_words():
                    self._commit()

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows to an array of the shard."""
        with self._place.removal_in_words():
            if name not in self._files:
                self._files[name] = _GrowingArray(self._folder, f"{name}.npy", rows.dtype, rows.shape[1:])
            self._files[name].append(rows)

    def _reduce(self) -> None:
        """Replace matrices by what tables are made of."""
        store = ReferenceStore.unsealed(self._place, {self._folder.path.name: None})
        with self._folder.make("tables") as tables:
            write_tables(store, tables)
            write_class_sums(store, tables)
            for name in self._files:
                self._folder.remove(f"{name}.npy")
            for name in tables.names():
                tables.rename(name, self._folder, name)
        self._folder.remove("tables")

    def halve_rows(self, rows: int, sample: int) -> None:
        """Let passes have half as many rows, and note it, since a pass ran out of memory with so many at a sample."""
        self.rows_at_once = rows // 2
        self.notes.append(f"out of memory with {rows} rows at sample {sample}: {self.rows_at_once} from there on")
        warnings.warn(f"shard {self.name}: {self.notes[-1]}", stacklevel=2)

    def _commit(self) -> None:
        for file in self._files.values():
            file.finish()
        counts = {name.removesuffix(".rows"): file.rows for name, file in self._files.items() if name.endswith(".rows")}
        if self._place.manifest.settings.options.keep == "top":
            self._reduce()
        place_with(self._place.path, self._place.manifest_hash)  # it is there still
        self._folder.write(SHARD, record_bytes({
            "first": self._first, "stop": self._stop, "rows": counts, "skipped": reasons_of(self.skipped),
            "notes": self.notes, "manifest": self._place.manifest_hash, "files": entries_of(self._folder),
        }))
        remove_lock(self._folder)
        self._folder.sync()
        self._shards.rename_if_first(self._folder.path.name, self._shards, self.name)
        self._shards.sync()
        self._withdraw_if_sealed()

    def _withdraw_if_sealed(self) -> None:
        """Remove a shard that came too late, and raise a StoreError if the store that was finished lacks it."""
        if not self._place.is_sealed():
            return
        seal, _ = self._place.seal()
        if self.name not in seal.shards:
            discard(self._shards, self.name)
            raise StoreError(
                f"{self._place.path} was finished by another process without samples {self._first} to "
                f"{self._stop - 1}, so they were not added: choose another path"
            )


class _GrowingArray:
    """A .npy file whose first axis grows. It is open only while rows are written, so that there can be many."""

    def __init__(self, folder: Folder, name: str, dtype: np.dtype, row_shape: tuple):
        self._folder, self._name, self._dtype, self._row_shape, self.rows = folder, name, dtype, row_shape, 0
        self._waiting = bytearray()
        with folder.create(name) as file:
            file.write(self._header())

    def _header(self) -> bytes:
        return header_of(self._dtype, (self.rows, *self._row_shape))

    def append(self, rows: np.ndarray) -> None:
        self._waiting += np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        self.rows += len(rows)
        if len(self._waiting) >= _WRITTEN_AT_ONCE:
            with self._folder.extend(self._name) as file:
                self._write_waiting(file)

    def _write_waiting(self, file: BufferedRandom) -> None:
        file.seek(0, os.SEEK_END)
        file.write(self._waiting)
        self._waiting.clear()

    def finish(self) -> None:
        with self._folder.extend(self._name) as file:
            self._write_waiting(file)
            file.seek(0)
            file.write(self._header())
            file.flush()
            os.fsync(file.fileno())


_WRITTEN_AT_ONCE = 65_536  # bytes of an array, for opening a file costs as much as writing them


def shard_name(first: int) -> str:
    """Name of the folder of the shard that begins at a sample."""
    return f"{first:08d}"


def is_shard_name(name: str) -> bool:
    """Whether a folder with this name is that of a shard."""
    return re.fullmatch(r"[0-9]{8,19}", name) is not None and shard_name(int(name)) == name


def finished_shards(place: Place) -> dict[str, ShardRecord]:
    """Name of each committed shard -> its record, in the order of their samples; see :func:`read_shards`."""
    return {name: record for name, (record, _) in read_shards(place).items()}


def read_shards(place: Place) -> dict[str, tuple[ShardRecord, str]]:
    """Name of each committed shard -> its record and the sha256 of that. Other names are passed by.

    Raises
    ------
    StoreError
        If two shards overlap, or one is not complete or belongs to another sweep.
    """
    found: dict[str, tuple[ShardRecord, str]] = {}
    end = 0
    for name in shard_names(place):
        record, digest = place.shard(name)
        if record.first < end:
            raise StoreError(
                f"{place.folder / 'shards' / name} repeats samples {record.first} to {min(end, record.stop) - 1}"
            )
        found[name] = record, digest
        end = record.stop
    return found


def shard_names(place: Place) -> list[str]:
    """Names of the folders of shards, in the order of their samples."""
    return sorted(filter(is_shard_name, _names_of_shards(place)), key=int)


def strays(place: Place) -> list[str]:
    """Names among the shards that are none of ours: copies, and what other programs left."""
    return [name for name in _names_of_shards(place) if not is_shard_name(name) and not is_temporary(name)]


def _names_of_shards(place: Place) -> list[str]:
    with place.open() as folder:
        if not folder.has("shards"):
            return []
        with folder.folder("shards") as shards:
            return shards.names()


def contents_of(shards: Mapping[str, ShardRecord]) -> tuple[list[list[int]], dict[str, str]]:
    """The samples of shards as ranges (first, stop), and those of them that were skipped, as a seal has them."""
    skipped = {int(sample): reason for record in shards.values() for sample, reason in record.skipped.items()}
    return join_ranges(map(range_of, shards.values())), reasons_of(skipped)


def reasons_of(skipped: Mapping[int, str]) -> dict[str, str]:
    """Why samples were skipped, as records have it: the more there are, the fewer bytes for each.

    Raises
    ------
    StoreError
        If there are more than a record can hold.
    """
    if len(skipped) > MOST_SKIPPED:
        raise StoreError(f"{len(skipped)} samples were skipped, and a store keeps account of at most {MOST_SKIPPED}")
    longest = min(LONGEST_REASON, 2 ** 22 // max(len(skipped), 1))
    return {str(sample): _begin(reason, longest) for sample, reason in sorted(skipped.items())}


def _begin(text: str, most: int) -> str:
    """The begin of a text, which JSON writes in at most so many bytes."""
    text = text[:most]
    while (size := len(json.dumps(text)) - 2) > most:
        text = text[:len(text) * most // size]
    return text


def swept_ranges(place: Place) -> list[list[int]]:
    """The samples that a store holds, as ranges (first, stop), finished or not."""
    if not place.is_sealed():
        try:
            return contents_of(finished_shards(place))[0]
        except StoreError:
            if not place.is_sealed():  # otherwise another process has finished it, and removed shards that it merged
                raise
    return place.seal()[0].samples


def check_complete(place: Place, samples: tuple[int, int] | None) -> None:
    """Raise a StoreError if a store lacks any of a range (first, stop) of samples."""
    if samples is None:
        return
    absent, (first, end) = [], samples
    for held, stop in [*swept_ranges(place), (end, end)]:
        if first < min(held, end):
            absent.append((first, min(held, end)))
        first = max(first, stop)
    if absent:
        count = sum(stop - first for first, stop in absent)
        raise StoreError(f"{place.path} lacks {count} samples, from {absent[0][0]} to {absent[-1][1] - 1}")
