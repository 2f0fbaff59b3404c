"""Short texts that tell whether two models, datasets or composites are the same."""
from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

_RUNTIME_STATE = {"handles", "hook_refs", "stored_tensors", "tensor_handles", "active"}


def model_fingerprint(model: nn.Module) -> dict[str, str]:
    """Name of a model's class and hash of its parameters and buffers."""
    return {"class": _name(type(model)), "weights": fingerprint(dict(model.state_dict()))}


def fingerprint(value: Any) -> str:
    """sha256 of everything a value consists of: numbers, tensors, attributes, functions with what they close over."""
    digest = hashlib.sha256()
    _feed(digest, value, {})
    return digest.hexdigest()


def _feed(digest, value: Any, visited: dict[int, Any]) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
        return
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"array {value.dtype.str} {value.shape};".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
        return
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic)):
        digest.update(f"{type(value).__name__} {value!r};".encode())
        return
    if id(value) in visited:
        digest.update(b"seen;")
        return
    visited[id(value)] = value
    digest.update(f"{_name(type(value))}(".encode())
    for part in _parts(value):
        _feed(digest, part, visited)
    digest.update(b");")


def _parts(value: Any) -> list:
    """What a compound value consists of, in a fixed order."""
    if isinstance(value, type):
        return [_name(value)]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (set, frozenset)):
        return sorted(fingerprint(item) for item in value)
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_name(value), value.__defaults__, value.__kwdefaults__, cells, _constants(value.__code__)]
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        return [_name(value) if callable(value) else type(value).__name__]
    return [(key, item) for key, item in sorted(attributes.items()) if key not in _RUNTIME_STATE]


def _constants(code: types.CodeType) -> list:
    """What tells functions of the same name apart, such as lambdas, without depending on the version of Python."""
    constants = [_constants(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return [list(code.co_names), constants]


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
