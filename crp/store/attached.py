"""Results kept in a store beside its matrices, in the folder ``patterns``: a file, and a record that names it.

The name of a file holds its hash, so another one lies beside it until the record names the other: one rename.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from crp.store.archive import read_open_archive
from crp.store.folder import Folder, StoreError, reading_errors
from crp.store.place import place_with
from crp.store.reader import ReferenceStore
from crp.store.records import write_record
from crp.store.schema import FileEntry, PatternsRecord, check_file, read_patterns_record
from crp.store.temporaries import locked, remove_ended, temporary

ATTACHED = "patterns"


def write_attached(store: ReferenceStore, stem: str, content: bytes) -> None:
    """Keep a result in the place of the one with this stem.

    Raises
    ------
    StoreError
        If the store is not there any more, or a link is where a file or folder should be.
    """
    digest = hashlib.sha256(content).hexdigest()
    name, record_name = f"{stem}.{digest[:16]}.npz", f"{stem}.json"
    record = PatternsRecord(files={name: FileEntry(bytes=len(content), sha256=digest)})
    place_with(store.path, store.place.manifest_hash)  # it is there still
    with store.place.open() as parent, parent.make(ATTACHED) as folder, locked(folder):
        for written in (name, record_name):
            if folder.kind(written) not in ("a file", "nothing"):
                raise StoreError(f"{folder.path / written} is no file but {folder.kind(written)}")
        is_kept = False
        while not is_kept:
            with temporary(folder, "patterns") as unfinished:
                unfinished.write(name, content)
                unfinished.rename(name, folder, name)
            write_record(folder, record_name, record.model_dump())
            is_kept = folder.has(name)  # where there are no locks, others may have taken it for an old one
        for other in folder.names():
            if other != name and other.startswith(f"{stem}.") and other.endswith(".npz"):
                folder.remove(other)
        remove_ended(folder)


def attached_stems(store: ReferenceStore, prefix: str) -> list[str]:
    """What the names of results that are kept begin with, of those that begin in a certain way; in order."""
    with _opened(store) as folder:
        names = [] if folder is None else folder.names()
    return [name.removesuffix(".json") for name in names if name.startswith(prefix) and name.endswith(".json")]


def attached_stamp(store: ReferenceStore, stem: str) -> tuple[int, int] | None:
    """What tells a result from the one that takes its place; None if there is none."""
    with _opened(store) as folder:
        if folder is None or not folder.has(f"{stem}.json"):
            return None
        status = folder.status(f"{stem}.json")
        return status.st_mtime_ns, status.st_ino


def read_attached(
    store: ReferenceStore, stem: str, kind: str, make: Callable[[dict, dict], Any]
) -> tuple[Any, Path] | None:
    """A result and the path of its file, which is compared with its hash; None if there is none.

    Raises
    ------
    StoreError
        If it is damaged, or no such result.
    """
    with _opened(store) as folder:
        if folder is None or not folder.has(f"{stem}.json"):
            return None
        file, path, entry = _open_named(folder, f"{stem}.json")
        with file:
            check_file(file, path, entry)
            file.seek(0)
            try:
                return read_open_archive(file, path, kind, make), path
            except ValueError as error:
                raise StoreError(str(error)) from error


@contextmanager
def _opened(store: ReferenceStore) -> Iterator[Folder | None]:
    """The folder of the results, if there is one."""
    with store.place.open() as parent:
        if not parent.has(ATTACHED):
            yield None
            return
        with parent.folder(ATTACHED) as folder:
            yield folder


def _open_named(folder: Folder, record_name: str) -> tuple[BufferedReader, Path, FileEntry]:
    """The file that a record names, which others may be replacing."""
    before: PatternsRecord | None = None
    while True:
        record = read_patterns_record(folder, record_name)
        (name, entry), = record.files.items()
        path = folder.path / name
        try:
            return folder.read(name), path, entry
        except OSError as error:
            if record == before:
                raise reading_errors(error, path) from error
            before = record
