"""Keeps pictures of references on the disk, so that they are made once."""
from __future__ import annotations

import hashlib
import inspect
import json
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from crp.model.successors import Successor
from crp.store.folder import Folder, opened
from crp.store.temporaries import remove_ended, temporary


class Cache(ABC, Successor):
    """Where ``FeatureVisualization`` looks for references before it computes them.

    A ``key`` is a dict of everything beside the id that changes a reference.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for method, arguments in (cls.load, "ids, key"), (cls.save, "references, key"):
            try:
                inspect.signature(method).bind(None, *arguments.split(", "))
            except TypeError:
                raise TypeError(
                    f"{cls.__name__}.{method.__name__} is called with ({arguments}): key is a dict of all that changes "
                    "a picture"
                ) from None

    @abstractmethod
    def load(self, ids: list, key: dict) -> tuple[dict, list]:
        """Look up references.

        Parameters
        ----------
        ids : list of int or str
        key : dict

        Returns
        -------
        found : dict
            id -> reference.
        missing : list
            The ids that are not kept.
        """

    @abstractmethod
    def save(self, references: dict, key: dict) -> None:
        """Keep references, id -> reference."""

    def extend_dict(self, ref_original: dict, rf_addition: dict) -> dict:
        """Join two dicts of references."""
        return {**ref_original, **rf_addition}


class ImageCache(Cache):
    """Keeps pictures as PNG files in a folder.

    Pictures that are lost or damaged are made again. Several processes may fill and read one cache: the pictures of a
    reference appear at once, in a folder of their own.

    Parameters
    ----------
    path : str or Path, default "cache"
    """

    replaced = dict.fromkeys(["_create_path", "_save_img_list", "_load_img_list"], "override load and save")

    def __init__(self, path: str | Path = "cache"):
        self.path = Path(path)

    def load(self, ids: list, key: dict) -> tuple[dict, list]:
        """Look up pictures; see :meth:`Cache.load`."""
        found, missing = {}, []
        for reference_id in ids:
            try:
                found[reference_id] = _read_while_others_write(self._folder(reference_id, key))
            except _DAMAGES:
                missing.append(reference_id)
        return found, missing

    def save(self, references: dict, key: dict) -> None:
        """Keep pictures: per id a list of PIL images, or a tuple of such lists.

        Raises
        ------
        TypeError
            If a reference holds something else.
        """
        for reference_id, value in references.items():
            parts = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(part, list) and all(isinstance(i, Image.Image) for i in part) for part in parts):
                raise TypeError("an ImageCache keeps lists of PIL images; this plot_fn gives something else")
            folder = self._folder(reference_id, key)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with opened(folder.parent) as parent:
                remove_ended(parent, "pictures")
                with temporary(parent, "pictures") as unfinished:
                    unfinished.write(_KEY, json.dumps(key, indent=1, sort_keys=True, default=str).encode())
                    unfinished.rename(_KEY, parent, _KEY)
                    with unfinished.make("new") as new:
                        _write(new, parts, isinstance(value, tuple))
                    _put_in_place(unfinished, parent, folder.name)

    def _folder(self, reference_id: Any, key: dict) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        return self.path / digest[:24] / str(reference_id).replace(":", "_")


_KEY, _PARTS = "key.json", "parts.json"
_DAMAGES = OSError, ValueError, KeyError, TypeError, SyntaxError  # whatever may be wrong with a picture


def _put_in_place(unfinished: Folder, parent: Folder, name: str) -> None:
    """Let a folder with new pictures take the place of the one that has the name."""
    with suppress(FileNotFoundError):  # nothing is there, or another process has just moved it away
        parent.rename(name, unfinished, "old")
    unfinished.rename_if_first("new", parent, name)


def _read_while_others_write(folder: Path) -> list | tuple:
    """Pictures in a folder, which another process may be putting in its place."""
    for pause in (0, .001, .01):
        time.sleep(pause)
        try:
            return _read(folder)
        except FileNotFoundError:
            pass
    return _read(folder)


def _write(folder: Folder, parts: tuple[list, ...], is_tuple: bool) -> None:
    for i, part in enumerate(parts):
        for j, picture in enumerate(part):
            with folder.create(_picture_name(i, j)) as file:
                picture.save(file, "png")
    with folder.create(_PARTS) as file:
        file.write(json.dumps({"counts": [len(part) for part in parts], "is_tuple": is_tuple}).encode())


def _read(path: Path) -> list | tuple:
    with opened(path) as folder:  # the same one until all is read, also when another takes its place
        with folder.read(_PARTS) as file:
            kept = json.loads(file.read())
        counts = enumerate(kept["counts"])
        parts = [[_open(folder, _picture_name(i, j)) for j in range(count)] for i, count in counts]
    return tuple(parts) if kept["is_tuple"] else parts[0]


def _picture_name(part: int, number: int) -> str:
    return f"{part}.{number:06d}.png"


def _open(folder: Folder, name: str) -> Image.Image:
    with folder.read(name) as file, Image.open(file) as picture:
        picture.load()
    return picture
