"""Writing a store: shards that appear whole or not at all, then tables and the seal."""
from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import socket
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from crp.store import (
    FORMAT,
    FORMAT_VERSION,
    QUANTITIES,
    TABLE_DEPTH,
    TABLE_DTYPE,
    ReferenceStore,
    StoreError,
    file_hash,
    is_store,
    read_json,
    read_manifest,
    stored_statistics,
    table_name,
)
from crp.topk import top_rows


def create_store(path: Path, settings: dict[str, Any]) -> None:
    """Write the manifest, or check that the one that is there has the same settings.

    Raises
    ------
    StoreError
        If the store was made with other settings; the message names them.
    """
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder")
    if not is_store(path):
        for name in ("shards", "tables", "seal.json"):
            if (path / name).exists():
                raise StoreError(f"{path} holds {name!r} but no store: choose another path, or move it away")
        (path / "shards").mkdir(parents=True)
        manifest = {"format": FORMAT, "version": FORMAT_VERSION, "made_with": _versions(), "settings": settings}
        temporary = path / f".manifest.{_process_tag()}"
        _write_durably(temporary, json.dumps(manifest, indent=1).encode())
        try:
            os.link(temporary, path / "manifest.json")  # unlike a rename, fails where another process was first
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        _sync_folder(path)
    check_settings(path, settings)
    _remove_dead_temporaries(path / "shards")


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raise a StoreError that names what differs between the settings of a store and others."""
    stored = read_manifest(path)["settings"]
    differences = list(_differences(stored, json.loads(json.dumps(settings))))
    if differences:
        raise StoreError(
            f"{path} holds a sweep with other settings: " + "; ".join(differences)
            + ". Choose another path, or overwrite=True to replace it"
        )


def remove_store(path: Path) -> None:
    """Delete a store's own files, if there is a store; whatever else lies in the folder stays."""
    if is_store(path):
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
    """

    def __init__(self, path: Path, first: int, stop: int):
        self.folder = shard_path(path, first)
        self._temporary = self.folder.with_name(f".{self.folder.name}.{_process_tag()}")
        self._store, self._first, self._stop = path, first, stop
        self._files: dict[str, _GrowingArray] = {}

    def __enter__(self) -> ShardWriter:
        self._temporary.mkdir()
        return self

    def __exit__(self, exception_type, exception, traceback):
        try:
            for file in self._files.values():
                file.close()
            if exception_type is None:
                self._commit()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows to an array of the shard."""
        if name not in self._files:
            self._files[name] = _GrowingArray(self._temporary / f"{name}.npy", rows.dtype, rows.shape[1:])
        self._files[name].append(rows)

    def _commit(self):
        files = {path.name: _describe(path) for path in sorted(self._temporary.iterdir())}
        record = {"first": self._first, "stop": self._stop, "manifest": file_hash(self._store / "manifest.json"),
                  "files": files}
        _write_durably(self._temporary / "shard.json", json.dumps(record, indent=1).encode())
        _sync_folder(self._temporary)
        try:
            self._temporary.rename(self.folder)
        except OSError:
            if not self.folder.is_dir():  # otherwise another process has committed the same shard
                raise
        _sync_folder(self.folder.parent)


class _GrowingArray:
    """A .npy file whose first axis grows."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple):
        self._file = open(path, "wb")
        self._dtype, self._row_shape, self._rows = dtype, row_shape, 0
        self._write_header()

    def _write_header(self):
        # numpy pads the header so that it keeps its length while the first axis grows
        np.lib.format.write_array_header_1_0(self._file, {
            "descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False,
            "shape": (self._rows, *self._row_shape),
        })

    def append(self, rows: np.ndarray):
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self._rows += len(rows)

    def close(self):
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def shard_path(path: Path, first: int) -> Path:
    """Folder of the shard that begins at a sample."""
    return path / "shards" / f"{first:08d}"


def finished_shards(path: Path) -> dict[str, tuple[int, int]]:
    """Name of each committed shard -> the range of its samples, in order.

    Raises
    ------
    StoreError
        If two shards overlap, or one belongs to another sweep.
    """
    read_manifest(path)
    manifest, found, end = file_hash(path / "manifest.json"), {}, 0
    for folder in sorted((path / "shards").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        record = read_json(folder / "shard.json", "the shard has no record")
        if not isinstance(record, dict) or not {"manifest", "first", "stop", "files"} <= set(record):
            raise StoreError(f"{folder / 'shard.json'} is damaged: it lacks fields")
        if record["manifest"] != manifest:
            raise StoreError(f"{folder} belongs to a sweep with another manifest")
        if record["first"] < end:
            raise StoreError(f"{folder} repeats samples {record['first']} to {min(end, record['stop']) - 1}")
        found[folder.name] = (record["first"], record["stop"])
        end = record["stop"]
    return found


def seal_store(path: Path) -> None:
    """Derive the tables from the shards and mark the store complete.

    Raises
    ------
    StoreError
        If there is no shard.
    """
    shards = finished_shards(path)
    if not shards:
        raise StoreError(f"{path} holds no finished shard")
    temporary = path / f".tables.{_process_tag()}"
    temporary.mkdir()
    _write_tables(ReferenceStore.unsealed(path, list(shards)), temporary)
    tables = {file.name: _describe(file) for file in sorted(temporary.iterdir())}
    _sync_folder(temporary)
    shutil.rmtree(path / "tables", ignore_errors=True)
    temporary.rename(path / "tables")

    seal = {"manifest": file_hash(path / "manifest.json"), "samples": join_ranges(shards.values()),
            "shards": {name: file_hash(path / "shards" / name / "shard.json") for name in shards}, "tables": tables}
    unsealed = path / f".seal.{_process_tag()}"
    _write_durably(unsealed, json.dumps(seal, indent=1).encode())
    unsealed.rename(path / "seal.json")
    _sync_folder(path)


def _write_tables(store: ReferenceStore, folder: Path) -> None:
    for quantity in QUANTITIES:
        samples = store.rows(quantity)["sample"]
        for layer in store.layers:
            entry = store.entry(layer)
            positions = store.positions(layer, quantity)
            for statistic in stored_statistics(store.manifest["settings"]["options"]["max_target"]):
                for normalised in (False, True):
                    matrix = store.values(layer, quantity, statistic=statistic, normalised=normalised)
                    rows, values = top_rows(matrix.blocks(), entry.concepts, TABLE_DEPTH)
                    table = np.empty(rows.shape, TABLE_DTYPE)
                    table["row"], table["sample"], table["value"] = rows, samples[rows], values
                    table["position"] = positions.take_columnwise(rows)
                    with open(folder / f"{table_name(entry.key, quantity, statistic, normalised)}.npy", "wb") as file:
                        np.save(file, table)
                        file.flush()
                        os.fsync(file.fileno())


def join_ranges(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Put consecutive ranges together."""
    joined = []
    for first, stop in ranges:
        if joined and joined[-1][1] == first:
            joined[-1][1] = stop
        else:
            joined.append([first, stop])
    return joined


def _differences(stored: Any, wanted: Any, where: str = ""):
    """Where two nested settings differ, in words."""
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*stored, *(key for key in wanted if key not in stored)]:
            yield from _differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif isinstance(stored, list) and isinstance(wanted, list) and all(isinstance(i, dict) for i in stored + wanted):
        named, wanted_named = ({item["name"]: item for item in items} for items in (stored, wanted))
        yield from _differences(named, wanted_named, where)
    elif stored != wanted:
        yield f"{where} is {_short(stored)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "present"
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:8]}..."
    return "absent" if value is None else repr(value)


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("crp-concepts", "torch", "zennit", "numpy")}
    return {"python": platform.python_version(), **packages}


def _describe(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def _process_tag() -> str:
    return f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"


def _remove_dead_temporaries(folder: Path) -> None:
    """Remove temporary folders of processes of this machine that no longer run."""
    for temporary in folder.glob(".*"):
        made = re.fullmatch(r"\.\d{8,}\.(.+)\.(\d+)\.[0-9a-f]{8}", temporary.name)
        if made and made[1] == socket.gethostname() and not _is_alive(int(made[2])):
            shutil.rmtree(temporary, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _write_durably(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
