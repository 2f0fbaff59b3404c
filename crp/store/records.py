"""Records: JSON files that hold their own hash, so that no changed byte goes unnoticed; and files that stay written."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


class StoreError(ValueError):
    """A store that is missing, unfinished, damaged, or made with other settings."""


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a record that is on the disk when this returns."""
    write_durably(path, _record_bytes(content))


def read_record(path: Path, absent: str) -> dict[str, Any]:
    """The content of a record.

    Parameters
    ----------
    path : Path
    absent : str
        What to say if there is none.

    Raises
    ------
    StoreError
        If it is absent, or differs from what was written.
    """
    try:
        written = path.read_bytes()
        content = json.loads(written)
    except FileNotFoundError:
        raise StoreError(f"{path.parent}: {absent}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict) or content.pop("sha256", None) is None or _record_bytes(content) != written:
        raise StoreError(f"{path} is damaged or was edited: its hash does not fit its content")
    return content


def _record_bytes(content: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1).encode()


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which is on the disk when the context ends."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with durable_file(path) as file:
        file.write(content)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def paths_below(folder: Path) -> Iterator[Path]:
    """Files and folders in a folder and those below it; others may remove some meanwhile."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)
