"""Addresses of layers, and the tensors that modules take and return.

A layer is addressed as ``name`` (a module's output), ``name:in`` (its input) or ``name:1`` (its second output), where
``name`` is the module's name in ``model.named_modules()``.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from crp.model.names import unknown_layer_message

OutputChoice: TypeAlias = str | int | Callable[[Any], torch.Tensor] | None


@dataclass(frozen=True)
class LayerAddress:
    """One place in a model at which relevance is read or masked.

    Attributes
    ----------
    layer : str
        The address as the user wrote it.
    module_name : str
        Name of the module in ``named_modules``.
    module : torch.nn.Module
    output_index : int or None
        Which tensor of the output; ``None`` is the first one.
    is_input : bool
        Whether the module's input is meant instead of an output.
    """

    layer: str
    module_name: str
    module: nn.Module
    output_index: int | None = None
    is_input: bool = False


def resolve_layer(model: nn.Module, layer: str) -> LayerAddress:
    """Find the module that an address names.

    Raises
    ------
    ValueError
        If no module has this name; the message lists the nearest names.
    """
    if not isinstance(layer, str):
        raise TypeError(f"a layer is named by a string, as in model.named_modules(), not by {layer!r}")
    module = _find_module(model, layer)
    if module is not None:
        return LayerAddress(layer, layer, module)
    name, colon, part = layer.rpartition(":")
    module = _find_module(model, name)
    if module is None:
        known = [known for known, _ in model.named_modules() if known]
        raise ValueError(unknown_layer_message(name if colon else layer, known))
    if part == "in":
        return LayerAddress(layer, name, module, is_input=True)
    if part.isdecimal():
        return LayerAddress(layer, name, module, output_index=int(part))
    raise ValueError(f"layer {layer!r}: after the colon comes 'in' or the number of an output, not {part!r}")


def has_layer(model: nn.Module, layer: str) -> bool:
    """Whether a model has the module that an address names."""
    return any(_find_module(model, name) is not None for name in (layer, layer.rpartition(":")[0]))


def _find_module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name) if name else None
    except AttributeError:
        return None


def flatten_tensors(value: Any) -> list[Any]:
    """List the leaves of nested tuples, lists and mappings in order; ``None`` keeps its place."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in flatten_tensors(item)]
    return [value]


def unflatten_tensors(template: Any, leaves: list) -> Any:
    """Rebuild the structure of ``template`` with other leaves, in the order of :func:`flatten_tensors`."""
    return _rebuild(template, iter(leaves))


def _rebuild(value: Any, remaining: Iterator) -> Any:
    if type(value) is dict:
        return {key: _rebuild(item, remaining) for key, item in value.items()}
    if isinstance(value, Mapping):
        return type(value)(**{key: _rebuild(item, remaining) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_rebuild(item, remaining) for item in value])
    if isinstance(value, (tuple, list)):
        return type(value)([_rebuild(item, remaining) for item in value])
    return next(remaining)


def select_output(output: Any, which: OutputChoice, name: str) -> torch.Tensor:
    """The tensor of a model's output that relevance starts from.

    Parameters
    ----------
    output : torch.Tensor, tuple or dict
    which : str, int, callable or None
        Its key or position, or a function of the output. Not needed where there is but one tensor.
    name : str
        What the tensor is called in conditions.

    Raises
    ------
    ValueError
        If there is none such, or several and ``which`` is None.
    """
    if callable(which):
        return which(output)
    if isinstance(output, torch.Tensor):
        return output
    tensors = [leaf for leaf in flatten_tensors(output) if isinstance(leaf, torch.Tensor)]
    names = list(output) if isinstance(output, Mapping) else f"{len(tensors)} tensors"
    if which is None and len(tensors) == 1:
        return tensors[0]
    if which is None:
        raise ValueError(
            f"the model returns a {type(output).__name__} with {names}: say which tensor is {name!r} with "
            "CondAttribution(model, output=...)"
        )
    try:
        return output[which]
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"output={which!r} is not in the model's {type(output).__name__} ({names})") from None


def leaf_index(leaves: list, address: LayerAddress) -> int:
    """Index of the tensor that an address means among the leaves of a module's input or output.

    Raises
    ------
    ValueError
        If the module gives no floating-point tensor there.
    """
    index = address.output_index
    if index is None:
        index = next((i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)), len(leaves))
    if index >= len(leaves) or not isinstance(leaves[index], torch.Tensor):
        found = ", ".join(f"{i} {type(leaf).__name__}" for i, leaf in enumerate(leaves)) or "nothing"
        side = "takes" if address.is_input else "returns"
        raise ValueError(f"layer {address.layer!r}: no tensor there; the module {side} {found}")
    if not leaves[index].is_floating_point():
        raise ValueError(f"layer {address.layer!r} holds {leaves[index].dtype} values; relevance needs floating point")
    return index


def get_layer_names(model: nn.Module, types: Iterable[type]) -> list[str]:
    """Names of all modules of the given types, in the order of ``model.named_modules()``.

    Parameters
    ----------
    model : torch.nn.Module
    types : list of type
        Module classes, such as ``[torch.nn.Conv2d, torch.nn.Linear]``; subclasses count.

    Returns
    -------
    list of str
    """
    return [name for name, module in model.named_modules() if name and isinstance(module, tuple(types))]


def as_layer_list(layers: Any) -> list[str]:
    """A list of layer names; a single string is refused, since it would be taken letter by letter."""
    if isinstance(layers, str):
        raise TypeError(f"layers come in a list: [{layers!r}]")
    return list(layers or [])


def module_order(model: nn.Module, layers: Iterable[str]) -> list[str]:
    """Sort layer addresses by the position of their modules in ``model.named_modules()``."""
    position = {module: i for i, module in enumerate(model.modules())}
    return sorted(layers, key=lambda layer: (position[resolve_layer(model, layer).module], layer))
