"""The modules of the pages in one script, for places where modules cannot be loaded: ``file://``, notebooks."""
from __future__ import annotations

import re

from crp.explorer.server import WEB

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


def styles() -> str:
    """All that the pages look like."""
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in ("style.css", "charts.css"))


def _collect(name: str, done: list[str], waiting: list[str]) -> None:
    """Modules in the order in which they can be run."""
    if name in waiting:
        raise ValueError(f"modules import each other in a circle: {' -> '.join([*waiting, name])}")
    for _, other in _IMPORT.findall(_source(name)):
        if other not in done:
            _collect(other, done, [*waiting, name])
    if name not in done:
        done.append(name)


def _source(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _as_function(name: str) -> str:
    """A module as a function that is run at once, and leaves what it exports in ``modules``."""
    source = _source(name)
    exports = _EXPORT.findall(source)
    source = _IMPORT.sub(lambda found: f'const {{{found[1]}}} = modules["{found[2]}"];\n', source)
    source = re.sub(r"^export (?=async |function|class|const)", "", source, flags=re.MULTILINE)
    if left := re.search(r"^(?:import|export)\b.*", source, re.MULTILINE):
        raise ValueError(f"{name} says {left[0]!r}, which cannot be joined")
    return f'modules["{name}"] = (() => {{\n{source}\nreturn {{ {", ".join(exports)} }};\n}})();\n'
