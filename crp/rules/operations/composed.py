"""Functions that are run as several simpler ones, each of which has a rule."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crp.rules.operations import attention
from crp.rules.operations.recurrent import RECURRENT
from crp.rules.operations.rule import carries


def linear_with_computed_weight(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` as a product and a sum."""
    return input @ weight.mT if bias is None else input @ weight.mT + bias


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if not carries(input) and not carries(mat2) and input.ndim == 1 and beta == alpha == 1:
        return functional.linear(mat1, mat2.mT, input)
    return beta * input + alpha * (mat1 @ mat2)


def _addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * torch.mv(mat, vec)


def _addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * torch.bmm(batch1, batch2).sum(0)


def _baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * torch.bmm(batch1, batch2)


def _addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * input + alpha * torch.outer(vec1, vec2)


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 * tensor2)


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    return input + value * (tensor1 / tensor2)


def _lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    return (1 - weight) * input + weight * end


def _statistic_and_mean(statistic: Callable) -> Callable:
    def composed(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        where = {name: value for name, value in kwargs.items() if name in ("dim", "keepdim")}
        dim = next((arg for arg in args if not isinstance(arg, bool)), None)
        return statistic(input, *args, **kwargs), input.mean(**({} if dim is None else {"dim": dim}), **where)

    return composed


COMPOSED: dict[Callable, Callable] = {
    functional.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    functional.cosine_similarity: attention.cosine_similarity,
    functional.glu: attention.glu,
    torch.var_mean: _statistic_and_mean(torch.var),
    torch.std_mean: _statistic_and_mean(torch.std),
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    **dict.fromkeys((torch.addmv, Tensor.addmv), _addmv),
    **dict.fromkeys((torch.addbmm, Tensor.addbmm), _addbmm),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _baddbmm),
    **dict.fromkeys((torch.addr, Tensor.addr), _addr),
    **dict.fromkeys((torch.addcmul, Tensor.addcmul), _addcmul),
    **dict.fromkeys((torch.addcdiv, Tensor.addcdiv), _addcdiv),
    **dict.fromkeys((torch.lerp, Tensor.lerp), _lerp),
    **RECURRENT,
}
