"""The files that zennit-crp kept its results in, written from a store for programs that read them.

They are no part of the store: it does not read them, and they may be deleted.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from crp.store.files import TABLE_DEPTH
from crp.store.folder import Folder, opened
from crp.store.npy import array_bytes, read_header
from crp.store.temporaries import temporary

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
_PARTS = ("data", np.int64), ("rel", np.float32), ("rf", np.int64)


def write_top_views(path: Path, layers: list[str], top: Callable[[str], Columns]) -> None:
    """Write ``<layer>_data.npy``, ``_rel.npy`` and ``_rf.npy`` into a folder, each [rows, concepts].

    Parameters
    ----------
    path : Path
        Made if there is none; what it holds of these layers is replaced, file by file.
    layers : list of str
        Those whose names no file can have are left out.
    top : callable
        ``layer -> (samples, values, positions)``
    """
    with _view(path) as (unfinished, folder):
        for layer in filter(_can_be_a_name, layers):
            _put(unfinished, folder, layer, top(layer))


def write_class_views(
    path: Path, layers: list[str], classes: list[int], top: Callable[[str, int], Columns]
) -> None:
    """Write the same for each class, as ``<layer>/<class>_data.npy``, and ``targets.npy``: the classes as texts."""
    with _view(path) as (unfinished, folder):
        for layer in filter(_can_be_a_name, layers):
            with folder.make(layer) as of_layer:
                for number in classes:
                    _put(unfinished, of_layer, str(number), top(layer, number))
        _put_array(unfinished, folder, "targets", np.array([str(number) for number in classes], dtype="U"))


def rows_of_view(path: Path, layer: str) -> int:
    """How many rows the view of a layer has; as many as zennit-crp kept, where there is none."""
    try:
        with opened(path.parent, path.name) as folder, folder.read(f"{layer}_data.npy") as file:
            return read_header(file)[1][0]
    except (OSError, ValueError, IndexError):
        return TABLE_DEPTH


@contextmanager
def _view(path: Path) -> Iterator[tuple[Folder, Folder]]:
    """A folder for unfinished files beside that of a view, and that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path.parent) as parent, parent.make(path.name) as folder, temporary(parent, "view") as unfinished:
        yield unfinished, folder


def _put(unfinished: Folder, folder: Folder, name: str, columns: Columns) -> None:
    for (part, dtype), column in zip(_PARTS, columns):
        _put_array(unfinished, folder, f"{name}_{part}", np.ascontiguousarray(column, dtype))


def _put_array(unfinished: Folder, folder: Folder, name: str, array: np.ndarray) -> None:
    file_name, content = f"{name}.npy", array_bytes(array)
    if not _holds(folder, file_name, content):
        with unfinished.create(file_name) as file:
            file.write(content)
        unfinished.rename(file_name, folder, file_name)


def _holds(folder: Folder, name: str, content: bytes) -> bool:
    """Whether there is a file with this content."""
    try:
        with folder.read(name) as file:
            return file.read(len(content) + 1) == content
    except FileNotFoundError:
        return False


def _can_be_a_name(layer: str) -> bool:
    return "/" not in layer and layer.isprintable() and layer not in (".", "..") and len(layer.encode()) <= 200
