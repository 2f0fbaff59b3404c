"""Hooks that run a module without autograd graph and give its output a backward pass of their own."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from zennit.core import Hook, RemovableHandle, RemovableHandleList

from crp.model.rows import distinct_rows, is_shared, share_rows

RelevanceOfInput: TypeAlias = Callable[[torch.Tensor, Any], torch.Tensor]
"""``(relevance of the output, x) -> relevance of x``; x is None where the rule does not read it."""


def precision(tensor: torch.Tensor) -> torch.dtype:
    """The type in which relevance of a tensor is computed: float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def check_not_transformed(tensor: torch.Tensor) -> None:
    """Raise a NotImplementedError within ``torch.func.grad`` and the like, whose derivatives have no relevance."""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise NotImplementedError(
            "the model computes derivatives (torch.func.grad, jvp, jacrev or the like) in its forward pass: relevance "
            "of these is not defined. Without a composite their gradients flow"
        )


class Replacement(Hook):
    """A hook that replaces the autograd graph of its module by a rule.

    Attributes
    ----------
    reads_input : bool
        Whether the rule needs the input in the backward pass.
    """

    reads_input = True

    def __init__(self) -> None:
        super().__init__()
        self._inputs: list[torch.Tensor | None] = []

    def applies(self, x: torch.Tensor) -> bool:
        """Whether a call with this input is replaced: relevance comes back through it, or equal rows need one."""
        return x.requires_grad or self.shares(x)

    def shares(self, x: torch.Tensor) -> bool:
        """Whether one row stands for all rows of this input."""
        return is_shared(x)

    def call(
        self, module: nn.Module, x: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, RelevanceOfInput]:
        """What a call of the module gives, and ``(relevance of the output, x) -> relevance of x``."""
        raise NotImplementedError

    def register(self, module: nn.Module) -> RemovableHandleList:
        """Attach to a module; the handles detach."""
        return RemovableHandleList([
            RemovableHandle(self),
            module.register_forward_pre_hook(self._detach, with_kwargs=True),
            module.register_forward_hook(self._attach, prepend=True),  # others see an output with a graph
        ])

    def remove(self) -> None:
        """Forget what an interrupted forward pass left."""
        super().remove()
        self._inputs.clear()

    def _detach(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        values = (*args, *kwargs.values())
        x = values[0] if values and isinstance(values[0], torch.Tensor) and self.applies(values[0]) else None
        self._inputs.append(x)
        if x is None:
            return None
        check_not_transformed(x)
        alone = (distinct_rows(x) if self.shares(x) else x).detach()
        if getattr(module, "inplace", False) and x.is_leaf and x.requires_grad:
            alone = alone.clone()
        return ((alone, *args[1:]), kwargs) if args else (args, {**kwargs, next(iter(kwargs)): alone})

    def _attach(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        x = self._inputs.pop()
        if x is None:
            return None
        if not x.requires_grad:
            return share_rows(output, len(x))
        if torch.is_autocast_enabled(x.device.type):
            output = output.to(precision(output))
        output, relevance_of_input = self.call(module, x, output)
        return _Backward.apply(x, share_rows(output, len(x)) if self.shares(x) else output, self, relevance_of_input)


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, output: torch.Tensor, hook: Replacement, relevance_of_input: RelevanceOfInput
    ) -> torch.Tensor:
        ctx.hook, ctx.relevance_of_input = hook, relevance_of_input
        if hook.reads_input:
            ctx.save_for_backward(x)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, relevance: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        if not ctx.hook.active:
            raise RuntimeError("accelerated rules cannot be inactive: use the composite itself")
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("relevance of accelerated rules cannot be differentiated: use the composite itself")
        x, = ctx.saved_tensors or (None,)
        with torch.autocast(relevance.device.type, enabled=False):
            return ctx.relevance_of_input(relevance, x), None, None, None


class PassThrough(Replacement):
    """Relevance passes as it is, as by :class:`zennit.rules.Pass`."""

    reads_input = False

    def call(
        self, module: nn.Module, x: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, RelevanceOfInput]:
        """The output; relevance passes."""
        return output, lambda relevance, x: relevance

    def copy(self) -> PassThrough:
        """A hook of the same kind."""
        return type(self)()


_MAX_POOLS: dict[type[nn.Module], tuple[Callable, Callable]] = {
    nn.MaxPool2d: (torch.nn.functional.max_pool2d, torch.ops.aten.max_pool2d_with_indices_backward),
    nn.MaxPool3d: (torch.nn.functional.max_pool3d, torch.ops.aten.max_pool3d_with_indices_backward),
}


class SharedMaxPool(Replacement):
    """The gradient of max pooling for a batch of equal rows, from the indices of one."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether this hook knows the module."""
        return type(module) in _MAX_POOLS and not module.return_indices

    def applies(self, x: torch.Tensor) -> bool:
        """PyTorch takes care of batches whose rows differ."""
        return is_shared(x) and x.dtype == precision(x)

    def call(self, module: Any, x: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, RelevanceOfInput]:
        """The output, and the gradient at the indices of the maxima."""
        pool, gradient = _MAX_POOLS[type(module)]
        axes = x.ndim - 2

        def each_axis(option: int | tuple[int, ...]) -> list[int]:
            return [option] * axes if isinstance(option, int) else list(option)

        options = [each_axis(o) for o in (module.kernel_size, module.stride, module.padding, module.dilation)]
        output, indices = pool(distinct_rows(x).detach(), *options, module.ceil_mode, return_indices=True)

        def relevance_of_input(relevance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            rows = distinct_rows(relevance)
            x, of_rows = share_rows(x[:1], len(rows)), share_rows(indices, len(rows))
            return share_rows(gradient(rows, x, *options, module.ceil_mode, of_rows), len(relevance))

        return output, relevance_of_input

    def copy(self) -> SharedMaxPool:
        """A hook of the same kind."""
        return type(self)()
