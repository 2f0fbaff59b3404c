"""Rules of softmax and of normalisation by statistics of the input."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import Operation
from crp.rules.operations.elementwise import Scaling
from crp.rules.operations.rule import OperationRule, Stabilize, denominator_sinks, total
from crp.rules.operations.sums import Addition, Linear
from crp.rules.replacement import precision


class Softmax(OperationRule):
    """Taylor expansion of a softmax, without its bias: ``R_i = x_i (R_i - s_i sum_j R_j)`` (AttnLRP, section 3.3.1).

    Parameters
    ----------
    dim : int
    """

    reads_inputs = reads_output = True

    def __init__(self, dim: int):
        self.dim = dim

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """Relevance of the logits; none where they are minus infinity."""
        x, = inputs
        sent = (relevance - output * relevance.sum(self.dim, keepdim=True)).mul_(x)
        return [sent.masked_fill_(x == -torch.inf, 0)]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """The gradient of a softmax."""
        return [output * (arriving - (arriving * output).sum(self.dim, keepdim=True))]

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
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

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """``x`` times the transpose of centring and scaling, applied to ``R / stabilized(z)``."""
        return [self._received(relevance / self.stabilize(output), *inputs).mul_(inputs[0])]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """The transpose of centring and scaling, applied to what arrives."""
        return [self._received(arriving.clone(), *inputs)]

    def _received(self, s: Tensor, x: Tensor) -> Tensor:
        s = s if self.weight is None else s.mul_(self.weight)
        s = s.mul_((x.var(self.dims, correction=0, keepdim=True) + self.eps).rsqrt())
        return s.sub_(s.mean(self.dims, keepdim=True))

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """The share of the bias, and what the stabilizer takes."""
        s = relevance / self.stabilize(output)
        bias = {} if self.bias is None else {"biases": total(s * self.bias)}
        return {**denominator_sinks(relevance, output, s), **bias}


def softmax_rule(operation: Operation) -> OperationRule | None:
    """The Taylor expansion; none where PyTorch chooses the axis."""
    dim = operation.argument(1, "dim")
    return None if dim is None else Softmax(dim)


def log_softmax_rule(operation: Operation) -> OperationRule | None:
    """The logarithm of the sum is a constant."""
    dim = operation.argument(1, "dim")
    x, = operation.inputs
    return None if dim is None else Addition(
        [1], -x.detach().to(precision(x)).logsumexp(dim, keepdim=True), "softmax", operation.stabilize
    )


def layer_norm_rule(operation: Operation) -> OperationRule | None:
    """That of a layer norm; none where its weight or bias are computed."""
    shape = operation.argument(1, "normalized_shape")
    weight, bias = operation.argument(2, "weight"), operation.argument(3, "bias")
    if len(operation.inputs) != 1:
        return None
    dims = tuple(range(-len(shape), 0))
    return LayerNorm(dims, weight, bias, operation.argument(4, "eps", 1e-5), operation.stabilize)


def rms_norm_rule(operation: Operation) -> OperationRule | None:
    """A constant factor; none where its weight is computed."""
    x = operation.first
    return Scaling(operation.argument(2, "weight"), x.shape) if len(operation.inputs) == 1 else None


def group_norm_rule(operation: Operation) -> OperationRule | None:
    """Normalisation of groups of channels."""
    x, groups = operation.first, operation.argument(1, "num_groups")
    weight, bias, eps = (operation.argument(i, name) for i, name in ((2, "weight"), (3, "bias"), (4, "eps")))
    return _grouped(operation, x, groups, weight, bias, eps)


def instance_norm_rule(operation: Operation) -> OperationRule | None:
    """Normalisation of each channel by itself."""
    x = operation.first
    if not operation.argument(5, "use_input_stats", True):
        return batch_norm_rule(operation)
    weight, bias, eps = (operation.argument(i, name) for i, name in ((3, "weight"), (4, "bias"), (7, "eps")))
    return _grouped(operation, x, x.shape[1], weight, bias, eps)


def _grouped(
    operation: Operation, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float | None
) -> OperationRule | None:
    """Normalisation of groups of channels by the mean and deviation that this input has."""
    if len(operation.inputs) != 1:
        return None
    eps = 1e-5 if eps is None else eps
    values = x.detach().to(precision(x)).unflatten(1, (groups, -1)).flatten(2)
    scale = (values.var(2, correction=0, keepdim=True) + eps).rsqrt()

    def normalise(x: Tensor) -> Tensor:
        values = x.unflatten(1, (groups, -1)).flatten(2)
        centred = ((values - values.mean(2, keepdim=True)) * scale.to(x.dtype)).view(x.shape)
        return _affine(centred, weight, bias)

    return Linear(normalise, operation.stabilize)


def batch_norm_rule(operation: Operation) -> OperationRule | None:
    """Normalisation by running statistics; none by those of the batch."""
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


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * _channelwise(weight, x)
    return x if bias is None else x + _channelwise(bias, x)
