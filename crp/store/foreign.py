"""Arrays that other programs wrote into folders: numbers in a file of the folder, and nothing that a link leads to."""
from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

import numpy as np

from crp.store.folder import StoreError, opened, reading_errors
from crp.store.npy import read_header_of_others


def mapped_array(path: Path, name: str, *, text: bool = False) -> np.ndarray:
    """An array in a .npy below a folder, mapped.

    Parameters
    ----------
    path : Path
        The folder, to which links may lead.
    name : str
        Of the file, with those of the folders to it.
    text : bool, default False
        Let it hold short texts as well.

    Raises
    ------
    FileNotFoundError
        If there is none.
    StoreError
        If the name leads out of the folder or through a link, or the file holds anything else.
    """
    *folders, file_name = parts_within(path, name)
    try:
        with opened(path, *folders) as folder, folder.read(file_name) as file:
            dtype, order, shape, start = read_header_of_others(file, text=text)
            if os.fstat(file.fileno()).st_size != start + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"its size does not fit its header: {dtype} {shape}")
            return np.memmap(file, dtype, "r", start, shape, order) if math.prod(shape) else np.empty(shape, dtype)
    except (FileNotFoundError, StoreError):
        raise
    except OSError as error:
        raise reading_errors(error, path / name) from error
    except ValueError as error:
        raise StoreError(f"{path / name} cannot be read: {error}") from None


def parts_within(path: Path, name: str) -> tuple[str, ...]:
    """The names on the way from a folder to a file below it; a StoreError if the way leads out of it."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\0" in name:
        raise StoreError(f"{name[:200]!r} is no file below {path}")
    return parts
