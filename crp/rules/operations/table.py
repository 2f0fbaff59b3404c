"""Which function of PyTorch has which rule, and which need none."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from crp.rules.operations.call import Operation, named
from crp.rules.operations.descent import Descent, descent_of, is_number, joined
from crp.rules.operations.elementwise import elementwise_rule, normalised_rule
from crp.rules.operations.normalisation import (
    batch_norm_rule,
    group_norm_rule,
    instance_norm_rule,
    layer_norm_rule,
    log_softmax_rule,
    rms_norm_rule,
    softmax_rule,
)
from crp.rules.operations.products import matrix_product_rule, power_rule, product_rule, quotient_rule
from crp.rules.operations.rule import OperationRule, carries, is_constant_factor
from crp.rules.operations.sums import REVERSED_SUBTRACTIONS, Shift, sum_rule
from crp.rules.padding import inside_of_padding

SOFTMAX, LOG_SOFTMAX = named("softmax", "_softmax", "_safe_softmax"), named("log_softmax")
SIGMOID = named("sigmoid", "sigmoid_")
_ROOTS = named("pow", "__pow__")
_NORMALISERS = named("rsqrt", "sqrt", "std", "var", "norm", "vector_norm")
_ADDITIONS = named("add", "__add__", "__radd__", "__iadd__")
_SUBTRACTIONS = named("sub", "subtract", "__sub__", "__isub__")
_SUMS = _ADDITIONS | _SUBTRACTIONS | REVERSED_SUBTRACTIONS
_PRODUCTS = named("mul", "multiply", "__mul__", "__rmul__", "__imul__")
_QUOTIENTS = named("div", "divide", "true_divide", "__div__", "__truediv__", "__itruediv__", "__idiv__")
_POWERS = named("__rdiv__", "__rtruediv__", "pow", "float_power", "__pow__", "__rpow__")
_EXTREMA = named("maximum", "minimum", "fmax", "fmin", "max", "min")
_COPIES = named("clone", "contiguous", "to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda")
_SHAPED_LIKE_ANOTHER = named("expand_as", "view_as", "reshape_as", "type_as")

RULES: dict[Callable, Callable[[Operation], OperationRule | None]] = {
    **dict.fromkeys(named(
        "relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "rrelu", "prelu", "hardswish",
        "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "softplus", "softsign", "logsigmoid",
        "sigmoid", "tanh", "threshold", "clamp", "clip", "clamp_min", "clamp_max", "abs", "absolute", "neg", "negative",
        "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "reciprocal", "erf", "erfc",
        "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "arctan", "expit", "logit", "sinc",
    ), elementwise_rule),
    **dict.fromkeys(_ADDITIONS, sum_rule(1, 1)),
    **dict.fromkeys(_SUBTRACTIONS, sum_rule(1, -1)),
    **dict.fromkeys(REVERSED_SUBTRACTIONS, sum_rule(-1, 1)),
    **dict.fromkeys(_PRODUCTS, product_rule),
    **dict.fromkeys(_QUOTIENTS, quotient_rule),
    **dict.fromkeys(_POWERS, power_rule),
    **dict.fromkeys(named("matmul", "bmm", "mm", "__matmul__", "__rmatmul__"), matrix_product_rule),
    **dict.fromkeys(SOFTMAX, softmax_rule),
    **dict.fromkeys(LOG_SOFTMAX, log_softmax_rule),
    **dict.fromkeys(named("layer_norm"), layer_norm_rule),
    **dict.fromkeys(named("rms_norm"), rms_norm_rule),
    **dict.fromkeys(named("group_norm"), group_norm_rule),
    functional.instance_norm: instance_norm_rule,  # torch.instance_norm and torch.batch_norm have other arguments
    functional.batch_norm: batch_norm_rule,
    **dict.fromkeys(named("normalize"), normalised_rule),
}


def normalises(operation: Operation) -> bool:
    """Whether an operation gives a deviation, a norm or the root of a mean square: a factor that normalises.

    Such factors count as constants (AttnLRP, section 3.3.4), and so does what is computed from them alone.
    """
    exponent = operation.argument(1, "exponent") if operation.function in _ROOTS else None
    is_root = isinstance(exponent, float) and abs(exponent) == 0.5
    inputs = operation.inputs[:1] if operation.function in _SHAPED_LIKE_ANOTHER else operation.inputs
    return operation.function in _NORMALISERS or is_root or all(map(is_constant_factor, inputs))


def activates(operation: Operation) -> bool:
    """Whether an operation is a nonlinear function of each element, as gates are."""
    return gives_activation(operation.function)


def gives_activation(function: Callable) -> bool:
    """Whether a function is nonlinear, and of each element by itself."""
    return RULES.get(function) is elementwise_rule and function not in _NEGATIONS


def pools(function: Callable) -> bool:
    """Whether a function gives values of its input, at other places, or means of them."""
    return function in ROUTING or function in _MEANS


_MEANS = named(*(f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)))


_NEGATIONS = named("neg", "negative")
_KEEPING = _COPIES | _NEGATIONS
_NOT_LINEAR = _PRODUCTS | _QUOTIENTS | _POWERS | _EXTREMA


def descent_of_output(operation: Operation, rule: OperationRule | None) -> Descent | None:
    """How what an operation gives will have been computed from one tensor; None if not element by element.

    Parameters
    ----------
    operation : Operation
        That has not run yet.
    rule : OperationRule or None
        That it gets.
    """
    function, inputs = operation.function, operation.inputs
    is_sum = function in _SUMS and all(map(is_number, operation.constants))
    is_multiple = function in _PRODUCTS or function in _QUOTIENTS and carries(operation.first)
    is_linear = is_sum or function in _KEEPING or is_multiple and len(inputs) == 1
    if not is_linear and function not in _NOT_LINEAR and not activates(operation):
        return None
    descent = joined(map(descent_of, inputs))
    if descent is None:
        return None
    if descent.is_activation or not is_linear:
        return descent.activated()
    return replace(descent, shifts=(*descent.shifts, rule)) if isinstance(rule, Shift) else descent


PADDING = named("pad", "constant_pad_nd")


def inside_of(operation: Operation) -> Tensor | None:
    """What is not padding in the output of an operation that pads with zeros; None for other numbers."""
    x, sizes = operation.first, operation.argument(1, "pad")
    is_constant = operation.function is not functional.pad or operation.argument(2, "mode", "constant") == "constant"
    value = operation.argument(3 if operation.function is functional.pad else 2, "value")
    if value or not is_constant or len(sizes) == 2 * x.ndim:
        return None
    inside = inside_of_padding(x)
    return functional.pad(torch.ones_like(x[:1]) if inside is None else inside, sizes)


CASTS = named("long", "int", "short", "char", "byte", "to", "type", "type_as", "bucketize", "searchsorted")

ROUTING = named(
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "split", "chunk", "unbind",
    "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes", "unsafe_chunk", "unsafe_split", "reshape", "view",
    "view_as", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "transpose", "permute", "movedim",
    "moveaxis", "swapaxes", "swapdims", "t", "adjoint", "contiguous", "clone", "detach", "to", "float", "double",
    "half", "bfloat16", "type", "type_as", "cpu", "cuda", "expand", "expand_as", "broadcast_to", "broadcast_tensors",
    "repeat", "repeat_interleave", "tile", "index_select", "gather", "take", "take_along_dim", "select", "narrow",
    "__getitem__", "__setitem__", "where", "masked_fill", "masked_scatter", "masked_select", "scatter", "index_put",
    "index_copy", "index_fill", "max", "min", "amax", "amin", "maximum", "minimum", "fmax", "fmin", "topk", "sort",
    "msort", "median", "kthvalue", "cummax", "pad", "constant_pad_nd", "flip", "fliplr", "flipud", "roll", "rot90",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "as_strided", "diagonal", "diag", "diag_embed",
    "tril", "triu", "copy_", "fill_", "zero_", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_alpha_dropout", "atleast_1d", "atleast_2d", "atleast_3d", "nan_to_num", "requires_grad_", "embedding",
    "block_diag", "real",
    *(f"{kind}max_pool{axes}d{suffix}" for kind in ("", "adaptive_") for axes in (1, 2, 3)
      for suffix in ("", "_with_indices")),
)
"""Functions each value of whose output is that of an input, or a constant, unless they accumulate."""


def routes(operation: Operation) -> bool:
    """Whether each value of the output is that of an input, or a constant: gradients hand on relevance as they should.

    Relevance of constants is lost there. Views are found out when they are called.
    """
    adds = operation.kwargs.get("accumulate") or operation.argument(3, "accumulate") is True
    return operation.function in ROUTING and not adds and not operation.kwargs.get("reduce")
