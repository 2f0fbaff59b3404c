"""Short texts that tell whether two models, datasets or composites are the same."""
from __future__ import annotations

import copyreg
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_LIBRARIES = {
    "builtins", "abc", "typing", "numpy", "torch", "torchvision", "transformers", "timm", "peft", "accelerate",
    "zennit", "crp",
}
_RUNTIME_STATE = {"handles", "hook_refs", "stored_tensors", "tensor_handles", "active"}


def fingerprint(value: Any) -> str:
    """sha256 of everything a value consists of: numbers, tensors, attributes, functions with what they close over.

    The code of functions is part of it as this version of Python compiles it.
    """
    return _digest(value, {}).hex()


def probe_indices(length: int) -> list[int]:
    """Up to five indices, spread over a dataset, whose samples stand for all."""
    return sorted({round(i * (length - 1) / 4) for i in range(5)})


def _digest(value: Any, known: dict[int, tuple[Any, bytes]]) -> bytes:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        return _hash(f"tensor {value.dtype} {tuple(value.shape)}", value.reshape(-1).view(torch.uint8).numpy())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _hash(f"array {value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes())
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, range, torch.dtype, np.generic)):
        return _hash(f"{type(value).__name__} {value!r}")
    if id(value) not in known:
        known[id(value)] = value, b"itself"  # keeps it alive, so that its id stays its own, and ends cycles
        parts = [_digest(part, known) for part in _parts(value)]
        known[id(value)] = value, _hash(f"{_name(type(value))} {len(parts)}", *parts)
    return known[id(value)][1]


def _hash(kind: str, *contents: Any) -> bytes:
    digest = hashlib.sha256(kind.encode() + b"\0")
    for content in contents:
        digest.update(content)
    return digest.digest()


def _parts(value: Any) -> list:
    """What a compound value consists of, in a fixed order."""
    if isinstance(value, types.ModuleType):
        return [value.__name__]
    if isinstance(value, type):
        return [_name(value)]
    if isinstance(value, Mapping):
        return [part for item in sorted(value.items(), key=lambda item: fingerprint(item[0])) for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(fingerprint(item) for item in value)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, np.ndarray):
        return [value.shape, *value.reshape(-1).tolist()]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        return [_name(value), value.__defaults__, value.__kwdefaults__, cells, _code(value.__code__)]
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        return [_name(value)] if hasattr(value, "__qualname__") else _reduced(value)
    state = [(key, item) for key, item in sorted(attributes.items()) if not _is_runtime_state(value, key)]
    return state + own_code(type(value))


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_runtime_state(value: Any, name: str) -> bool:
    return name in _RUNTIME_STATE or isinstance(getattr(type(value), name, None), functools.cached_property)


def _reduced(value: Any) -> list:
    """What an object without attributes is made of, as it is copied; where it cannot be copied, only its kind."""
    try:
        registered = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(2) if registered is None else registered(value)
    except Exception:  # whatever an object raises that cannot be copied
        return []
    if isinstance(reduced, str):
        return [reduced]
    make, arguments, state, items, pairs = (*reduced, *(None,) * 5)[:5]
    return [_name(make), arguments, state, list(items or ()), list(pairs or ())]


def own_code(cls: type) -> list:
    """The functions and plain values of a class and its bases that users wrote."""
    own = [base for base in cls.__mro__ if not is_of_library(base)]
    return [
        (name, part) for base in own for name, item in sorted(vars(base).items()) for part in _own_parts(name, item)
    ]


def _own_parts(name: str, item: Any) -> list:
    if isinstance(item, property):
        return [function for function in (item.fget, item.fset) if function is not None]
    function = inspect.unwrap(getattr(item, "__func__", getattr(item, "func", item)))
    if isinstance(function, types.FunctionType):
        return [item, function] if isinstance(item, types.FunctionType) and item is not function else [function]
    return [item] if isinstance(item, (bool, int, float, str, tuple)) and not name.startswith("__") else []


def is_of_library(value: Any) -> bool:
    """Whether a class or function belongs to a library whose versions tell what it does."""
    return (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES


def _code(code: types.CodeType) -> list:
    """What a function does, apart from where it stands in its file."""
    constants = [_code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _name(value: Any) -> str:
    """Name of a class or function; where users keep theirs does not matter, nor does it survive the way to a worker."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{value.__module__}.{named.__qualname__}" if is_of_library(value) else named.__name__
