"""What tells a model from others: what it computes with, apart from where it lies and what passes change in it."""
from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from crp.store.fingerprint import fingerprint, is_of_library, own_code

_SIDE = 1023  # odd, so that the signs of a whole row do not cancel
_OF_EVERY_MODULE = set(vars(nn.Module()))
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type(torch.relu), type)
_ORIGIN = {  # what models of transformers say of where they come from
    "name_or_path", "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "_commit_hash",
    "generation_config",
}


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
        Name of its class; hashes of its modules, of their own code, and of parameters and buffers; a hash of the
        attributes and hooks of each module; how many modules are in training mode; and ``passing``.
    """
    modules = list(model.named_modules())
    return {
        "class": type(model).__name__, "modules": fingerprint([(name, type(module)) for name, module in modules]),
        "weights": _weights_hash(model, passing),
        "code": fingerprint([own_code(type(module)) for _, module in modules]),
        "modules in training mode": sum(module.training for _, module in modules),
        "attributes": _by_module(_attributes(model), passing), "hooks": _by_module(_hooks(model), passing),
        "passing": sorted(passing),
    }


def _by_module(found: dict[str, str], passing: Collection[str]) -> dict[str, str]:
    """One hash for each module that has any of what was found."""
    of_modules: dict[str, list] = {}
    for name, value in found.items():
        if name not in passing:
            of_modules.setdefault(name.rpartition(".")[0] or "itself", []).append((name, value))
    return {module: fingerprint(values)[:16] for module, values in of_modules.items()}


def changed_by(function: Callable, model: nn.Module) -> list[str]:
    """Names of parameters, buffers and attributes that are others after a function has been called."""
    before = _state(model)
    function()
    after = _state(model)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _state(model: nn.Module) -> dict[str, Any]:
    sums = {name: _sums_of_bits(tensor) for name, tensor in _weights(model).items()}
    return {**_attributes(model), **_hooks(model), **sums}


def _attributes(model: nn.Module) -> dict[str, str]:
    """Hashes of the public attributes of a model's modules."""
    known: dict[int, Any] = {}
    return {
        f"{module_name}.{name}": fingerprint(_plain(value, known))
        for module_name, module in model.named_modules() for name, value in sorted(vars(module).items())
        if name not in _OF_EVERY_MODULE and name not in _ORIGIN and not name.startswith("_")
    }


def _hooks(model: nn.Module) -> dict[str, str]:
    """Hashes of the hooks on a model's modules, apart from those of libraries."""
    found = {}
    for module_name, module in model.named_modules():
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        own = [_plain(hook, {}) for hook in hooks if not is_of_library(hook)]
        if own:
            found[f"{module_name}.forward hooks"] = fingerprint(own)
    return found


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """A value as plain ones, which are the same in every process; of other objects only the kind.

    ``known`` holds configurations that have been seen, which modules share.
    """
    if isinstance(value, Mapping):
        return {key: _plain(item, known) for key, item in value.items() if key not in _ORIGIN}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(item, known) for item in value]
        return sorted(map(fingerprint, items)) if isinstance(value, (set, frozenset)) else items
    if isinstance(value, nn.Module):
        return [type(value), _weights(value)]
    if isinstance(value, partial):
        return [_plain(part, known) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return value.__func__
    if isinstance(value, (torch.Tensor, *_FUNCTIONS, bool, int, float, complex, str, bytes, range, slice, torch.dtype)):
        return value
    if value is None or isinstance(value, np.generic) or isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if hasattr(value, "to_dict"):
        if id(value) not in known:
            known[id(value)] = fingerprint(_plain(value.to_dict(), known))
        return known[id(value)]
    return type(value)


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
