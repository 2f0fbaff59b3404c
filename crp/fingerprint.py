"""Short texts that tell whether two models, datasets or composites are the same."""
from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

_LIBRARIES = {"builtins", "abc", "typing", "numpy", "torch", "torchvision", "transformers", "zennit", "crp"}
_SIDE = 1023  # odd, so that the signs of a whole row do not cancel
_RUNTIME_STATE = {"handles", "hook_refs", "stored_tensors", "tensor_handles", "active"}


def model_fingerprint(model: nn.Module, passing: Collection[str] = ()) -> dict[str, Any]:
    """What tells a model from others.

    Parameters
    ----------
    model : torch.nn.Module
    passing : collection of str
        Names of what a pass changes by itself, such as counters: see :func:`changed_by`.

    Returns
    -------
    dict
        Name of its class; hashes of its modules as they are printed, of their own code and plain attributes, and of
        parameters and buffers; how many modules are in training mode; and ``passing``.
    """
    attributes = {name: value for name, value in _plain_attributes(model).items() if name not in passing}
    return {
        "class": _name(type(model)), "modules": fingerprint(str(model)), "weights": _weights_hash(model, passing),
        "code": fingerprint([_own_code(type(module)) for module in model.modules()]),
        "modules in training mode": sum(module.training for module in model.modules()),
        "attributes": fingerprint(attributes), "passing": sorted(passing),
    }


def changed_by(function: Callable, model: nn.Module) -> list[str]:
    """Names of parameters, buffers and plain attributes that are others after a function has been called."""
    before = _state(model)
    function()
    after = _state(model)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _state(model: nn.Module) -> dict[str, Any]:
    return {**_plain_attributes(model), **{name: _sums_of_bits(tensor) for name, tensor in _weights(model).items()}}


def _plain_attributes(model: nn.Module) -> dict[str, Any]:
    """Numbers, texts and modes of a model's modules."""
    return {
        f"{module_name}.{name}": value
        for module_name, module in model.named_modules() for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str)) and not name.startswith("_")
    }


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


_known_weights: WeakKeyDictionary[nn.Module, tuple[list, str]] = WeakKeyDictionary()


def _weights_hash(model: nn.Module, passing: Collection[str]) -> str:
    """The hash of a model's parameters and buffers, computed again only where they have changed."""
    weights = {name: tensor for name, tensor in _weights(model).items() if name not in passing}
    sums = [(name, tensor.dtype, tensor.shape, _sums_of_bits(tensor)) for name, tensor in weights.items()]
    known = _known_weights.get(model)
    if known is None or known[0] != sums:
        known = _known_weights[model] = sums, fingerprint(weights)
    return known[1]


def _sums_of_bits(tensor: torch.Tensor) -> str:
    """Hash of the sums over rows and columns of a tensor's bits, which are had where it lies, quicker than all bits.

    PyTorch's own counter of versions misses what is done to ``tensor.data``.
    """
    flat = tensor.flatten()
    if flat.data_ptr() % 8:
        flat = flat.clone()
    whole = flat.numel() // (8 * _SIDE) * 8 * _SIDE
    square = flat[:whole].view(torch.int64).view(-1, _SIDE)
    return fingerprint([square.sum(0), square.sum(1), flat[whole:]])


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
    if isinstance(value, type):
        return [_name(value)]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
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
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_name(value), value.__defaults__, value.__kwdefaults__, cells, _code(value.__code__)]
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        return [_name(value) if callable(value) else type(value).__name__]
    state = [(key, item) for key, item in sorted(attributes.items()) if key not in _RUNTIME_STATE]
    return state + _own_code(type(value))


def _own_code(cls: type) -> list:
    """The functions of a class that a user wrote; libraries are told apart by their versions."""
    own = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES]
    functions = [getattr(item, "__func__", item) for base in own for _, item in sorted(vars(base).items())]
    return [_code(function.__code__) for function in functions if isinstance(function, types.FunctionType)]


def _code(code: types.CodeType) -> list:
    """What a function does, apart from where it stands in its file."""
    constants = [_code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
