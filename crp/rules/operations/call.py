"""A call of a function of PyTorch: what the choice of its rule looks at."""
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crp.model.layers import flatten_tensors, unflatten_tensors
from crp.rules.operations.rule import Stabilize, carries, is_constant_factor, is_in_place


class Operation:
    """A call of a function: what the choice of a rule looks at.

    Parameters
    ----------
    function, args, kwargs
    stabilize : callable
        For the denominators of its rule.
    copy : bool, default False
        Let its rule read copies of its inputs, for models that write to these later.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict, stabilize: Stabilize, copy: bool = False):
        self.function, self.args, self.kwargs, self.stabilize = canonical(function), args, kwargs, stabilize
        self.copy = copy

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def first(self) -> Any:
        """The first argument."""
        return self.argument(0, "input")

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The tensors that can get relevance."""
        return [leaf for leaf in flatten_tensors((self.args, self.kwargs)) if carries(leaf)]

    @property
    def constants(self) -> list[Tensor]:
        """The tensors of real numbers that can get none."""
        leaves = flatten_tensors((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and not carries(leaf)]

    def as_function_of(self, tensors: list[Tensor]) -> Callable[..., Any]:
        """The call as a function of some tensors among its arguments; given some of another type, constants follow."""
        leaves = flatten_tensors((self.args, self.kwargs))
        chosen = [id(tensor) for tensor in tensors]
        places = [i for i, leaf in enumerate(leaves) if id(leaf) in chosen]
        kinds = [leaves[place].dtype for place in places]
        kept = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        kept = [None if i in places else leaf for i, leaf in enumerate(kept)]
        template = unflatten_tensors((self.args, self.kwargs), kept)

        def function(*inputs: Tensor) -> Any:
            values = list(kept)
            if any(x.dtype != kind for x, kind in zip(inputs, kinds)):
                values = [_like(value, inputs[0]) for value in values]
            for place, value in zip(places, inputs):
                values[place] = value
            if is_in_place(self.function):
                values[0] = values[0].clone()
            args, kwargs = unflatten_tensors(template, values)
            return self.function(*args, **kwargs)

        return function


def _like(value: Any, tensor: Tensor) -> Any:
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(tensor.dtype) if is_floating else value


def sharing(factors: list[Tensor]) -> list[bool]:
    """Which factors of a product share its relevance: all, unless some count as constants."""
    sharing = [not is_constant_factor(factor) for factor in factors]
    return sharing if any(sharing) else [True] * len(sharing)


def canonical(function: Callable) -> Callable:
    """A function as tables of rules have it: PyTorch's of the same name, for one of ``torch.ops.aten``."""
    packet = getattr(function, "overloadpacket", function)
    is_aten = getattr(packet, "_qualified_op_name", "").startswith("aten::")
    return getattr(torch, packet.__name__, packet) if is_aten else packet


_NAMESPACES = (torch, Tensor, functional, torch.special, torch.linalg, torch._C._nn)


def named(*names: str) -> set[Callable]:
    """All of PyTorch's functions and methods of these names, with their in-place forms."""
    forms = [form for name in names for form in (name, f"{name}_")]
    found = (getattr(namespace, form, None) for namespace in _NAMESPACES for form in forms)
    return {function for function in found if callable(function)}
