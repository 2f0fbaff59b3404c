"""Text on its way to a terminal, which obeys some characters instead of showing them."""
from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
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


@contextmanager
def nothing_on_standard_output() -> Iterator[None]:
    """Let what is printed within the context, here or by processes that begin in it, go to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def in_flags(message: str, options: Mapping[str, object]) -> str:
    """A message in terms of flags, such as ``--min-samples 9``, in the place of arguments: ``min_samples=9``.

    Parameters
    ----------
    message : str
    options : mapping
        Names of the arguments that have a flag -> their values, which are truth values where a flag takes none.
    """
    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if value is None and "_" not in name:
            return found[0]  # a word, such as method
        takes_value = value and not isinstance(options[name], bool)
        return f"--{name.replace('_', '-')}" + (f" {value.strip(chr(39))}" if takes_value else "")

    names = "|".join(map(re.escape, options))
    return re.sub(rf"(?<![\w.])(?P<name>{names})(?:=(?P<value>'[^']*'|[\w.-]*[\w-]))?(?!\w)", flag, message)
