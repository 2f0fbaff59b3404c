"""The modules of the pages in one script: modules cannot be loaded from ``file://`` and in notebooks, and a server is
asked once instead of once for each.
"""
from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

_WEB = Path(str(importlib.resources.files("crp.explorer") / "web"))
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?:async )?(?:function|class|const) (\w+)", re.MULTILINE)


def joined(entry: str) -> str:
    """All modules that a module of the pages needs, and itself, as statements of one function.

    Parameters
    ----------
    entry : str
        A file of ``web``; what it exports can be had as ``modules[entry]`` afterwards.

    Raises
    ------
    ValueError
        If a module imports or exports in a way that is not understood.
    """
    done: list[str] = []
    _collect(entry, done, [])
    return "const modules = {};\n" + "\n".join(_as_function(name) for name in done)


def as_script(entry: str, after: str = "") -> str:
    """A module with all that it needs as a classic script, which leaves nothing behind in the page.

    Parameters
    ----------
    entry : str
        A file of ``web``.
    after : str, default ""
        Statements that come after the modules.
    """
    return f'(() => {{\n"use strict";\n{joined(entry)}\n{after}}})();\n'


def styles() -> str:
    """All that the pages look like."""
    return "\n".join(map(source_of, ("style.css", "charts.css")))


def source_of(name: str) -> str:
    """What a file of ``web`` says."""
    return (_WEB / name).read_text(encoding="utf-8")


def _collect(name: str, done: list[str], waiting: list[str]) -> None:
    """Modules in the order in which they can be run."""
    if name in waiting:
        raise ValueError(f"modules import each other in a circle: {' -> '.join([*waiting, name])}")
    for _, other in _IMPORT.findall(source_of(name)):
        if other not in done:
            _collect(other, done, [*waiting, name])
    if name not in done:
        done.append(name)


def _as_function(name: str) -> str:
    """A module as a function that is run at once, and leaves what it exports in ``modules``."""
    source = source_of(name)
    exports = _EXPORT.findall(source)
    source = _IMPORT.sub(lambda found: f'const {{{found[1]}}} = modules["{found[2]}"];\n', source)
    source = re.sub(r"^export (?=async |function|class|const)", "", source, flags=re.MULTILINE)
    if left := re.search(r"^(?:import|export)\b.*", source, re.MULTILINE):
        raise ValueError(f"{name} says {left[0]!r}, which cannot be joined")
    return f'modules["{name}"] = (() => {{\n{source}\nreturn {{ {", ".join(exports)} }};\n}})();\n'
