"""What to sweep, told by a function: for the command line, and for workers that make model and dataset themselves."""
from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
from zennit.core import Composite

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization

_NEEDED = ("model", "dataset", "layers", "composite")
_OPTIONAL = ("preprocess_fn", "max_target", "abs_norm", "path", "device", "target_key", "output", "functional")


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
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
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


def visualization_of(made: Any) -> tuple[FeatureVisualization, Composite]:
    """What a specifying function gives, ready for a sweep.

    Parameters
    ----------
    made : (FeatureVisualization, zennit.core.Composite), or dict
        A dict has the ``model`` (or a CondAttribution), the ``dataset``, the ``layers`` (layer -> concept, or a list of
        layers whose channels are the concepts) and the ``composite``; and perhaps ``preprocess_fn``, ``max_target``,
        ``abs_norm``, ``path``, ``device``, ``target_key``, ``output`` or ``functional``, as FeatureVisualization and
        CondAttribution take them.

    Raises
    ------
    TypeError, ValueError
        If it is something else.
    """
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], FeatureVisualization):
        return made
    if not isinstance(made, Mapping):
        raise TypeError(
            f"a sweep is specified by a dict with {', '.join(_NEEDED)}, or by (FeatureVisualization, composite), not "
            f"by a {type(made).__name__}"
        )
    missing = [key for key in _NEEDED if key not in made]
    unknown = [key for key in made if key not in _NEEDED + _OPTIONAL]
    if missing or unknown:
        raise ValueError(
            f"a sweep is specified by {', '.join(_NEEDED)}, and perhaps {', '.join(_OPTIONAL)}: "
            + "; ".join(filter(None, [missing and f"{missing} is missing", unknown and f"{unknown} is unknown"]))
        )
    options = {key: made[key] for key in _OPTIONAL if key in made}
    model, layers = made["model"], made["layers"]
    if not isinstance(model, CondAttribution):
        how = {key: options.pop(key) for key in ("output", "functional") if key in options}
        model = CondAttribution(model, options.get("device"), **how)
    if not isinstance(layers, Mapping):
        layers = dict.fromkeys(layers, ChannelConcept())
    return FeatureVisualization(model, made["dataset"], layers, **options), made["composite"]
