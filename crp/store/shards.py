"""Writing a store: shards that appear whole or not at all, then tables and the seal."""
from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crp.store.files import is_sealed, is_store
from crp.store.reader import ReferenceStore
from crp.store.records import StoreError, file_hash, paths_below, sync_folder, write_record
from crp.store.schema import (
    FORMAT,
    FORMAT_VERSION,
    LONGEST_REASON,
    Manifest,
    ShardRecord,
    checked,
    describe_files,
    read_manifest,
    read_seal,
    read_shard_record,
)
from crp.store.settings import check_settings, describe_environment, warn_of_other_environment
from crp.store.tables import merge_tables, write_class_sums, write_tables


def create_store(path: Path, settings: dict[str, Any], device: str) -> None:
    """Write the manifest, or check that the one that is there has the same settings.

    Parameters
    ----------
    path : Path
    settings : dict
        Everything that decides what the store holds.
    device : str
        What computes it: values differ by rounding between kinds of devices, versions and numbers of threads. So the
        manifest records these, and a warning tells if a store is continued with others.

    Raises
    ------
    StoreError
        If the store was made with other settings; the message names them.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder")
    if not is_store(path):
        for name in ("shards", "tables", "seal.json"):
            if (path / name).exists() and not is_store(path):
                raise StoreError(f"{path} holds {name!r} but no store: choose another path, or move it away")
        path.mkdir(parents=True, exist_ok=True)
        manifest = checked(Manifest, {
            "format": FORMAT, "version": FORMAT_VERSION, "made_with": describe_environment(device), "settings": settings
        }, path / "manifest.json")
        temporary = path / f".manifest.{process_tag()}"
        try:
            write_record(temporary, manifest.model_dump(mode="json"))
            os.link(temporary, path / "manifest.json")  # unlike a rename, fails where another process was first
        except FileExistsError:
            pass
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path)
    check_settings(path, settings)
    (path / "shards").mkdir(exist_ok=True)
    warn_of_other_environment(path, device)
    remove_dead_temporaries(path)


def remove_store(path: Path) -> None:
    """Delete a store's own files, if there is a store; whatever else lies in the folder stays.

    Raises
    ------
    StoreError
        If there is a manifest.json of something else.
    """
    if is_store(path):
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise StoreError(f"{path / 'manifest.json'} is not that of a store: delete the folder yourself")
        (path / "seal.json").unlink(missing_ok=True)
        for name in ("patterns", "tables", "shards"):
            shutil.rmtree(path / name, ignore_errors=True)
        (path / "manifest.json").unlink()


class ShardWriter:
    """Writes the matrices of consecutive samples, row by row, and commits them with one rename.

    Used as a context: on an exception, what was written is removed.

    Parameters
    ----------
    path : Path
        Folder of the store.
    first, stop : int
        Range of the samples.
    keep : {"all", "top"}
        "top" commits only what tables are made of.
    rows_at_once : int
        How many rows a pass may have.
    manifest : str
        sha256 of the manifest for which the shard is computed.

    Attributes
    ----------
    skipped : dict
        Sample -> why it was left out.
    notes : list of str
        What else is to be known of the shard.
    """

    def __init__(self, path: Path, first: int, stop: int, keep: str, rows_at_once: int, manifest: str):
        self.folder = shard_path(path, first)
        self._temporary = self.folder.with_name(f".{self.folder.name}.{process_tag()}")
        self._store, self._first, self._stop, self._keep, self._manifest = path, first, stop, keep, manifest
        self._files: dict[str, _GrowingArray] = {}
        self.rows_at_once = rows_at_once
        self.skipped: dict[int, str] = {}
        self.notes: list[str] = []

    def __enter__(self) -> ShardWriter:
        self._temporary.mkdir()
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *exception: object) -> None:
        try:
            for file in self._files.values():
                file.close(durably=exception_type is None)
            if exception_type is None:
                self._commit()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows to an array of the shard."""
        if name not in self._files:
            self._files[name] = _GrowingArray(self._temporary / f"{name}.npy", rows.dtype, rows.shape[1:])
        self._files[name].append(rows)

    def _reduce(self) -> None:
        """Replace matrices by what tables are made of."""
        store, tables = ReferenceStore.unsealed(self._store, {self._temporary.name: None}), self._temporary / "tables"
        tables.mkdir()
        write_tables(store, tables)
        write_class_sums(store, tables)
        for name in self._files:
            (self._temporary / f"{name}.npy").unlink()
        for file in tables.iterdir():
            file.rename(self._temporary / file.name)
        tables.rmdir()

    def halve_rows(self, rows: int, sample: int) -> None:
        """Let passes have half as many rows, and note it, since a pass ran out of memory with so many at a sample."""
        self.rows_at_once = rows // 2
        self.notes.append(f"out of memory with {rows} rows at sample {sample}: {self.rows_at_once} from there on")
        warnings.warn(f"shard {self.folder.name}: {self.notes[-1]}", stacklevel=2)

    def _commit(self) -> None:
        counts = {name.removesuffix(".rows"): file.rows for name, file in self._files.items() if name.endswith(".rows")}
        if self._keep == "top":
            self._reduce()
        files = describe_files(self._temporary)
        if file_hash(self._store / "manifest.json") != self._manifest:
            raise StoreError(f"{self._store} has been replaced by a store of another sweep in the meantime")
        write_record(self._temporary / "shard.json", {
            "first": self._first, "stop": self._stop, "rows": counts,
            "skipped": {str(sample): reason[:LONGEST_REASON] for sample, reason in sorted(self.skipped.items())},
            "notes": self.notes, "manifest": self._manifest, "files": files,
        })
        sync_folder(self._temporary)
        try:
            self._temporary.rename(self.folder)
        except OSError:
            if not self.folder.is_dir():  # otherwise another process has committed the same shard
                raise
        sync_folder(self.folder.parent)


class _GrowingArray:
    """A .npy file whose first axis grows."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple):
        self._file = open(path, "wb")
        self._dtype, self._row_shape, self.rows = dtype, row_shape, 0
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header so that it keeps its length while the first axis grows
        np.lib.format.write_array_header_1_0(self._file, {
            "descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        })

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self.rows += len(rows)

    def close(self, durably: bool = True) -> None:
        try:
            if durably:
                self._file.seek(0)
                self._write_header()
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def shard_path(path: Path, first: int) -> Path:
    """Folder of the shard that begins at a sample."""
    return path / "shards" / f"{first:08d}"


def finished_shards(path: Path) -> dict[str, ShardRecord]:
    """Name of each committed shard -> its record, in the order of their samples.

    Raises
    ------
    StoreError
        If two shards overlap, or one belongs to another sweep.
    """
    read_manifest(path)
    manifest, found, end = file_hash(path / "manifest.json"), {}, 0
    for folder in sorted((path / "shards").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        record = read_shard_record(folder)
        if record.manifest != manifest:
            raise StoreError(f"{folder} belongs to a sweep with another manifest")
        if record.first < end:
            raise StoreError(f"{folder} repeats samples {record.first} to {min(end, record.stop) - 1}")
        found[folder.name] = record
        end = record.stop
    return found


def range_of(record: ShardRecord) -> tuple[int, int]:
    """The samples of a shard: (first, stop)."""
    return record.first, record.stop


def contents_of(shards: dict[str, ShardRecord]) -> tuple[list[list[int]], dict[str, str]]:
    """The samples of shards as ranges (first, stop), and those of them that were skipped, as a seal has them."""
    skipped = {sample: reason for record in shards.values() for sample, reason in record.skipped.items()}
    return join_ranges(map(range_of, shards.values())), skipped


def swept_ranges(path: Path) -> list[list[int]]:
    """The samples that a store holds, as ranges (first, stop), finished or not."""
    return read_seal(path).samples if is_sealed(path) else contents_of(finished_shards(path))[0]


def check_complete(path: Path, samples: tuple[int, int] | None) -> None:
    """Raise a StoreError if a store lacks any of a range (first, stop) of samples."""
    if samples is None:
        return
    covered = {i for first, stop in swept_ranges(path) for i in range(first, stop)}
    absent = [i for i in range(*samples) if i not in covered]
    if absent:
        raise StoreError(f"{path} lacks {len(absent)} samples, from {absent[0]} to {absent[-1]}")


def seal_store(path: Path) -> None:
    """Derive the tables from the shards and mark the store complete, if that has not been done.

    Raises
    ------
    StoreError
        If there is no shard.
    """
    read_manifest(path)
    with _locked(path):
        if not is_sealed(path):
            _seal(path)
        remove_merged_shards(path)
    remove_dead_temporaries(path)


def _seal(path: Path) -> None:
    shards = finished_shards(path)
    if not shards:
        raise StoreError(f"{path} holds no finished shard")
    samples, skipped = contents_of(shards)
    temporary, unsealed = path / f".tables.{process_tag()}", path / f".seal.{process_tag()}"
    try:
        temporary.mkdir()
        store = ReferenceStore.unsealed(path, {name: record.files for name, record in shards.items()})
        if store.options["keep"] == "top":
            merge_tables(store, shards, temporary)
        else:
            write_tables(store, temporary)
        tables = describe_files(temporary)
        sync_folder(temporary)
        shutil.rmtree(path / "tables", ignore_errors=True)
        temporary.rename(path / "tables")
        sync_folder(path)
        write_record(unsealed, {
            "manifest": file_hash(path / "manifest.json"), "samples": samples, "skipped": skipped,
            "shards": {name: file_hash(path / "shards" / name / "shard.json") for name in shards}, "tables": tables,
        })
        unsealed.rename(path / "seal.json")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        unsealed.unlink(missing_ok=True)
    sync_folder(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only process that finishes a store."""
    with open(path / "manifest.json", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_merged_shards(path: Path) -> None:
    """Remove the shards of a finished store that keeps only tables."""
    if is_sealed(path) and read_manifest(path).settings.options.keep == "top":
        shutil.rmtree(path / "shards", ignore_errors=True)


def join_ranges(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Put consecutive ranges together."""
    joined: list[list[int]] = []
    for first, stop in ranges:
        if joined and joined[-1][1] == first:
            joined[-1][1] = stop
        else:
            joined.append([first, stop])
    return joined


def process_tag() -> str:
    """A part of the names of temporary files, which tells whose they are."""
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"


def remove_dead_temporaries(path: Path) -> None:
    """Remove temporary files and folders of processes of this machine that no longer run, and of others after a day."""
    for temporary in [*path.glob(".*"), *(path / "shards").glob(".*")]:
        made = re.fullmatch(r"\.(?:\d{8,}|manifest|tables|seal|job)\.(.+)\.(\d+)\.[0-9a-f]{8}", temporary.name)
        if made and _is_dead(temporary, made[1], int(made[2])):
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            else:
                temporary.unlink(missing_ok=True)


def _is_dead(temporary: Path, host: str, pid: int) -> bool:
    if host == socket.gethostname():
        return not _is_alive(pid)
    try:
        return max(file.stat().st_mtime for file in (temporary, *paths_below(temporary))) < time.time() - 86_400
    except FileNotFoundError:  # it is alive
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
