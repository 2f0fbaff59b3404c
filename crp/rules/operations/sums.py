"""Rules of sums, and of operations that are linear in their inputs."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import Operation, sharing
from crp.rules.operations.elementwise import Scaling
from crp.rules.operations.rule import OperationRule, Stabilize, carries, denominator_sinks, total

REVERSED_SUBTRACTIONS: set[Callable] = {torch.rsub, Tensor.__rsub__}


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

    def _scaled(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [x if c == 1 else -x if c == -1 else c * x for c, x in zip(self.coefficients, inputs)]

    def _sum(self, terms: list[Tensor]) -> Tensor:
        z = terms[0] if self.constant is None else terms[0] + self.constant
        return z if len(terms) == 1 else z + terms[1]

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """Proportional shares."""
        terms = self._scaled(inputs)
        s = relevance / self.stabilize(self._sum(terms))
        return [(term * s).sum_to_size(term.shape) for term in terms]

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
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

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """Each input times what the transposed operation sends there."""
        sharing = self.sharing or [True] * len(inputs)
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(takes) for x, takes in zip(inputs, sharing)]
            z = self.function(*leaves)
            s = relevance / self.stabilize(z.detach()) / (sum(sharing) if self.sharing else 1)
            gradients = iter(torch.autograd.grad(z, [leaf for leaf in leaves if leaf.requires_grad], s))
        return [next(gradients) * x if takes else None for x, takes in zip(inputs, sharing)]

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """The share of what is added to zero inputs, and what the stabilizer takes."""
        z = self.function(*inputs)
        s = relevance / self.stabilize(z)
        bias = total(s * self.function(*map(torch.zeros_like, inputs)))
        return {**denominator_sinks(relevance, z, s), "biases": bias}


def sum_rule(first: float, second: float) -> Callable[[Operation], OperationRule | None]:
    """The rule of ``first * x + second * y`` (times ``alpha``, on the second argument)."""
    def rule(operation: Operation) -> OperationRule | None:
        x, y = operation.first, operation.argument(1, "other")
        alpha = operation.kwargs.get("alpha", 1)
        reverse = operation.function in REVERSED_SUBTRACTIONS
        coefficients = [first * alpha, second] if reverse else [first, second * alpha]
        constants = [c * v for c, v in zip(coefficients, (x, y)) if not carries(v)]
        coefficients = [c for c, v in zip(coefficients, (x, y)) if carries(v)]
        if constants and not isinstance(constants[0], Tensor) and constants[0] == 0:
            return Scaling(None, operation.inputs[0].shape)
        return Addition(coefficients, constants[0] if constants else None, "parameters", operation.stabilize)

    return rule


def linear_rule(operation: Operation) -> OperationRule | None:
    """Of an operation that is linear in all its inputs together."""
    return Linear(operation.as_function_of_inputs(), operation.stabilize)


def linear_in_first_rule(operation: Operation) -> OperationRule | None:
    """Of an operation that is linear in its first argument; none where others carry relevance."""
    return linear_rule(operation) if len(operation.inputs) == 1 and operation.inputs[0] is operation.first else None


def multilinear_rule(operation: Operation) -> OperationRule | None:
    """Of an operation that is linear in each of its inputs."""
    return Linear(operation.as_function_of_inputs(), operation.stabilize, sharing(operation.inputs))
