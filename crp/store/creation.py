"""Beginning a store, and replacing what one holds by another sweep, with one rename when that is complete."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crp.store.folder import Folder, StoreError, opened
from crp.store.place import MANIFEST, PARTS, Place, is_store, place_of_store, place_of_sweep, sweep_folders
from crp.store.records import LARGEST_RECORD, record_bytes
from crp.store.runs import is_alone
from crp.store.schema import FORMAT, FORMAT_VERSION, Manifest, checked
from crp.store.settings import check_settings, describe_environment, warn_of_other_environment
from crp.store.temporaries import discard, locked, remove_ended, remove_free_lock, remove_lock, temporary


def create_store(path: Path, settings: dict[str, Any], device: str) -> Place:
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
    if not is_store(path):
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file; a store is a folder")
        path.mkdir(parents=True, exist_ok=True)
        with opened(path) as folder:
            for name in PARTS:
                if folder.has(name) and not folder.has(MANIFEST):
                    raise StoreError(f"{path} holds {name!r} but no store: choose another path, or move it away")
            _write_manifest(folder, settings, device)
    place = place_of_store(path)
    _go_on(place, settings, device)
    return place


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Have it on record, under a name, that a sweep is to replace that of a store, as long as this goes on."""
    with opened(path) as store, temporary(store, "replacement") as note:
        yield note.path.name


def begin_replacement(path: Path, settings: dict[str, Any], device: str) -> Place:
    """Begin a sweep that is to replace that of a store, or find the one that was begun.

    Raises
    ------
    StoreError
        If there is a manifest.json of something else.
    """
    stem = f"sweep-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}"
    with opened(path) as store, locked(store):
        # whether it was begun is looked at first: its manifest becomes the store's by one rename
        name = next(name for name in (f"{stem}-0", f"{stem}-1") if _begun(path, name) or _folder_in_use(path) != name)
        place = _begun(path, name)
        if place is None:
            discard(store, name)
            with temporary(store, "sweep") as begun:
                begun.write(MANIFEST, _manifest_bytes(begun, name, settings, device))
                remove_lock(begun)
                begun.sync()
                store.rename(begun.path.name, store, name)
            store.sync()
            place = place_of_sweep(path, name)
    if place is None:
        raise StoreError(f"{path / name} was removed by another process: run again")
    _go_on(place, settings, device)
    return place


def replace_store(place: Place, note: str) -> None:
    """Make a finished sweep the one of its store, and remove what was there before, if that has not been done.

    Parameters
    ----------
    place : Place
    note : str
        Name under which this is on record.
    """
    with place.open_store() as store:
        with locked(store), place.open() as folder:
            try:
                folder.rename(MANIFEST, store, MANIFEST)
            except FileNotFoundError:  # it is the store's already
                pass
            store.sync()
        if is_alone(store, "replacement", besides=note):
            for name in sweep_folders(place.path):
                if _begun(place.path, name) is not None:
                    discard(store, name)
    remove_replaced(place.path)


def remove_replaced(path: Path) -> None:
    """Remove what is left of sweeps that were replaced, and of replacing them."""
    with opened(path) as store:
        if _replaced(path):
            with locked(store):
                for name in _replaced(path):
                    discard(store, name)
        remove_ended(store)
        remove_free_lock(store)


def _replaced(path: Path) -> list[str]:
    """Names of folders without a manifest of their own that are not the store's, and of parts where they were first."""
    with opened(path) as store:
        without = []
        for name in sweep_folders(path):
            with store.folder(name) as folder:
                if not folder.has(MANIFEST):
                    without.append(name)
        try:
            used = place_of_store(path).manifest.folder
        except StoreError:  # nobody can tell
            return []
        parts = [] if used is None else [name for name in PARTS if store.has(name)]
        return [name for name in without if name != used] + parts


def remove_sweep(place: Place) -> None:
    """Remove a sweep that was to replace that of its store."""
    with place.open_store() as store:
        discard(store, place.folder.name)


def _begun(path: Path, name: str) -> Place | None:
    """Where a sweep lies that is to replace that of a store, if it has been begun and is not damaged."""
    try:
        return place_of_sweep(path, name)
    except StoreError:
        return None


def _manifest_bytes(folder: Folder, name: str | None, settings: dict[str, Any], device: str) -> bytes:
    manifest = checked(Manifest, {
        "format": FORMAT, "version": FORMAT_VERSION, "folder": name, "made_with": describe_environment(device),
        "settings": settings,
    }, folder.path / MANIFEST)
    return record_bytes(manifest.content())


def _write_manifest(folder: Folder, settings: dict[str, Any], device: str) -> None:
    """Write the manifest of a store, unless another process was first."""
    with temporary(folder, "manifest") as unfinished:
        unfinished.write(MANIFEST, _manifest_bytes(folder, None, settings, device))
        try:  # unlike a rename, a link fails where another process was first
            os.link(MANIFEST, MANIFEST, src_dir_fd=unfinished.descriptor, dst_dir_fd=folder.descriptor)
        except FileExistsError:
            pass
        except OSError:  # there are no links here; if two were first at once, one finds that its manifest is not there
            if not folder.has(MANIFEST):
                unfinished.rename(MANIFEST, folder, MANIFEST)
    folder.sync()


def _go_on(place: Place, settings: dict[str, Any], device: str) -> None:
    check_settings(place, settings)
    warn_of_other_environment(place, device)
    if not place.is_sealed():
        with place.removal_in_words(), place.open() as folder, folder.make("shards") as shards:
            remove_ended(shards)
            remove_ended(folder)


def _folder_in_use(path: Path) -> str | None:
    """The folder of the sweep that a store holds; None for the store's own, also of one that is damaged."""
    try:
        return place_of_store(path).manifest.folder
    except StoreError:
        with opened(path) as folder:
            if not _is_ours(folder):
                raise StoreError(f"{path / MANIFEST} is not that of a store: delete the folder yourself") from None
    return None


def _is_ours(folder: Folder) -> bool:
    """Whether there is a manifest of a store, be it damaged or of another version."""
    with folder.read(MANIFEST) as file:
        return f'"format": "{FORMAT}"'.encode() in file.read(LARGEST_RECORD)
