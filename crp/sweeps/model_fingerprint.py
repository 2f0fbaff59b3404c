"""What tells a model from others: what it computes with, apart from where it lies and what passes change in it."""
from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from crp.model.edits import edits_of
from crp.store.fingerprint import Walk, fingerprint, is_of_process, own_classes
from crp.store.user_code import is_of_library, names_in_class

_SIDE = 1023  # odd, so that the signs of a whole row do not cancel
_OF_EVERY_MODULE = set(vars(nn.Module()))
_ORIGIN = {"name_or_path", "_name_or_path", "_commit_hash", "transformers_version", "_is_hf_initialized"}
_OF_CONFIGURATIONS = {*_ORIGIN, "architectures", "dtype", "torch_dtype", "generation_config"}
_KEEP_BOOKS = {"transformers", "lightning", "pytorch_lightning"}  # of how a model was loaded or trained
_PLAIN = (torch.Tensor, bool, int, float, complex, str, bytes, range, slice, torch.dtype, np.generic)


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
        Name of its class; hashes of its modules, of what users wrote of their code with all that it refers to by name,
        and of parameters and buffers; a hash of the attributes, of the private ones, and of the hooks of each module;
        how many modules are in training mode; and ``passing``.
    """
    modules = list(model.named_modules())
    walk = _walk(model, passing)
    attributes, private, hooks = (
        _by_module(found, passing) for found in (_attributes(model, walk), _private(model, walk), _hooks(model, walk))
    )
    return {
        "class": type(model).__name__,
        "modules": fingerprint([(name, _kind(module)) for name, module in modules]),
        "weights": _weights_hash(model, passing),
        "code": walk.sealed(walk.digest([own_classes(type(module)) for _, module in modules])),
        "modules in training mode": sum(module.training for _, module in modules),
        "attributes": attributes, "private": private, "hooks": hooks, "passing": sorted(passing),
    }


def _kind(module: nn.Module) -> type | str:
    return type(module) if is_of_library(type(module)) else type(module).__name__


def _walk(model: nn.Module, passing: Collection[str]) -> Walk:
    """A walk to which the model's own modules and weights are known, which have hashes elsewhere."""
    walk = Walk(passing)
    for name, part in (*model.named_modules(), *model.named_parameters(), *model.named_buffers()):
        walk.know(part, f"part {name}")
    return walk


def _by_module(found: dict[str, str], passing: Collection[str]) -> dict[str, str]:
    """One hash for each module that has any of what was found."""
    of_modules: dict[str, list] = {}
    for name, value in found.items():
        if name not in passing:
            of_modules.setdefault(name.rpartition(".")[0] or "itself", []).append((name, value))
    return {module: fingerprint(values)[:16] for module, values in of_modules.items()}


def changed_by(function: Callable, model: nn.Module) -> list[str]:
    """Names of parameters, buffers, attributes, hooks and globals that are others after a function has been called."""
    before = _state(model)
    function()
    after = _state(model)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _state(model: nn.Module) -> dict[str, Any]:
    sums = {name: _sums_of_bits(tensor) for name, tensor in _weights(model).items()}
    walk = _walk(model, ())
    found = {**_attributes(model, walk), **_private(model, walk), **_hooks(model, walk), **sums}
    walk.digest([own_classes(type(module)) for module in model.modules()])
    return {**found, **walk.met()}


def _own_attributes(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, Any]]:
    """Module, full name, name and value of what modules have beside parts, hooks and what tells their origin."""
    for module_name, module in model.named_modules():
        ignored = _OF_EVERY_MODULE | (_OF_CONFIGURATIONS if _keeps_books(module) else _ORIGIN)
        for name, value in sorted(vars(module).items()):
            if name not in ignored:
                yield module, f"{module_name}.{name}", name, value


def _attributes(model: nn.Module, walk: Walk) -> dict[str, str]:
    """Hashes of the public attributes of a model's modules."""
    known: dict[int, Any] = {}
    return {
        full_name: walk.digest(_comparable(value, known)).hex()
        for _, full_name, name, value in _own_attributes(model) if not name.startswith("_")
    }


def _private(model: nn.Module, walk: Walk) -> dict[str, str]:
    """Hashes of private attributes; of modules that libraries wrote, those that are plain values."""
    known: dict[int, Any] = {}
    return {
        full_name: walk.digest(_comparable(value, known)).hex()
        for module, full_name, name, value in _own_attributes(model)
        if name.startswith("_") and value is not None and not is_of_process(value) and _counts(module, name, value)
    }


def _counts(module: nn.Module, name: str, value: Any) -> bool:
    """Whether a private attribute is more than what a library keeps for itself."""
    own = own_classes(type(module))
    if _keeps_books(module):
        return any(name in names_in_class(cls) for cls in own)
    return bool(own) or _is_plain(value)


def _keeps_books(module: nn.Module) -> bool:
    return any(base.__module__.partition(".")[0] in _KEEP_BOOKS for base in type(module).__mro__)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, _PLAIN) or isinstance(value, np.ndarray) and value.dtype != object


def _hooks(model: nn.Module, walk: Walk) -> dict[str, str]:
    """Hashes of the hooks on a model's modules, apart from those of libraries, and of what sets layers to values."""
    found = {}
    for module_name, module in model.named_modules():
        forward = _own_hooks(module, "_forward_pre_hooks", "_forward_hooks")
        backward = _own_hooks(module, "_backward_pre_hooks", "_backward_hooks")
        for kind, hooks in (("forward", forward), ("backward", backward)):
            if hooks:
                found[f"{module_name}.{kind} hooks"] = walk.digest(hooks).hex()
    for number, (layer, edit) in enumerate(edits_of(model)):
        found[f"{edit.address.module_name}.edit {number} of {layer}"] = walk.digest(edit.says).hex()
    return found


def _own_hooks(module: nn.Module, *kinds: str) -> list:
    """Hooks that users wrote: their kind, themselves, and whether they are given keyword arguments."""
    return [
        (kind, hook, number in getattr(module, f"{kind}_with_kwargs", {}))
        for kind in kinds for number, hook in getattr(module, kind).items() if not _is_hook_of_library(hook)
    ]


def _is_hook_of_library(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return is_of_library(hook if hasattr(hook, "__qualname__") else type(hook))


def _comparable(value: Any, known: dict[int, Any], ignored: Collection[str] = ()) -> Any:
    """A value with, of configurations, which modules share, the contents without what tells their origin.

    ``known`` holds configurations that have been seen.
    """
    if isinstance(value, Mapping) and is_of_library(type(value)):
        return {key: _comparable(item, known, ignored) for key, item in value.items() if key not in ignored}
    if type(value) in (list, tuple):
        return [_comparable(item, known, ignored) for item in value]
    if isinstance(value, functools.partial):
        return [_comparable(part, known) for part in (value.func, value.args, value.keywords)]
    if is_of_library(getattr(type(value), "to_dict", None)):
        if id(value) not in known:
            known[id(value)] = fingerprint(_comparable(value.to_dict(), known, _OF_CONFIGURATIONS))
        return known[id(value)]
    return value


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
