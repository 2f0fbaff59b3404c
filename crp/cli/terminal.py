"""Text on its way to a terminal, which obeys some characters instead of showing them."""
from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def printable(text: str) -> str:
    r"""A text with escapes, such as ``\x1b`` or ``\u202e``, in the place of characters that a terminal would obey.

    These are control characters, line breaks, and those that turn the direction of writing or cannot be seen.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printable_message(text: str) -> str:
    """A text of several lines, printable, all but the first of them indented: none looks like one of its own."""
    return "\n  ".join(map(printable, text.split("\n")))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, whatever names are in them."""
    for line in lines:
        print(printable(line))


@contextmanager
def printable_warnings() -> Iterator[None]:
    """Let messages of warnings be printable within the context."""
    format_warning = warnings.formatwarning

    def format_printable(message: Warning | str, *arguments: Any) -> str:
        return format_warning(printable_message(str(message)), *arguments)

    warnings.formatwarning = format_printable  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.formatwarning = format_warning
