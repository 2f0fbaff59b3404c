"""Which code users wrote, and what it reads by name."""
from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BY_NAME = {"torch", "crp"}  # wherever they lie
_INSTALLED = {"site-packages", "dist-packages"}


def is_of_library(value: Any) -> bool:
    """Whether a class or function belongs to a library whose versions tell what it does."""
    return is_library(getattr(value, "__module__", None) or "")


def is_library(name: str) -> bool:
    """Whether a module is of the standard library, or installed where libraries are."""
    top = name.partition(".")[0]
    return top in sys.modules and _is_library(top)


@functools.lru_cache(4096)
def _is_library(top: str) -> bool:
    if top in _BY_NAME or top == "__main__":
        return top in _BY_NAME
    module = sys.modules[top]
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if place is None:  # it is built in, or has been made without a file
        return top in sys.stdlib_module_names
    return _is_place_of_libraries(place)


def _is_place_of_libraries(place: str) -> bool:
    standard = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return not _INSTALLED.isdisjoint(Path(place).parts) or any(Path(place).is_relative_to(path) for path in standard)


def reads_of_users(function: types.FunctionType) -> bool:
    """Whether the global names in a function are those of a module that a user wrote."""
    return not is_library(function.__globals__.get("__name__") or "")


def names_in_class(cls: type) -> frozenset[str]:
    """All names in the functions of a class."""
    functions = [item for item in vars(cls).values() if isinstance(item, types.FunctionType)]
    return frozenset[str]().union(*(_names_in(function.__code__)[1] for function in functions))


def globals_read(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Names and values of the globals that a function reads, and what it reads of modules that users wrote."""
    names, attributes, imported = _names_in(function.__code__)
    space = function.__globals__
    found = {name: space[name] for name in names if name in space}
    for name in imported:
        module = _imported(_absolute(name, space.get("__package__")))
        if module is not None:
            found[name] = module
    seen: set[int] = set()
    for name, value in sorted(found.items()):
        yield from _in_modules(name, value, attributes, seen)


def _in_modules(name: str, value: Any, attributes: frozenset[str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, types.ModuleType) or is_library(value.__name__):
        yield name, value
    elif id(value) not in seen:
        seen.add(id(value))
        for attribute in sorted(attributes & vars(value).keys()):
            yield from _in_modules(attribute, vars(value)[attribute], attributes, seen)


@functools.lru_cache(8192)
def _names_in(code: types.CodeType) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names that code and what it defines read as globals, other names in it, and modules that it imports."""
    instructions = list(dis.get_instructions(code))
    names = {item.argval for item in instructions if item.opname == "LOAD_GLOBAL"}
    imported = {
        "." * instructions[i - 2].argval + item.argval
        for i, item in enumerate(instructions) if item.opname == "IMPORT_NAME"
    }
    nested = [_names_in(item) for item in code.co_consts if isinstance(item, types.CodeType)]
    own = ({name for name in names if not name.startswith("__")}, set(code.co_names), imported)
    read, attributes, modules = (frozenset[str]().union(*parts) for parts in zip(own, *nested))
    return read, attributes, modules


def _imported(name: str) -> types.ModuleType | None:
    """A module of users that a function imports when it runs: imported now, so that it counts before and after."""
    top = name.partition(".")[0]
    try:
        if top in sys.modules and is_library(top) or top not in sys.modules and _is_installed(top):
            return None
        return sys.modules.get(name) or importlib.import_module(name)
    except Exception:  # whatever goes wrong there, which the function may never come to
        return None


def _is_installed(top: str) -> bool:
    """Whether a module that has not been imported yet is a library, or cannot be found."""
    spec = importlib.util.find_spec(top)
    return spec is None or spec.origin is None or _is_place_of_libraries(spec.origin)


def _absolute(name: str, package: str | None) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # it is relative to no package
        return name
