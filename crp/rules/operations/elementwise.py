"""Rules of operations that treat each element by itself."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import Operation
from crp.rules.operations.rule import OperationRule, carries, quotients, total


class Identity(OperationRule):
    """Relevance passes an operation that treats each element by itself (AttnLRP, section 3.3.2)."""

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """Relevance as it is."""
        return [relevance]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """``f(x) / x`` times what arrives."""
        return quotients(arriving, inputs, output, function, [True])


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

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """Relevance where the factor is not zero."""
        if self.factor is not None:
            relevance = relevance * (self.factor != 0)
        return [relevance.sum_to_size(self.shape)]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """``f(x) / x`` times what arrives, which is the factor."""
        return quotients(arriving, inputs, output, function, [True])

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """What arrives where the factor is zero."""
        return {} if self.factor is None else {"empty": total(relevance * (self.factor == 0))}


def maps_single_elements(function: Callable[[Tensor], Any]) -> bool:
    """Whether a function maps each element of a tensor by itself, on a few numbers in several shapes.

    Numbers are of either sign; positive ones for what is only defined there, such as roots.
    """
    x = torch.linspace(-3, 3, 24)
    shuffled = torch.arange(24).view(4, 6).T.flatten()
    try:
        with torch.no_grad():
            y = function(x.clone())
            if isinstance(y, Tensor) and not y.isfinite().all():
                x = torch.linspace(.1, .9, 24)
                y = function(x.clone())
            others = [function(part.clone()) for part in (x[shuffled], x[:1], x.view(2, 3, 4))]
    except Exception:  # whatever a function raises that expects something else
        return False
    expected = [y[shuffled], y[:1], y.view(2, 3, 4)] if isinstance(y, Tensor) and y.shape == x.shape else []
    return bool(expected) and all(
        isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a, b) for a, b in zip(others, expected)
    )


def elementwise_rule(operation: Operation) -> OperationRule | None:
    """Relevance passes, where it can only come back through the first argument."""
    return Identity() if len(operation.inputs) == 1 and carries(operation.first) else None


def normalised_rule(operation: Operation) -> OperationRule | None:
    """Relevance passes a division by a norm, which counts as a constant."""
    return Identity() if len(operation.inputs) == 1 else None
