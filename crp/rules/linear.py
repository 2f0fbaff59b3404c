"""Modules that are linear in their input: forward with other parameters, and the transpose of it."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from zennit.layer import Sum

Weight: TypeAlias = Any
"""A tensor; None for modules that have none."""

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONVOLVE_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d
}


class LinearOperation:
    """A module as ``z = W x + b``, with parameters to be given.

    Parameters
    ----------
    module : torch.nn.Module

    Attributes
    ----------
    by_position : bool
        Whether the last axis holds features, and each position on the others is computed by itself.
    contributions_have_sign_of_weight : bool
        Whether a positive input contributes with the signs of entries of the weight.
    """

    by_position = contributions_have_sign_of_weight = False

    def __init__(self, module: nn.Module):
        self.module = module

    def takes(self, x: Tensor) -> bool:
        """Whether the first axis of ``x`` holds samples that do not depend on each other."""
        return True

    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        """``W x + b``."""
        raise NotImplementedError

    def equal_weights(self, x: Tensor, weight: Weight) -> bool:
        """Whether all channels of the output (on axis 1) have the same weights, as :func:`share_uniform` marks it."""
        return False

    def at_zero(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor | None:
        """``b``, the output for zeros like ``x``, perhaps as one row; None if it is zero."""
        return self.forward(torch.zeros_like(x), weight, bias)

    def transpose(self, s: Tensor, weight: Weight, shape: torch.Size) -> Tensor:
        """``W^T s``: the gradient of ``sum(s * (W x))`` with respect to an ``x`` of the given shape.

        Where all outputs have :meth:`equal_weights`, ``s`` may be the sum over them [B, 1, ...].
        """
        raise NotImplementedError


class _Linear(LinearOperation):
    by_position = contributions_have_sign_of_weight = True

    def takes(self, x: Tensor) -> bool:
        return x.ndim > 1

    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def at_zero(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor | None:
        return bias

    def transpose(self, s: Tensor, weight: Weight, shape: torch.Size) -> Tensor:
        return s @ weight


class _AnyConvolution(LinearOperation):
    contributions_have_sign_of_weight = True
    module: _ConvNd

    def __init__(self, module: _ConvNd):
        super().__init__(module)
        self.axes = len(module.kernel_size)

    def takes(self, x: Tensor) -> bool:
        return x.ndim == self.axes + 2

    def at_zero(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias.view(-1, *[1] * self.axes)

    def transpose(self, s: Tensor, weight: Weight, shape: torch.Size) -> Tensor:
        if s.ndim == self.axes + 1:
            return self.batch_transpose(s[None], weight, torch.Size((1, *shape)))[0]
        return self.batch_transpose(s, weight, shape)

    def batch_transpose(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class _Convolution(_AnyConvolution):
    def __init__(self, module: _ConvNd):
        super().__init__(module)
        self.padded_before = module.padding_mode != "zeros" or isinstance(module.padding, str)
        self.padding = (0,) * self.axes if self.padded_before else module.padding

    def _pad(self, x: Tensor) -> Tensor:
        if not self.padded_before:
            return x
        mode = "constant" if self.module.padding_mode == "zeros" else self.module.padding_mode
        return functional.pad(x, self.module._reversed_padding_repeated_twice, mode=mode)

    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        module = self.module
        return _CONVOLVE[self.axes](
            self._pad(x), weight, bias, module.stride, self.padding, module.dilation, module.groups
        )

    def equal_weights(self, x: Tensor, weight: Weight) -> bool:
        return self.takes(x) and self.module.groups == 1 and weight.stride()[:2] == (0, 0)

    def batch_transpose(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        if self.equal_weights(s, weight):
            one = self._padded_input_gradient(s.sum(1, keepdim=True), weight[:1, :1], (shape[0], 1, *shape[2:]))
            return one.repeat_interleave(shape[1], 1)
        if self.module.groups == 1:
            s, weight = _without_silent_channels(s, weight)
        return self._padded_input_gradient(s, weight, shape)

    def _padded_input_gradient(self, s: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        if not self.padded_before:
            return self._input_gradient(s, weight, shape)
        padded = self._pad(s.new_empty(1).expand(shape)).shape
        return _gradient(self._pad, shape, self._input_gradient(s, weight, padded))

    def _input_gradient(self, s: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
        module = self.module
        return torch.ops.aten.convolution_backward(
            s, _unset(s, shape), weight, None, module.stride, self.padding, module.dilation, False,
            [0] * self.axes, module.groups, [True, False, False],
        )[0]


class _TransposedConvolution(_AnyConvolution):
    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        module = self.module
        return _CONVOLVE_TRANSPOSED[self.axes](
            x, weight, bias, module.stride, module.padding, module.output_padding, module.groups, module.dilation
        )

    def batch_transpose(self, s: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        module = self.module
        return torch.ops.aten.convolution_backward(
            s, _unset(s, shape), weight, None, module.stride, module.padding, module.dilation, True,
            module.output_padding, module.groups, [True, False, False],
        )[0]


class _BatchNorm(LinearOperation):
    module: Any  # with running statistics

    def takes(self, x: Tensor) -> bool:
        return x.ndim > 1

    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        module = self.module
        mean, variance = module.running_mean.to(x.dtype), module.running_var.to(x.dtype)
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0., module.eps)

    def transpose(self, s: Tensor, weight: Weight, shape: torch.Size) -> Tensor:
        scale = (self.module.running_var.to(s.dtype) + self.module.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        return s * scale.view(-1, *[1] * (s.ndim - 2))


class _WithoutParameters(LinearOperation):
    def takes(self, x: Tensor) -> bool:
        return x.ndim > 1 and getattr(self.module, "dim", -1) == -1

    def forward(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        return self.module.forward(x)

    def transpose(self, s: Tensor, weight: Weight, shape: torch.Size) -> Tensor:
        return _gradient(self.module.forward, shape, s)


class _Pooling(_WithoutParameters):
    def takes(self, x: Tensor) -> bool:
        return x.ndim == int(type(self.module).__name__[-2]) + 2


_OPERATIONS: dict[type[nn.Module], type[LinearOperation]] = {
    nn.Linear: _Linear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: _Linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _Convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _TransposedConvolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BatchNorm),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _Pooling),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _Pooling),
    Sum: _WithoutParameters,
}


def linear_operation(module: nn.Module) -> LinearOperation | None:
    """The linear operation of a module; None if it is not known, as of subclasses and reparametrised modules."""
    operation = _OPERATIONS.get(type(module))
    if operation is None or "forward" in vars(module) or not module._parameters.keys() <= {"weight", "bias"}:
        return None
    if operation in (_Linear, _Convolution, _TransposedConvolution) and "weight" not in module._parameters:
        return None
    if operation is _BatchNorm and (module.training or module.running_mean is None):
        return None
    return operation(module)


def _without_silent_channels(s: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out output channels at which nothing arrives, as after a mask, if they are the majority."""
    half = s.shape[1] // 2
    if s[0].flatten(1).any(1).sum() > half:
        return s, weight
    channels = (s != 0).flatten(2).any(2).any(0).nonzero()[:, 0]
    if len(channels) == 0:
        return s[:, :1], weight[:1]
    return (s, weight) if len(channels) > half else (s[:, channels], weight[channels])


def share_uniform(weight: Tensor) -> Tensor:
    """A weight whose entries are all equal, as one kernel for all channels; any other as it is."""
    if weight.ndim < 3 or weight.flatten()[0] != weight.flatten()[-1] or weight.min() != weight.max():
        return weight
    return weight[:1, :1].expand_as(weight)


def _unset(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory that nobody touches, where PyTorch asks for an input and looks at its layout alone."""
    memory_format = torch.contiguous_format
    for channels_last, axes in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if like.ndim == axes and like.is_contiguous(memory_format=channels_last) and not like.is_contiguous():
            memory_format = channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _gradient(function: Callable[[Tensor], Tensor], shape: Sequence[int], s: Tensor) -> Tensor:
    """Gradient of ``sum(s * function(x))`` with respect to ``x``, for a linear function."""
    with torch.enable_grad():
        x = s.new_zeros(shape).requires_grad_()
        return torch.autograd.grad(function(x), x, s)[0].contiguous()
