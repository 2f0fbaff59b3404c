"""Functional operations as the modules that do the same, so that a composite can say which rule they get."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crp.model.layers import flatten_tensors
from crp.rules.operations.call import Operation, named


def as_module(operation: Operation) -> nn.Module | None:
    """The module that does to its input what an operation does to the one that carries relevance; None if none does."""
    inputs = operation.inputs
    if len(inputs) != 1:
        return None
    make = _MODULES.get(operation.function) if inputs[0] is operation.first else None
    module = make(operation) if make is not None else None
    if module is None and operation.function in _CONTRACTIONS and len(operation.constants) == 1:
        return Contraction(operation)
    return module


class Contraction(nn.Linear):
    """A linear layer that is written in another way, such as ``torch.einsum`` with a constant.

    Parameters
    ----------
    operation : Operation
        A product of its input with one constant tensor.
    """

    def __init__(self, operation: Operation):
        super().__init__(1, 1, bias=False, device="meta")
        x, weight = operation.inputs[0], operation.constants[0]
        self.product = operation.as_function_of([x, weight])
        leaves = [id(leaf) for leaf in flatten_tensors((operation.args, operation.kwargs))]
        self.is_first = leaves.index(id(x)) < leaves.index(id(weight))
        _with_parameters(self, weight, None)

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self.product(*((x, self.weight) if self.is_first else (self.weight, x)))


_CONTRACTIONS = named(
    "matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "einsum", "tensordot", "__matmul__", "__rmatmul__", "vecdot",
)


def _with_parameters(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    for name, value in (("weight", weight), ("bias", bias)):
        module.register_parameter(name, None if value is None else nn.Parameter(value.detach(), requires_grad=False))
    return module


def _linear(operation: Operation) -> nn.Module:
    weight, bias = operation.argument(1, "weight"), operation.argument(2, "bias")
    module = nn.Linear(weight.shape[-1], weight.shape[0], bias is not None, device="meta")
    return _with_parameters(module, weight, bias)


def _matrix(operation: Operation) -> nn.Module | None:
    """A linear layer, for activations times a constant matrix."""
    matrix = operation.argument(1, "other", operation.kwargs.get("mat2"))
    if matrix.ndim != 2:
        return None
    rows, columns = matrix.shape
    return _with_parameters(nn.Linear(rows, columns, bias=False, device="meta"), matrix.mT, None)


def _convolution(kind: type[nn.Module], options: list[str]) -> Callable[[Operation], nn.Module]:
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
    transposed = "output_padding" in options

    def make(operation: Operation) -> nn.Module:
        weight, bias = operation.argument(1, "weight"), operation.argument(2, "bias")
        values = {name: operation.argument(i, name, defaults[name]) for i, name in enumerate(options, 3)}
        values = {name: v[0] if isinstance(v, (tuple, list)) and len(v) == 1 else _tuple(v)
                  for name, v in values.items()}
        channels = weight.shape[:2] if transposed else weight.shape[1::-1]
        channels = [n * values["groups"] if i == transposed else n for i, n in enumerate(channels)]
        module = kind(*channels, tuple(weight.shape[2:]), **values, bias=bias is not None, device="meta")
        return _with_parameters(module, weight, bias)

    return make


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, torch.Size)) else value


def _plain(kind: type[nn.Module], *options: str) -> Callable[[Operation], nn.Module | None]:
    """A module whose options are the function's arguments; None where other arguments say what it does."""
    def make(operation: Operation) -> nn.Module | None:
        others = [value for name, value in operation.kwargs.items() if name not in ("input", *options)]
        if any([*operation.args[len(options) + 1:], *others]):
            return None
        values = {name: _tuple(operation.argument(i, name)) for i, name in enumerate(options, 1)}
        return kind(**{name: value for name, value in values.items() if value is not None})

    return make


_ORDER = ["stride", "padding", "dilation", "groups"]
_TRANSPOSED_ORDER = ["stride", "padding", "output_padding", "groups", "dilation"]
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAXIMUM = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

_MODULES: dict[Callable, Callable[[Operation], nn.Module | None]] = {
    functional.linear: _linear,
    **dict.fromkeys(named("matmul", "mm", "__matmul__"), _matrix),
    **{function: _convolution(getattr(nn, f"Conv{axes}d"), _ORDER)
       for axes in (1, 2, 3) for function in named(f"conv{axes}d")},
    **{function: _convolution(getattr(nn, f"ConvTranspose{axes}d"), _TRANSPOSED_ORDER)
       for axes in (1, 2, 3) for function in named(f"conv_transpose{axes}d")},
    **{function: _plain(getattr(nn, f"AvgPool{axes}d"), *_AVERAGE[:5 if axes == 1 else 6])
       for axes in (1, 2, 3) for function in named(f"avg_pool{axes}d")},
    **{function: _plain(getattr(nn, f"AdaptiveAvgPool{axes}d"), "output_size")
       for axes in (1, 2, 3) for function in named(f"adaptive_avg_pool{axes}d")},
    **{function: _plain(getattr(nn, f"MaxPool{axes}d"), *_MAXIMUM)
       for axes in (1, 2, 3) for function in named(f"max_pool{axes}d")},
    functional.interpolate: _plain(
        nn.Upsample, "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"
    ),
}

WITH_WEIGHTS = {functional.linear, *named(*(f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)))}
"""Functions of layers that composites have rules for."""
