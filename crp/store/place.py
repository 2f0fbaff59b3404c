"""Where the parts of a store lie, and what its records say of them.

A store's sweep lies in the folder of the store. One that replaces another lies in a folder of its own there, until and
after the store's manifest is that of the new sweep: so one rename makes the new sweep the store's.
"""
from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from crp.store.folder import Folder, StoreError, opened
from crp.store.layout import Arrays, matrices_of, quantity_of, tables_of
from crp.store.npy import Shape
from crp.store.records import read_record
from crp.store.schema import FORMAT, FORMAT_VERSION, Manifest, Seal, ShardRecord, checked

NO_STORE = "there is no store: make one with FeatureVisualization.run"
MANIFEST, SEAL, SHARD = "manifest.json", "seal.json", "shard.json"
PARTS = (SEAL, "tables", "shards", "patterns")


@dataclass(frozen=True)
class Place:
    """A sweep on the disk, finished or not.

    Attributes
    ----------
    path : Path
        Folder of the store.
    manifest : Manifest
    manifest_hash : str
        sha256 of its file.
    """

    path: Path
    manifest: Manifest
    manifest_hash: str

    @property
    def _names(self) -> list[str]:
        return [] if self.manifest.folder is None else [self.manifest.folder]

    @property
    def folder(self) -> Path:
        """The folder of the sweep: the store's, or one in it."""
        return self.path.joinpath(*self._names)

    @contextmanager
    def open(self, *names: str) -> Iterator[Folder]:
        """The folder of the sweep, or one in it.

        Raises
        ------
        StoreError
            If it is not there any more, or is no folder.
        """
        with self._open(*self._names, *names) as folder:
            yield folder

    @contextmanager
    def open_store(self) -> Iterator[Folder]:
        """The folder of the store."""
        with self._open() as folder:
            yield folder

    @contextmanager
    def _open(self, *names: str) -> Iterator[Folder]:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(opened(self.path, *names))
            except FileNotFoundError as error:
                missing = self.path.joinpath(*names)
                raise StoreError(f"{missing} is missing: it was removed, or replaced by another sweep") from error
            yield folder

    @contextmanager
    def removal_in_words(self) -> Iterator[None]:
        """Raise a StoreError where something is not there any more within the context, since others removed it."""
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(f"{self.path} has been replaced or deleted in the meantime: {error}") from error

    def is_sealed(self) -> bool:
        """Whether the sweep has finished."""
        with self.open() as folder:
            return folder.has(SEAL)

    def seal(self) -> tuple[Seal, str]:
        """The seal, and the sha256 of its file.

        Raises
        ------
        StoreError
            If there is none, it is that of another sweep, or says what cannot be.
        """
        with self.open() as folder:
            content, digest = read_record(folder, SEAL, "its sweep has not finished: call run or collect_results")
        seal = checked(Seal, content, self.folder / SEAL)
        if seal.manifest != self.manifest_hash:
            raise StoreError(f"{self.path}: the manifest is not that of the sweep that was sealed")
        self._check_range(seal.samples[-1][1] if seal.samples else 0, SEAL)
        other = sorted(seal.tables.keys() ^ {f"{table}.npy" for table in self.tables})
        if other:
            raise StoreError(f"{self.folder / SEAL} does not name the tables that the manifest says: {other[0]}")
        return seal, digest

    def shard(self, name: str) -> tuple[ShardRecord, str]:
        """The record of a shard, and the sha256 of its file.

        Raises
        ------
        StoreError
            If there is none, it is that of another sweep, or says what cannot be.
        """
        path = self.folder / "shards" / name
        with self.open("shards", name) as folder:
            content, digest = read_record(
                folder, SHARD, "the shard is not complete: delete its folder, and run again to compute it"
            )
        record = checked(ShardRecord, content, path / SHARD)
        if record.manifest != self.manifest_hash:
            raise StoreError(f"{path} belongs to a sweep with another manifest")
        if record.first != int(name):
            raise StoreError(f"{path} holds a shard that begins at sample {record.first}")
        self._check_range(record.stop, f"shards/{name}")
        other = sorted(record.files.keys() ^ {f"{array}.npy" for array in self.arrays_of_shard})
        if other:
            raise StoreError(f"{path} does not hold the arrays that the manifest says: {other[0]}")
        return record, digest

    @functools.cached_property
    def matrices(self) -> Arrays:
        """The arrays of a shard that keeps its matrices."""
        return matrices_of(self.manifest.settings)

    @functools.cached_property
    def tables(self) -> Arrays:
        """The tables."""
        return tables_of(self.manifest.settings)

    @property
    def arrays_of_shard(self) -> Arrays:
        """The arrays of a finished shard."""
        return self.tables if self.manifest.settings.options.keep == "top" else self.matrices

    def shape_in(self, record: ShardRecord, name: str) -> Shape:
        """The shape of a matrix of a shard."""
        return getattr(record.rows, quantity_of(name)), *self.matrices[name][1][1:]

    def _check_range(self, stop: int, name: str) -> None:
        length = self.manifest.settings.dataset.length
        if stop > length:
            raise StoreError(f"{self.folder / name} holds sample {stop - 1} of a dataset of {length}")


def place_of_store(path: str | Path) -> Place:
    """Where the sweep of a store lies.

    Raises
    ------
    StoreError
        If there is no store, it is of another format, or its manifest says what cannot be.
    """
    try:
        with opened(path) as folder:
            return _place(Path(path), folder)
    except FileNotFoundError:
        raise StoreError(f"{path}: {NO_STORE}") from None


def place_of_sweep(path: Path, folder_name: str) -> Place | None:
    """Where a sweep lies that is to replace that of a store, if it has been begun."""
    try:
        with opened(path, folder_name) as folder:
            place = _place(path, folder) if folder.has(MANIFEST) else None
    except FileNotFoundError:
        return None
    if place is not None and place.manifest.folder != folder_name:
        raise StoreError(f"{path / folder_name / MANIFEST} is that of another folder")
    return place


def place_with(path: Path, manifest_hash: str) -> Place:
    """Where the sweep with a manifest lies, be it that of the store or one that is to replace it.

    Raises
    ------
    StoreError
        If it is not there any more.
    """
    try:
        names = sweep_folders(path)
    except FileNotFoundError:
        names = []
    for name in (*names, None):  # the store's own last, since a sweep may take its place just now
        try:
            found = place_of_store(path) if name is None else place_of_sweep(path, name)
        except StoreError:  # another one is damaged
            continue
        if found is not None and found.manifest_hash == manifest_hash:
            return found
    raise StoreError(f"{path} has been replaced by a store of another sweep in the meantime")


def sweep_folders(path: Path) -> list[str]:
    """Names of the folders of sweeps in that of a store."""
    with opened(path) as folder:
        return [name for name in folder.names() if is_sweep_folder(name) and folder.kind(name) == "a folder"]


def is_sweep_folder(name: str) -> bool:
    """Whether a folder with this name is that of a sweep which replaces another one, or has done so."""
    return re.fullmatch("sweep-[0-9a-f]{16}-[01]", name) is not None


def _place(path: Path, folder: Folder) -> Place:
    content, digest = read_record(folder, MANIFEST, NO_STORE)
    if content.get("format") != FORMAT or content.get("version") != FORMAT_VERSION:
        raise StoreError(f"{folder.path}: manifest.json is not of the format {FORMAT} version {FORMAT_VERSION}")
    return Place(path, checked(Manifest, content, folder.path / MANIFEST), digest)


def is_store(path: str | Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    try:
        with opened(path) as folder:
            return folder.has(MANIFEST)
    except (FileNotFoundError, StoreError):
        return False


def is_sealed(path: str | Path) -> bool:
    """Whether a folder holds a store whose sweep has finished."""
    return is_store(path) and place_of_store(path).is_sealed()
