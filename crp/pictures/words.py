"""Numbers and lists in words of pictures, pages and the command line."""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def percent(part: float) -> str:
    """A share in percent: whole from ten on, two digits below."""
    part = 100 * part + 0.  # no minus zero
    return f"{part:.0f}%" if abs(part) >= 9.95 else f"{part:.2g}%"


def in_words(items: Iterable[Any]) -> str:
    """Items in a row, such as ``4, 7 and 9``."""
    words = [str(item) for item in items]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
