"""Beginning a store, and replacing what one holds by another sweep, with one rename when that is complete."""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from crp.store.folder import Folder, StoreError, opened
from crp.store.place import MANIFEST, SEAL, Place, is_store, place_of_store, place_of_sweep, sweep_folders
from crp.store.records import LARGEST_RECORD, record_bytes
from crp.store.runs import is_alone
from crp.store.schema import FORMAT, FORMAT_VERSION, Manifest, checked
from crp.store.settings import check_settings, describe_environment, warn_of_other_environment
from crp.store.temporaries import remove_ended, temporary

_PARTS = (SEAL, "tables", "shards", "patterns")


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
            for name in _PARTS:
                if folder.has(name) and not folder.has(MANIFEST):
                    raise StoreError(f"{path} holds {name!r} but no store: choose another path, or move it away")
            _write_manifest(folder, None, settings, device)
    place = place_of_store(path)
    _go_on(place, settings, device)
    return place


def begin_replacement(path: Path, settings: dict[str, Any], device: str) -> Place:
    """Write the manifest of a sweep that is to replace that of a store, or find the one that was begun.

    Raises
    ------
    StoreError
        If there is a manifest.json of something else.
    """
    current = _folder_of_sweep(path)
    stem = f"sweep-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}"
    name = f"{stem}-{int(current == f'{stem}-0')}"
    with opened(path) as store:
        try:
            place = place_of_sweep(path, name)
        except StoreError:
            place = None
        if place is None:
            store.remove(name)
            with store.make(name) as folder:
                _write_manifest(folder, name, settings, device)
            place = place_of_sweep(path, name)
    if place is None:
        raise StoreError(f"{path / name} was removed by another process: run again")
    _go_on(place, settings, device)
    return place


def replace_store(place: Place) -> None:
    """Make a finished sweep the one of its store, and remove what was there before, if that has not been done."""
    with place.open_store() as store:
        with place.open() as folder:
            if folder.has(MANIFEST):
                folder.rename(MANIFEST, store, MANIFEST)
                store.sync()
        for name in _PARTS:
            store.remove(name)
        kept = {place.manifest.folder, place_of_store(place.path).manifest.folder}
        for name in sweep_folders(place.path):
            if name not in kept and _is_left(store, name):
                store.remove(name)


def remove_sweep(place: Place) -> None:
    """Remove a sweep that was to replace that of its store."""
    if place.manifest.folder is not None:
        with place.open_store() as store:
            store.remove(place.manifest.folder)


def _is_left(store: Folder, name: str) -> bool:
    """Whether nobody sweeps into a folder any more."""
    with store.folder(name) as folder:
        return is_alone(folder)


def _write_manifest(folder: Folder, name: str | None, settings: dict[str, Any], device: str) -> None:
    """Write a manifest, unless another process was first."""
    manifest = checked(Manifest, {
        "format": FORMAT, "version": FORMAT_VERSION, "folder": name, "made_with": describe_environment(device),
        "settings": settings,
    }, folder.path / MANIFEST)
    with temporary(folder, "manifest") as unfinished:
        unfinished.write(MANIFEST, record_bytes(manifest.content()))
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
    with place.open() as folder, folder.make("shards") as shards:
        remove_ended(shards)
        remove_ended(folder)


def _folder_of_sweep(path: Path) -> str | None:
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
