"""Rules of layer-wise relevance propagation for functional operations.

The rules follow AttnLRP (R. Achtibat et al., 2024, AttnLRP: Attention-aware layer-wise relevance propagation for
transformers, ICML), in which all operations of a transformer are one of: linear (each input gets the relevance of its
contribution), element by element (relevance passes), a product of activations (shared equally), or a softmax (its
Taylor expansion).
"""
from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crp.layers import flatten_tensors, unflatten_tensors
from crp.replacement import precision

Stabilize = Callable[[Tensor], Tensor]


def carries(value: Any) -> bool:
    """Whether relevance can come back through a value."""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def mark_constant_factor(tensor: Tensor) -> None:
    """Let a tensor count as a constant where it is a factor: it gets no relevance of the product."""
    tensor.is_constant_factor = True


def is_constant_factor(tensor: Tensor) -> bool:
    """Whether a tensor, and so what is computed from such tensors alone, counts as a constant factor."""
    return getattr(tensor, "is_constant_factor", False)


# Rules


class OperationRule:
    """How an operation hands relevance to its inputs.

    Attributes
    ----------
    reads_inputs, reads_output : bool
        Whether :meth:`send` looks at them.
    """

    reads_inputs = reads_output = False

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor | None) -> list[Tensor]:
        """Relevance of the inputs."""
        raise NotImplementedError

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """Relevance that reaches no input, by the name of what gets it."""
        return {}


class Identity(OperationRule):
    """Relevance passes an operation that treats each element by itself (AttnLRP, section 3.3.2)."""

    def send(self, relevance, inputs, output):
        """Relevance as it is."""
        return [relevance]


class Scaling(OperationRule):
    """Multiplication by a constant, the epsilon rule of which without stabilizer is the identity.

    Parameters
    ----------
    factor : torch.Tensor, number or None
        Nothing comes back where it is zero; None if it is nowhere.
    shape : torch.Size
        Of the input.
    """

    def __init__(self, factor: Any, shape: torch.Size):
        self.factor, self.shape = factor, shape

    def send(self, relevance, inputs, output):
        """Relevance where the factor is not zero."""
        if self.factor is not None:
            relevance = relevance * (self.factor != 0)
        return [relevance.sum_to_size(self.shape)]

    def sinks(self, relevance, inputs, output):
        """What arrives where the factor is zero."""
        return {} if self.factor is None else {"empty": total(relevance * (self.factor == 0))}


class Uniform(OperationRule):
    """Factors of a product share its relevance equally (AttnLRP, section 3.3.3).

    Parameters
    ----------
    shapes : list of torch.Size
        Of the factors.
    sharing : list of bool
        Which of them take part.
    """

    def __init__(self, shapes: list[torch.Size], sharing: list[bool]):
        self.shapes, self.sharing = shapes, sharing

    def send(self, relevance, inputs, output):
        """An equal share for each."""
        share = relevance / sum(self.sharing)
        return [share.sum_to_size(shape) if takes else None for shape, takes in zip(self.shapes, self.sharing)]


class Addition(OperationRule):
    """Summands get the relevance of the sum in proportion: ``R_i = c_i x_i R / stabilized(z)``.

    Parameters
    ----------
    coefficients : list of number
        Of the inputs.
    constant : torch.Tensor, number or None
        Another summand, which gets a share too.
    sink : str
        The name under which that is booked.
    stabilize : callable
    """

    reads_inputs = True

    def __init__(self, coefficients: list[float], constant: Any, sink: str, stabilize: Stabilize):
        self.coefficients, self.constant, self.sink, self.stabilize = coefficients, constant, sink, stabilize

    def _scaled(self, inputs):
        return [x if c == 1 else -x if c == -1 else c * x for c, x in zip(self.coefficients, inputs)]

    def _sum(self, terms):
        z = terms[0] if self.constant is None else terms[0] + self.constant
        return z if len(terms) == 1 else z + terms[1]

    def send(self, relevance, inputs, output):
        """Proportional shares."""
        terms = self._scaled(inputs)
        s = relevance / self.stabilize(self._sum(terms))
        return [(term * s).sum_to_size(term.shape) for term in terms]

    def sinks(self, relevance, inputs, output):
        """The share of the constant, and what the stabilizer takes."""
        z = self._sum(self._scaled(inputs))
        s = relevance / self.stabilize(z)
        found = denominator_sinks(relevance, z, s)
        if self.constant is not None:
            found[self.sink] = total(s * self.constant)
        return found


class Linear(OperationRule):
    """An operation that is linear in its inputs, or in each of them: ``R_i = x_i df/dx_i(R / stabilized(z)) / n``.

    Parameters
    ----------
    function : callable
        ``inputs -> output``
    stabilize : callable
    sharing : list of bool, optional
        For a product, which of its factors share the relevance; by default the inputs are summands.
    """

    reads_inputs = True

    def __init__(self, function: Callable[..., Tensor], stabilize: Stabilize, sharing: list[bool] | None = None):
        self.function, self.stabilize, self.sharing = function, stabilize, sharing

    def send(self, relevance, inputs, output):
        """Each input times what the transposed operation sends there."""
        sharing = self.sharing or [True] * len(inputs)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(takes) for x, takes in zip(inputs, sharing)]
            z = self.function(*leaves)
            s = relevance / self.stabilize(z.detach()) / (sum(sharing) if self.sharing else 1)
            gradients = iter(torch.autograd.grad(z, [leaf for leaf in leaves if leaf.requires_grad], s))
        return [next(gradients) * x if takes else None for x, takes in zip(inputs, sharing)]

    def sinks(self, relevance, inputs, output):
        """The share of what is added to zero inputs, and what the stabilizer takes."""
        z = self.function(*inputs)
        s = relevance / self.stabilize(z)
        bias = total(s * self.function(*map(torch.zeros_like, inputs)))
        return {**denominator_sinks(relevance, z, s), "biases": bias}


class MatrixProduct(OperationRule):
    """Both factors of a matrix product get half, in proportion to contributions (AttnLRP, section 3.3.3).

    Parameters
    ----------
    stabilize : callable
    sharing : list of bool
        Whether each factor takes part; if only one does, it gets all.
    """

    reads_inputs = reads_output = True

    def __init__(self, stabilize: Stabilize, sharing: list[bool]):
        self.stabilize, self.sharing = stabilize, sharing

    def send(self, relevance, inputs, output):
        """``R_a = a (s b^T)`` and ``R_b = b (a^T s)``, where ``s = R / 2 stabilized(z)``."""
        a, b = inputs
        s = (relevance / self.stabilize(output)).div_(sum(self.sharing))
        return [
            (s @ b.mT).sum_to_size(a.shape).mul_(a) if self.sharing[0] else None,
            (a.mT @ s).sum_to_size(b.shape).mul_(b) if self.sharing[1] else None,
        ]

    def sinks(self, relevance, inputs, output):
        """What the stabilizer takes."""
        return denominator_sinks(relevance, output, relevance / self.stabilize(output))


class Softmax(OperationRule):
    """Taylor expansion of a softmax, without its bias: ``R_i = x_i (R_i - s_i sum_j R_j)`` (AttnLRP, section 3.3.1).

    Parameters
    ----------
    dim : int
    """

    reads_inputs = reads_output = True

    def __init__(self, dim: int):
        self.dim = dim

    def send(self, relevance, inputs, output):
        """Relevance of the logits; none where they are minus infinity."""
        x, = inputs
        sent = (relevance - output * relevance.sum(self.dim, keepdim=True)).mul_(x)
        return [sent.masked_fill_(x == -torch.inf, 0)]

    def sinks(self, relevance, inputs, output):
        """What the expansion's bias gets."""
        return {"softmax": total(relevance) - total(self.send(relevance, inputs, output)[0])}


class LayerNorm(OperationRule):
    """Normalisation by a constant factor: epsilon rule of centring, scaling and bias (AttnLRP, section 3.3.4).

    Parameters
    ----------
    dims : tuple of int
        The axes that are normalised.
    weight, bias : torch.Tensor or None
    eps : float
    stabilize : callable
    """

    reads_inputs = reads_output = True

    def __init__(self, dims: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float,
                 stabilize: Stabilize):
        self.dims, self.weight, self.bias, self.eps, self.stabilize = dims, weight, bias, eps, stabilize

    def send(self, relevance, inputs, output):
        """``x`` times the transpose of centring and scaling, applied to ``R / stabilized(z)``."""
        x, = inputs
        s = relevance / self.stabilize(output)
        s = s if self.weight is None else s.mul_(self.weight)
        s = s.mul_((x.var(self.dims, correction=0, keepdim=True) + self.eps).rsqrt())
        return [s.sub_(s.mean(self.dims, keepdim=True)).mul_(x)]

    def sinks(self, relevance, inputs, output):
        """The share of the bias, and what the stabilizer takes."""
        s = relevance / self.stabilize(output)
        bias = {} if self.bias is None else {"biases": total(s * self.bias)}
        return {**denominator_sinks(relevance, output, s), **bias}


def denominator_sinks(relevance: Tensor, z: Tensor, s: Tensor) -> dict[str, float]:
    """What a stabilized division ``s = R / stabilized(z)`` keeps: where nothing contributes, and elsewhere."""
    kept, empty = relevance - s * z, z == 0
    return {"stabilizers": total(kept.masked_fill(empty, 0)), "empty": total(kept[empty])}


def total(tensor: Tensor) -> float:
    """Sum in float64."""
    return float(tensor.detach().sum(dtype=torch.float64))


# Running an operation with a rule


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rule, output, *inputs):
        ctx.rule, ctx.count = rule, len(inputs)
        output = output.detach()  # no view, which could not be written to
        ctx.save_for_backward(*(inputs if rule.reads_inputs else ()), *((output,) if rule.reads_output else ()))
        return output

    @staticmethod
    def backward(ctx, relevance):
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("relevance of operations cannot be differentiated: use functional=False")
        rule, kind = ctx.rule, precision(relevance)
        saved = tuple(tensor.to(kind) for tensor in ctx.saved_tensors)
        inputs = saved[:ctx.count] if rule.reads_inputs else ()
        with torch.autocast(relevance.device.type, enabled=False):
            return None, None, *rule.send(relevance.to(kind), inputs, saved[-1] if rule.reads_output else None)


def run_with_rule(rule: OperationRule, function: Callable, args: tuple, kwargs: dict, copy: bool = False) -> Tensor:
    """Call a function such that relevance goes back through it by a rule; its in-place forms write, as they do.

    Parameters
    ----------
    rule : OperationRule
    function, args, kwargs
    copy : bool, default False
        Let the rule read copies, for models that write to its inputs or its output later.
    """
    in_place = is_in_place(function) or bool(kwargs.get("inplace"))
    kwargs = {**kwargs, "inplace": False} if "inplace" in kwargs else kwargs
    leaves = flatten_tensors((args, kwargs))
    if in_place:
        written = args[0]
        if rule.reads_inputs:
            leaves = [written.clone() if leaf is written else leaf for leaf in leaves]
    elif copy and rule.reads_inputs:
        leaves = [leaf.clone() if carries(leaf) else leaf for leaf in leaves]
    inputs = [leaf for leaf in leaves if carries(leaf)]
    with torch.no_grad():
        alone = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if in_place:
            alone[0] = alone[0].clone()
        alone_args, alone_kwargs = unflatten_tensors((args, kwargs), alone)
        output = function(*alone_args, **alone_kwargs)
    result = _Backward.apply(rule, output, *inputs)
    if in_place:
        return written.copy_(result)
    return result.clone() if copy and rule.reads_output else result


def is_in_place(function: Callable) -> bool:
    """Whether a function of PyTorch writes to its first argument, by its name."""
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__") or name.startswith("__i") and name != "__invert__"


# Which operation has which rule


class Operation:
    """A call of a function: what the choice of a rule looks at.

    Parameters
    ----------
    function, args, kwargs
    stabilize : callable
        For the denominators of its rule.
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict, stabilize: Stabilize):
        self.function, self.args, self.kwargs, self.stabilize = function, args, kwargs, stabilize

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

    def as_function_of_inputs(self) -> Callable[..., Tensor]:
        """The call as a function of its inputs alone."""
        leaves = flatten_tensors((self.args, self.kwargs))
        places = [i for i, leaf in enumerate(leaves) if carries(leaf)]
        kept = [None if carries(leaf) else leaf for leaf in leaves]
        template = unflatten_tensors((self.args, self.kwargs), kept)

        def function(*inputs):
            values = list(kept)
            for place, value in zip(places, inputs):
                values[place] = value
            values = [_like(value, inputs[0]) for value in values]
            args, kwargs = unflatten_tensors(template, values)
            return self.function(*args, **kwargs)

        return function


def _like(value: Any, tensor: Tensor) -> Any:
    is_floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(tensor.dtype) if is_floating else value


def _elementwise(operation: Operation) -> OperationRule | None:
    return Identity() if len(operation.inputs) == 1 and carries(operation.first) else None


def _summands(first: float, second: float) -> Callable[[Operation], OperationRule | None]:
    """The rule of ``first * x + second * y`` (times ``alpha``, on the second argument)."""
    def rule(operation):
        x, y = operation.first, operation.argument(1, "other")
        alpha = operation.kwargs.get("alpha", 1)
        reverse = operation.function in _REVERSED_SUBTRACTIONS
        coefficients = [first * alpha, second] if reverse else [first, second * alpha]
        constants = [c * v for c, v in zip(coefficients, (x, y)) if not carries(v)]
        coefficients = [c for c, v in zip(coefficients, (x, y)) if carries(v)]
        if constants and not isinstance(constants[0], Tensor) and constants[0] == 0:
            return Scaling(None, operation.inputs[0].shape)
        return Addition(coefficients, constants[0] if constants else None, "parameters", operation.stabilize)

    return rule


def _product(operation: Operation) -> OperationRule | None:
    """Constants, and factors that count as such, get nothing."""
    x, y = operation.first, operation.argument(1, "other")
    if len(operation.inputs) == 1:
        return Scaling(y if carries(x) else x, operation.inputs[0].shape)
    return Uniform([x.shape, y.shape], _sharing(operation.inputs))


def _sharing(factors: list[Tensor]) -> list[bool]:
    """Which factors of a product share its relevance: all, unless some count as constants."""
    sharing = [not is_constant_factor(factor) for factor in factors]
    return sharing if any(sharing) else [True] * len(sharing)


def _quotient(operation: Operation) -> OperationRule | None:
    if operation.kwargs.get("rounding_mode"):
        return None
    x, y = operation.first, operation.argument(1, "other")
    if carries(x) and not carries(y):
        return Scaling(None, x.shape)
    return _product(operation)


def _power(operation: Operation) -> OperationRule | None:
    inputs = operation.inputs
    return Scaling(None, inputs[0].shape) if len(inputs) == 1 else Uniform([x.shape for x in inputs], _sharing(inputs))


def _matrix_product(operation: Operation) -> OperationRule | None:
    a, b = operation.first, operation.argument(1, "other", operation.kwargs.get("mat2"))
    if carries(a) and carries(b) and a.ndim > 1 and b.ndim > 1:
        return MatrixProduct(operation.stabilize, _sharing([a, b]))
    return _multilinear(operation)


def _linear(operation: Operation) -> OperationRule | None:
    return Linear(operation.as_function_of_inputs(), operation.stabilize)


def _linear_in_first(operation: Operation) -> OperationRule | None:
    return _linear(operation) if len(operation.inputs) == 1 and operation.inputs[0] is operation.first else None


def _multilinear(operation: Operation) -> OperationRule | None:
    return Linear(operation.as_function_of_inputs(), operation.stabilize, _sharing(operation.inputs))


def _softmax(operation: Operation) -> OperationRule | None:
    dim = operation.argument(1, "dim")
    return None if dim is None else Softmax(dim)


def _log_softmax(operation: Operation) -> OperationRule | None:
    """The logarithm of the sum is a constant."""
    dim = operation.argument(1, "dim")
    x, = operation.inputs
    return None if dim is None else Addition(
        [1], -x.detach().to(precision(x)).logsumexp(dim, keepdim=True), "softmax", operation.stabilize
    )


def _layer_norm(operation: Operation) -> OperationRule | None:
    shape = operation.argument(1, "normalized_shape")
    weight, bias = operation.argument(2, "weight"), operation.argument(3, "bias")
    if len(operation.inputs) != 1:
        return None
    dims = tuple(range(-len(shape), 0))
    return LayerNorm(dims, weight, bias, operation.argument(4, "eps", 1e-5), operation.stabilize)


def _rms_norm(operation: Operation) -> OperationRule | None:
    x = operation.first
    return Scaling(operation.argument(2, "weight"), x.shape) if len(operation.inputs) == 1 else None


def _group_norm(operation: Operation) -> OperationRule | None:
    x, groups = operation.first, operation.argument(1, "num_groups")
    weight, bias, eps = (operation.argument(i, name) for i, name in ((2, "weight"), (3, "bias"), (4, "eps")))
    return _grouped(operation, x, groups, weight, bias, eps)


def _instance_norm(operation: Operation) -> OperationRule | None:
    x = operation.first
    if not operation.argument(5, "use_input_stats", True):
        return _batch_norm(operation)
    weight, bias, eps = (operation.argument(i, name) for i, name in ((3, "weight"), (4, "bias"), (7, "eps")))
    return _grouped(operation, x, x.shape[1], weight, bias, eps)


def _grouped(operation, x, groups, weight, bias, eps):
    """Normalisation of groups of channels by the mean and deviation that this input has."""
    if len(operation.inputs) != 1:
        return None
    eps = 1e-5 if eps is None else eps
    values = x.detach().to(precision(x)).unflatten(1, (groups, -1)).flatten(2)
    scale = (values.var(2, correction=0, keepdim=True) + eps).rsqrt()

    def normalise(x):
        values = x.unflatten(1, (groups, -1)).flatten(2)
        centred = ((values - values.mean(2, keepdim=True)) * scale.to(x.dtype)).view(x.shape)
        return _affine(centred, weight, bias)

    return Linear(normalise, operation.stabilize)


def _batch_norm(operation: Operation) -> OperationRule | None:
    mean, variance = operation.argument(1, "running_mean"), operation.argument(2, "running_var")
    weight, bias = operation.argument(3, "weight"), operation.argument(4, "bias")
    uses_batch = operation.argument(5, "training") or operation.kwargs.get("use_input_stats")
    if uses_batch or mean is None or len(operation.inputs) != 1:
        return None
    eps = operation.argument(7, "eps", 1e-5)
    return Linear(
        lambda x: _affine((x - _channelwise(mean, x)) * _channelwise((variance + eps).rsqrt(), x), weight, bias),
        operation.stabilize,
    )


def _channelwise(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


def _affine(x, weight, bias):
    x = x if weight is None else x * _channelwise(weight, x)
    return x if bias is None else x + _channelwise(bias, x)


def _normalised(operation: Operation) -> OperationRule | None:
    return Identity() if len(operation.inputs) == 1 else None


_NAMESPACES = (torch, Tensor, functional, torch.special, torch.linalg, torch._C._nn)


def named(*names: str) -> set[Callable]:
    """All of PyTorch's functions and methods of these names, with their in-place forms."""
    forms = [form for name in names for form in (name, f"{name}_")]
    found = (getattr(namespace, form, None) for namespace in _NAMESPACES for form in forms)
    return {function for function in found if callable(function)}


SOFTMAX = named("softmax")
_NORMALISERS = named("rsqrt", "sqrt", "std", "var", "norm", "vector_norm")
_POWERS = named("pow", "__pow__")
_SHAPED_LIKE_ANOTHER = named("expand_as", "view_as", "reshape_as", "type_as")
_REVERSED_SUBTRACTIONS = {torch.rsub, Tensor.__rsub__}

RULES: dict[Callable, Callable[[Operation], OperationRule | None]] = {
    **dict.fromkeys(named(
        "relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "rrelu", "prelu", "hardswish",
        "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "softplus", "softsign", "logsigmoid",
        "sigmoid", "tanh", "threshold", "clamp", "clip", "clamp_min", "clamp_max", "abs", "absolute", "neg", "negative",
        "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "square", "reciprocal", "erf", "erfc",
        "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "arctan", "expit", "logit", "sinc",
    ), _elementwise),
    **dict.fromkeys(named("add", "__add__", "__radd__", "__iadd__"), _summands(1, 1)),
    **dict.fromkeys(named("sub", "subtract", "__sub__", "__isub__"), _summands(1, -1)),
    **dict.fromkeys(_REVERSED_SUBTRACTIONS, _summands(-1, 1)),
    **dict.fromkeys(named("mul", "multiply", "__mul__", "__rmul__", "__imul__"), _product),
    **dict.fromkeys(
        named("div", "divide", "true_divide", "__div__", "__truediv__", "__itruediv__", "__idiv__"), _quotient
    ),
    **dict.fromkeys(named("__rdiv__", "__rtruediv__", "pow", "float_power", "__pow__", "__rpow__"), _power),
    **dict.fromkeys(named("matmul", "bmm", "mm", "__matmul__", "__rmatmul__"), _matrix_product),
    **dict.fromkeys(named("einsum", "mv", "dot", "vdot", "inner", "outer", "ger", "tensordot"), _multilinear),
    **dict.fromkeys(named(
        "sum", "mean", "cumsum", "diff", "trace", "fold", "interpolate", "upsample",
        *(f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)),
    ), _linear),
    **dict.fromkeys(SOFTMAX, _softmax),
    **dict.fromkeys(named("log_softmax"), _log_softmax),
    **dict.fromkeys(named("layer_norm"), _layer_norm),
    **dict.fromkeys(named("rms_norm"), _rms_norm),
    **dict.fromkeys(named("group_norm"), _group_norm),
    functional.instance_norm: _instance_norm,  # the arguments of torch.instance_norm and torch.batch_norm are others
    functional.batch_norm: _batch_norm,
    functional.grid_sample: _linear_in_first,
    **dict.fromkeys(named("normalize"), _normalised),
}


def normalises(operation: Operation) -> bool:
    """Whether an operation gives a deviation, a norm or the root of a mean square: a factor that normalises.

    Such factors count as constants (AttnLRP, section 3.3.4), and so does what is computed from them alone.
    """
    exponent = operation.argument(1, "exponent") if operation.function in _POWERS else None
    is_root = isinstance(exponent, float) and abs(exponent) == 0.5
    inputs = operation.inputs[:1] if operation.function in _SHAPED_LIKE_ANOTHER else operation.inputs
    return operation.function in _NORMALISERS or is_root or all(map(is_constant_factor, inputs))


ROUTING = named(
    "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "split", "chunk", "unbind",
    "tensor_split", "hsplit", "vsplit", "dsplit", "split_with_sizes", "unsafe_chunk", "unsafe_split", "reshape", "view",
    "view_as", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze", "transpose", "permute", "movedim",
    "moveaxis", "swapaxes", "swapdims", "t", "adjoint", "contiguous", "clone", "detach", "to", "float", "double",
    "half", "bfloat16", "type", "type_as", "cpu", "cuda", "expand", "expand_as", "broadcast_to", "broadcast_tensors",
    "repeat", "repeat_interleave", "tile", "index_select", "gather", "take", "take_along_dim", "select", "narrow",
    "__getitem__", "__setitem__", "where", "masked_fill", "masked_scatter", "masked_select", "scatter", "index_put",
    "index_copy", "index_fill", "max", "min", "amax", "amin", "maximum", "minimum", "fmax", "fmin", "topk", "sort",
    "msort", "median", "kthvalue", "cummax", "pad", "flip", "fliplr", "flipud", "roll", "rot90", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "unfold", "as_strided", "diagonal", "diag", "diag_embed", "tril", "triu",
    "copy_", "fill_", "zero_", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_alpha_dropout", "atleast_1d", "atleast_2d", "atleast_3d", "nan_to_num", "requires_grad_", "embedding",
    "block_diag", "real",
    *(f"{kind}max_pool{axes}d{suffix}" for kind in ("", "adaptive_") for axes in (1, 2, 3)
      for suffix in ("", "_with_indices")),
) | {Tensor.T.__get__, Tensor.mT.__get__, Tensor.H.__get__, Tensor.mH.__get__, Tensor.data.__get__}
"""Functions whose gradient hands relevance on as it should be: each output is a copy of one input, or constant."""
