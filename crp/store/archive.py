"""Files of results: arrays and settings in one .npz, without pickle."""
from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_archive(path: str | Path, kind: str, settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
    kind : str
        What the file holds, with a version.
    settings : dict
        Anything that JSON can hold.
    arrays : dict
        Name -> array.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            contents: dict[str, Any] = {"kind": np.array(kind), "settings": np.array(_to_json(settings)), **arrays}
            np.savez_compressed(file, **contents)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _to_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, default=lambda number: number.item())  # of numpy


def read_archive(path: str | Path, kind: str, make: Callable[[dict, dict], Any]) -> Any:
    """Read what :func:`write_archive` wrote.

    Parameters
    ----------
    path : str or Path
    kind : str
        What the file has to hold.
    make : callable
        ``(settings, arrays) -> result``.

    Raises
    ------
    ValueError
        If the file holds anything else; FileNotFoundError if there is none.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        found, settings = str(arrays.pop("kind")), json.loads(str(arrays.pop("settings")))
        if found != kind:
            raise ValueError(f"it holds {found!r}")
        return make(settings, arrays)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no {kind!r} that can be read: {error!r}") from error
