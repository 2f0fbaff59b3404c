"""Batches whose rows are one and the same memory, so that what is done to them needs doing once.

``tensor.expand(n, ...)`` makes such a batch: its stride over the first axis is zero. It behaves as any other, but
modules that know (see :mod:`crp.rules`) compute one row and expand the result.
"""
from __future__ import annotations

from typing import Any

import torch


def is_shared(tensor: torch.Tensor) -> bool:
    """Whether all rows of a batch are the same memory."""
    return tensor.stride()[:1] == (0,) and len(tensor) > 1


def distinct_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The first row [1, ...] of a shared batch; any other batch as it is."""
    return tensor[:1] if is_shared(tensor) else tensor


def share_rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """A batch of ``count`` rows from one row [1, ...]; any other batch as it is."""
    return tensor.expand(count, *tensor.shape[1:]) if len(tensor) == 1 < count else tensor


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        copy = share_rows(distinct_rows(tensor).clone(), len(tensor)) if tensor.ndim else tensor.clone()
        return copy.detach()  # no view, which could not be written to

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def copy_rows(tensor: torch.Tensor) -> torch.Tensor:
    """A differentiable copy, shared if the original is."""
    return _Copy.apply(tensor)


def keep_marks(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Let a tensor that stands for another one bear the marks that operations left there."""
    vars(target).update(vars(source))
    return target
