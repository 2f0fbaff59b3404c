"""Records: JSON files that hold their own hash, so that no changed byte goes unnoticed, of a size that can be read."""
from __future__ import annotations

import hashlib
import json
import re
from io import BufferedReader
from itertools import accumulate
from typing import Any

from crp.store.folder import Folder, StoreError, reading_errors
from crp.store.temporaries import temporary

LARGEST_RECORD = 2 ** 24
MOST_ENTRIES = 2 ** 18
DEEPEST = 32
_HASH = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}')
_HASH_LENGTH = 81
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BRACKET = re.compile(r"[\[\]{}]")


def record_bytes(content: dict[str, Any]) -> bytes:
    """A record as a file holds it.

    Raises
    ------
    ValueError
        If it is larger than what :func:`read_record` reads.
    """
    written = json.dumps(content, indent=1).encode()
    digest = hashlib.sha256(written).hexdigest()
    _check_size(written.decode())
    return written[:-2] + f',\n "sha256": "{digest}"\n}}'.encode()


def write_record(folder: Folder, name: str, content: dict[str, Any]) -> None:
    """Write a record that is on the disk when this returns, in the place of one that is there; whole or not at all."""
    with temporary(folder, "record") as unfinished:
        unfinished.write(name, record_bytes(content))
        unfinished.rename(name, folder, name)
    folder.sync()


def read_record(folder: Folder, name: str, absent: str) -> tuple[dict[str, Any], str]:
    """The content of a record, and the sha256 of its file.

    Parameters
    ----------
    folder : Folder
    name : str
    absent : str
        What to say if there is none.

    Raises
    ------
    StoreError
        If it is absent, is not what was written, or larger than any that is written.
    """
    path = folder.path / name
    try:
        with folder.read(name) as file:
            written = file.read(LARGEST_RECORD + 1)
    except FileNotFoundError:
        raise StoreError(f"{folder.path}: {absent}") from None
    except OSError as error:
        raise reading_errors(error, path) from error
    found = _HASH.fullmatch(written[-_HASH_LENGTH:])
    if found is None or len(written) > LARGEST_RECORD:
        raise StoreError(f"{path} is damaged or was edited: it does not end with its hash")
    if hashlib.sha256(written[:-_HASH_LENGTH] + b"\n}").hexdigest().encode() != found[1]:
        raise StoreError(f"{path} is damaged or was edited: its hash does not fit its content")
    file_digest = hashlib.sha256(written).hexdigest()
    try:
        text = written.decode("ascii")
        del written
        _check_size(text)
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is damaged: it holds no fields")
    del content["sha256"]
    return content, file_digest


def _check_size(text: str) -> None:
    """Raise a ValueError for a record that takes much more memory than its file, or more than records may."""
    entries, quotes = sum(map(text.count, ",[]{}")), text.count('"')
    if len(text) > LARGEST_RECORD or entries > MOST_ENTRIES or quotes > 8 * MOST_ENTRIES:
        raise ValueError(f"a record has at most {LARGEST_RECORD} bytes and {MOST_ENTRIES} entries of a name and a text")
    steps = (1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(_STRING.sub("", text)))
    if max(accumulate(steps), default=0) > DEEPEST:
        raise ValueError(f"a record goes at most {DEEPEST} deep")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that records hold")


def file_hash(file: BufferedReader) -> str:
    """sha256 of a file that is open."""
    return hashlib.file_digest(file, "sha256").hexdigest()
