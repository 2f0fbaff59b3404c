"""What decides the contents of a store, and how two of them differ."""
from __future__ import annotations

import json
import math
import platform
import warnings
from collections.abc import Iterator
from importlib import metadata
from itertools import zip_longest
from typing import Any

import torch

from crp.store.folder import StoreError
from crp.store.place import Place
from crp.store.reader import ReferenceStore
from crp.store.schema import Manifest

ANSWER_TOLERANCE = .05


def known_passing(manifest: Manifest) -> list[str]:
    """What passes change in the model, as a store's sweep found: see ``crp.sweeps.model_fingerprint``."""
    return manifest.settings.model.passing


def describe_environment(device: str) -> dict[str, str | int]:
    """What values depend on by rounding: the kind of device, versions, number of threads."""
    packages = {name: metadata.version(name) for name in ("crp-concepts", "torch", "zennit", "numpy")}
    return {"python": platform.python_version(), **packages, "device": device, "threads": torch.get_num_threads()}


def check_settings(place: Place, settings: dict[str, Any]) -> None:
    """Raise a StoreError that names what differs between the settings of a store and those of a sweep."""
    manifest = place.manifest
    different = differences_from(manifest.settings.model_dump(), settings, manifest.made_with.python)
    if different:
        raise StoreError(
            f"{place.path} holds a sweep with other settings: {different}. "
            "Choose another path, or overwrite=True to replace it"
        )


def check_reading(store: ReferenceStore, settings: dict[str, Any]) -> None:
    """Raise a StoreError that names what differs between a part of a store's settings and what it is read with."""
    known = store.manifest.settings.model_dump()
    stored = {key: known[key] for key in settings}
    layers = [item for item in settings["layers"] if item["name"] in store.layers]
    stored["layers"] = [
        {"name": item["name"], "concept": store.entry(item["name"]).concept.model_dump()} for item in layers
    ]
    different = differences_from(stored, {**settings, "layers": layers}, store.manifest.made_with.python)
    if different:
        raise StoreError(
            f"{store.path} was made with something else: {different}. Read it with what it was made with (for "
            "heatmaps, pass the composite of the sweep), or as it is with FeatureVisualization(..., check=False); or "
            "sweep again, to another path or with run(..., overwrite=True)"
        )


def warn_of_other_environment(place: Place, device: str) -> None:
    """Warn if a store was begun on another kind of device, with other versions or another number of threads."""
    there, here = place.manifest.made_with.model_dump(), describe_environment(device)
    differences = list(_differences(there, here))
    if differences:
        warnings.warn(
            f"{place.path} is continued in another environment, so values may differ by rounding: "
            + "; ".join(differences),
            stacklevel=2,
        )


def differences_from(stored: dict[str, Any], settings: dict[str, Any], there: str) -> str:
    """What differs between stored settings, of the version ``there`` of Python, and others; empty if nothing does.

    Whether code is the same cannot be told under another version of Python, which compiles it differently.
    """
    stored, settings = json.loads(json.dumps([stored, settings]))
    here = platform.python_version()
    if there.split(".")[:2] != here.split(".")[:2]:
        for described in (*stored.values(), *settings.values()):
            if isinstance(described, dict):
                described.pop("code", None)
    for name in ("samples", "targets"):  # None where a dataset gives others each time
        if None in (stored["dataset"].get(name), settings["dataset"].get(name)):
            stored["dataset"].pop(name, None)
            settings["dataset"].pop(name, None)
    for name in ("private", "answers"):  # None in stores of before, and where a model answers otherwise each time
        if None in (stored["model"].get(name), settings["model"].get(name)):
            stored["model"].pop(name, None)
            settings["model"].pop(name, None)
    found = list(_differences(stored, settings))
    if found and there != here:
        found.append(f"made with Python {there}, and this is {here}")
    return "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")


def _differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in [*stored, *(key for key in wanted if key not in stored)]:
            yield from _differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif isinstance(stored, list) and isinstance(wanted, list) and all(map(_has_name, stored + wanted)):
        named, wanted_named = ({item["name"]: item for item in items} for items in (stored, wanted))
        yield from _differences(named, wanted_named, where)
    elif where == "model.answers":
        numbers = differing_answers(stored, wanted)
        if numbers is not None:
            there, here = (f"{number:.4g}" for number in numbers)
            yield f"{where}: the model answers otherwise to the first sample ({there} there, {here} here)"
    elif stored != wanted:
        hint = ", as of another dataset, transform or preprocess_fn" if where == "dataset.samples" else ""
        yield f"{where} is {_short(stored)} there and {_short(wanted)} here{hint}"


def differing_answers(stored: list[float], wanted: list[float]) -> tuple[float, float] | None:
    """The answers of two models that are furthest apart, or None if the models may be the same.

    Devices and versions round differently. So answers may differ by 5 % of the largest: in bfloat16 those of a GPT-2
    with 48 blocks differ by 2 % between two ways to compute attention, in float32 by far less. Answers tell what hashes
    do not, which is seldom as little.
    """
    pairs = list(zip_longest(stored, wanted, fillvalue=math.inf))
    there, here = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    is_apart = abs(there - here) > ANSWER_TOLERANCE * max(map(abs, stored + wanted))
    return (there, here) if is_apart else None


def _has_name(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "present"
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:8]}..."
    return "absent" if value is None else repr(value)
