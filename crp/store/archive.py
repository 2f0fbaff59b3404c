"""Files of results: arrays and settings in one .npz, without pickle, of which no member is larger than it may be."""
from __future__ import annotations

import io
import json
import os
import secrets
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np

from crp.store.npy import array_bytes, read_array

_END, _LOCATOR, _LARGE_END = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_MOST_MEMBERS, _LARGEST_DIRECTORY = 2 ** 8, 2 ** 16
_MOST_BEYOND_THE_FILE = 2 ** 25


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
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        unfinished.write_bytes(archive_bytes(kind, settings, arrays))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def archive_bytes(kind: str, settings: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """What a file of results holds."""
    content = io.BytesIO()
    # not compressed, so that reading takes as much memory as the file
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {"kind": np.array(kind), "settings": np.array(_to_json(settings)), **arrays}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(array_bytes(array))
    return content.getvalue()


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
    with open(path, "rb") as file:
        return read_open_archive(file, path, kind, make)


def read_open_archive(file: BufferedReader, path: str | Path, kind: str, make: Callable[[dict, dict], Any]) -> Any:
    """Read what :func:`write_archive` wrote from a file that is open."""
    try:
        arrays = _arrays(file)
        found, settings = str(arrays.pop("kind")), json.loads(str(arrays.pop("settings")))
        if found != kind:
            raise ValueError(f"it holds {ascii(found)[:99]}")
        return make(settings, arrays)
    except Exception as error:  # whatever zipfile and the maker of the result raise at a file of somebody else
        raise ValueError(f"{path} holds no {kind!r} that can be read: {error!r:.500}") from error


def _arrays(file: BufferedReader) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > size + _MOST_BEYOND_THE_FILE:
            raise ValueError(f"it unpacks to {unpacked} bytes, and has {size}")
        arrays = {}
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{ascii(member.filename)[:99]} is compressed in a way that is not used here")
            with archive.open(member) as content:
                name = member.filename.removesuffix(".npy")
                arrays[name] = read_array(cast(BufferedReader, content), member.file_size)
    return arrays


def _check_directory(file: BufferedReader, size: int) -> None:
    """Raise a ValueError for an archive with a directory that is larger than ours, before it is read."""
    file.seek(max(size - 98, 0))
    tail = file.read(98)
    end, locator, large_end = tail[-22:], tail[-42:-22], tail[-98:-42]
    if not end.startswith(_END) or not end.endswith(b"\0\0"):
        raise ValueError("it is no .npz")
    members, directory = struct.unpack("<HL", end[10:16])
    if locator.startswith(_LOCATOR):
        if not large_end.startswith(_LARGE_END):
            raise ValueError("it is no .npz")
        members, directory = struct.unpack("<QQ", large_end[32:48])
    if members > _MOST_MEMBERS or directory > _LARGEST_DIRECTORY:
        raise ValueError(f"it says to have {members} members")
