"""The format of .npy, as far as stores use it: numbers and rows of them, in C order, and nothing else."""
from __future__ import annotations

import io
import math
import re
from io import BufferedIOBase
from typing import Literal

import numpy as np

from crp.store.files import ROW_DTYPE, TABLE_DTYPE

_MAGIC, _LONGEST_HEADER = b"\x93NUMPY\x01\x00", 2 ** 12
_LENGTHS = r"(?:\d{1,19}, ?)*(?:\d{1,19})?"
_HEADER = re.compile(rf"\{{'descr': (.{{3,400}}), 'fortran_order': (False|True), 'shape': \(({_LENGTHS})\), \}} *\n")
_PLAIN = re.compile(r"'(?:\|b1|\|[iu]1|<[iu][248]|<f[248]|<U[1-9]\d{0,6})'")
_NUMBERS = re.compile(r"'(?:\|b1|\|[iu]1|[<>][iu][248]|[<>]f[248])'")
_TEXT = re.compile(r"'[<>]U(?:[1-9]|1\d|20)'")  # as long as an integer may be
_RECORDS = {repr(dtype.descr): dtype for dtype in (ROW_DTYPE, TABLE_DTYPE)}
MOST_AXES = 32


def header_of(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What a .npy begins with. It keeps its length while the first axis grows, since numpy pads it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {
        "descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape
    })
    return header.getvalue()


def read_header(file: BufferedIOBase) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type and shape of the array in a file, and where its numbers begin.

    Raises
    ------
    ValueError
        If it is no .npy, or of any other kind than stores have: objects, Fortran order, other types.
    """
    described, order, shape, start = _parsed(file)
    if order == "F":
        raise ValueError("its header is not one that is written here: numbers in C order")
    return _dtype(described), shape, start


def read_header_of_others(
    file: BufferedIOBase, *, text: bool = False
) -> tuple[np.dtype, Literal["C", "F"], tuple[int, ...], int]:
    """Type, order and shape of an array that another program wrote, and where its numbers begin.

    Raises
    ------
    ValueError
        If it is no .npy, or holds anything else than numbers, or short texts where ``text`` allows them.
    """
    described, order, shape, start = _parsed(file)
    if not _NUMBERS.fullmatch(described) and not (text and _TEXT.fullmatch(described)):
        raise ValueError(f"it holds {described[:99]}, which are no numbers")
    return np.dtype(described[1:-1]), order, shape, start


def _parsed(file: BufferedIOBase) -> tuple[str, Literal["C", "F"], tuple[int, ...], int]:
    """What a header says: the type as it is written, order, shape, and where the numbers begin."""
    start = file.read(len(_MAGIC) + 2)
    length = int.from_bytes(start[-2:], "little")
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC) or length > _LONGEST_HEADER:
        raise ValueError("it is no .npy of version 1.0")
    written = file.read(length)
    header = _HEADER.fullmatch(written.decode("latin-1"))
    if header is None or len(written) < length:
        raise ValueError("its header is not one that is written here: numbers in C order")
    shape = tuple(int(length) for length in header[3].split(",") if length.strip())
    if len(shape) > MOST_AXES:
        raise ValueError(f"it has {len(shape)} axes")
    return header[1], "F" if header[2] == "True" else "C", shape, len(start) + length


def _dtype(described: str) -> np.dtype:
    if _PLAIN.fullmatch(described):
        return np.dtype(described[1:-1])
    if described in _RECORDS:
        return _RECORDS[described]
    raise ValueError(f"it holds {described[:99]}, which no file of a store does")


def read_array(file: BufferedIOBase, size: int) -> np.ndarray:
    """The array in a file of a size, which is read at once.

    Raises
    ------
    ValueError
        If it is no such array, or has not the size that its header says.
    """
    dtype, shape, start = read_header(file)
    if start + dtype.itemsize * math.prod(shape) != size:
        raise ValueError(f"it has {size} bytes, which do not fit its header: {dtype} {shape}")
    array = np.empty(shape, dtype)
    unread = array.reshape(-1).view(np.uint8).data
    while len(unread):
        count = file.readinto(unread)
        if not count:
            raise ValueError("it ends before its last number")
        unread = unread[count:]
    return array


def array_bytes(array: np.ndarray) -> bytes:
    """What a .npy with an array holds, in C order."""
    return header_of(array.dtype, array.shape) + array.tobytes()


Shape = tuple[int | None, ...]


def is_shape(shape: tuple[int, ...], expected: Shape) -> bool:
    """Whether a shape is the expected one, in which None stands for any length."""
    return len(shape) == len(expected) and all(wanted in (None, length) for length, wanted in zip(shape, expected))


def in_words(expected: Shape) -> str:
    """An expected shape, as messages give it."""
    return f"({', '.join('any' if length is None else str(length) for length in expected)})"
