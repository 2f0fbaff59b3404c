"""Functions of users, held to what they may do to tensors that they are given."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch


def call_reader(function: Callable, name: str, *args: Any) -> Any:
    """Call a function that may read the tensors that it is given, and not write to them.

    Parameters
    ----------
    function : callable
    name : str
        What it is called in messages.
    *args
        What it is given.

    Raises
    ------
    ValueError
        If it has written to a tensor, or to the gradient of one: others go on with these.
    """
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor) and not arg.is_inference()]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    before = [tensor._version for tensor in tensors]
    result = function(*args)
    if [tensor._version for tensor in tensors] != before:
        raise ValueError(
            f"{name} writes to the tensor that it is given, which others go on with: let it write to a copy, "
            "tensor.clone(), or use functions without a trailing underscore"
        )
    return result


def call_as_taken(function: Callable, *args: Any, **options: Any) -> Any:
    """Call a function with those of the options that it takes.

    It is given all of them in their order, where it takes them so; otherwise those that it names.

    Parameters
    ----------
    function : callable
    *args
        What it is always given.
    **options
        What it may do without.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of functions that do not tell
        return function(*args, *options.values())
    if _takes_in_order(signature, args, options):
        return function(*args, *options.values())
    parameters = signature.parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return function(*args, **{name: value for name, value in options.items() if takes_any or name in parameters})


def _takes_in_order(signature: inspect.Signature, args: Iterable, options: Iterable[str]) -> bool:
    """Whether there is a place for each option, and none that it names is elsewhere."""
    try:
        given = signature.bind(*args, *options).arguments
    except TypeError:
        return False
    return all(given.get(name) == name for name in options if name in signature.parameters)


def apply_masks(relevance: torch.Tensor, masks: Iterable[Callable[[torch.Tensor], torch.Tensor]]) -> torch.Tensor:
    """Send a copy of the relevance through mask functions, which may write to what they are given.

    Raises
    ------
    TypeError, ValueError
        If one gives no tensor of the same type and shape.
    """
    masked = relevance.clone()
    for mask in masks:
        masked = mask(masked)
        if not isinstance(masked, torch.Tensor):
            hint = " (it has no return?)" if masked is None else ""
            raise TypeError(f"a mask gives the masked relevance, a tensor; {mask!r} gives {masked!r}{hint}")
        if masked.dtype != relevance.dtype:
            raise TypeError(f"a mask keeps the type of relevance, {relevance.dtype}; {mask!r} gives {masked.dtype}")
        if masked.shape != relevance.shape:
            raise ValueError(
                f"a mask keeps the shape of relevance, {tuple(relevance.shape)}; {mask!r} gives {tuple(masked.shape)}"
            )
    return masked
