"""What to sweep, told by a function: for the command line, and for workers that make model and dataset themselves."""
from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle


def load_spec(name: str) -> Callable[[], Any]:
    """The function that a text names.

    Parameters
    ----------
    name : str
        ``module:function``, ``folder/file.py:function``, or ``folder/file.py`` for its function ``sweep``.

    Raises
    ------
    ValueError
        If there is no such file, module or function.
    """
    place, _, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "sweep")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ValueError(f"there is no file {place}")
        spec: Any = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        cloudpickle.register_pickle_by_value(module)  # which other processes do not find
    else:
        try:
            sys.path.insert(0, "")
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ValueError(f"{name!r} is no file.py, file.py:function or module:function: {error}") from error
        finally:
            sys.path.remove("")
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        nearest = difflib.get_close_matches(function, known, n=1) or known[:3]
        raise ValueError(f"{place} has no function {function!r}; it has {', '.join(nearest) or 'none'}")
    return found
