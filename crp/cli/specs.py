"""What to sweep, told by a function: for the command line, and for workers that make model and dataset themselves."""
from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

_NOT_OF_USERS = str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen importlib"


class SpecError(RuntimeError):
    """An error in the code of a specification; the message holds its traceback."""


def load_spec(name: str) -> Callable[[], Any]:
    """The function that a text names. Its file, or module, is executed.

    Modules beside the file, or in the current folder for a module, can be imported, where no other has their name.

    Parameters
    ----------
    name : str
        ``module:function``, ``folder/file.py:function``, or ``folder/file.py`` for its function ``sweep``.

    Raises
    ------
    ValueError
        If there is no such file, module or function.
    SpecError
        If the file or module raises an error.
    """
    place, _, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "sweep")
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place, name)
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        nearest = difflib.get_close_matches(function, known, n=1) or known[:3]
        raise ValueError(f"{place} has no function {function!r}; it has {', '.join(nearest) or 'none'}")
    return found


@contextmanager
def errors_of_users(name: str) -> Iterator[None]:
    """Raise errors of the code of a specification with their traceback, as a SpecError."""
    try:
        yield
    except Exception as error:  # whatever users' code raises
        frame = error.__traceback__
        while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_NOT_OF_USERS):
            frame = frame.tb_next
        told = "".join(traceback.format_exception(type(error), error, frame)).rstrip()
        raise SpecError(f"{name} fails:\n{told}") from error


def _load_file(file: Path) -> ModuleType:
    """Execute a file as a module whose name no other has, and which other processes get by value."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    _find_modules_in(file.resolve().parent)
    spec: Any = importlib.util.spec_from_file_location("crp_spec_" + re.sub(r"\W", "_", file.stem), file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with errors_of_users(str(file)):
        spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


def _load_module(place: str, name: str) -> ModuleType:
    no_spec = f"{name!r} is no file.py, file.py:function or module:function"
    if not place:
        raise ValueError(no_spec)
    _find_modules_in(Path.cwd())
    try:
        with errors_of_users(place):
            return importlib.import_module(place)
    except SpecError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{place}.".startswith(f"{cause.name}."):
            raise ValueError(f"{no_spec}: {cause}") from cause
        raise


def _find_modules_in(folder: Path) -> None:
    """Look for modules in a folder too, after all others; processes that are spawned do so as well."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
