"""Keeps pictures of references, so that they are made once."""
from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from PIL import Image


class Cache(ABC):
    """Where ``FeatureVisualization`` looks for references before it computes them.

    A ``key`` is a dict of everything beside the id that changes a reference.
    """

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

    def extend_dict(self, references: dict, more: dict) -> dict:
        """Join two dicts of references."""
        return {**references, **more}


class ImageCache(Cache):
    """Keeps pictures as PNG files in a folder.

    Parameters
    ----------
    path : str or Path, default "cache"
    """

    def __init__(self, path: str | Path = "cache"):
        self.path = Path(path)

    def load(self, ids: list, key: dict) -> tuple[dict, list]:
        """Look up pictures; see :meth:`Cache.load`."""
        found, missing = {}, []
        for reference_id in ids:
            folder = self._folder(reference_id, key)
            if not folder.is_dir():
                missing.append(reference_id)
                continue
            parts: dict[str, list] = {}
            for file in sorted(folder.glob("*.png")):
                with Image.open(file) as picture:
                    picture.load()
                parts.setdefault(file.name.partition(".")[0], []).append(picture)
            count = json.loads((folder / "parts.json").read_text())
            lists = [parts.get(str(i), []) for i in range(count or 1)]
            found[reference_id] = tuple(lists) if count else lists[0]
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
            temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
            temporary.mkdir(parents=True)
            for i, part in enumerate(parts):
                for j, picture in enumerate(part):
                    picture.save(temporary / f"{i}.{j:06d}.png")
            (temporary / "parts.json").write_text(json.dumps(len(parts) if isinstance(value, tuple) else None))
            (folder.parent / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True, default=str))
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)

    def _folder(self, reference_id: Any, key: dict) -> Path:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        return self.path / digest[:24] / str(reference_id).replace(":", "_")
