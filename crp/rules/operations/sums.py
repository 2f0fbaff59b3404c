"""Rules of sums, and of operations that are linear in their inputs."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import Operation
from crp.rules.operations.descent import descent_of, is_number, joined
from crp.rules.operations.elementwise import Scaling
from crp.rules.operations.products import Uniform
from crp.rules.operations.rule import (
    OperationRule,
    Stabilize,
    carries,
    denominator_sinks,
    gradients,
    quotients,
    total,
)

REVERSED_SUBTRACTIONS: set[Callable] = {torch.rsub, Tensor.__rsub__}


class Addition(OperationRule):
    """Summands get the relevance of the sum in proportion: ``R_i = c_i x_i R / stabilized(z)``.

    In half precision summands often cancel out by rounding. Relevance of a sum that is zero is zero, and each summand's
    contribution would be lost: so there the sum is what rounding of the last summand leaves open, instead of zero.

    Parameters
    ----------
    coefficients : list of number
        Of the inputs.
    constant : torch.Tensor, number or None
        Another summand, which gets a share too.
    sink : str
        The name under which that is booked.
    stabilize : callable
    kind : torch.dtype, default torch.float32
        Of the sum.
    """

    reads_inputs = True

    def __init__(
        self, coefficients: list[float], constant: Any, sink: str, stabilize: Stabilize,
        kind: torch.dtype = torch.float32,
    ):
        self.coefficients, self.constant, self.sink, self.stabilize = coefficients, constant, sink, stabilize
        self.reads_output = self.is_rounded = torch.finfo(kind).bits < 32

    def run(self, function: Callable, args: tuple, kwargs: dict) -> Tensor:
        """The sum."""
        z = super().run(function, args, kwargs)
        if not self.is_rounded:
            return z
        *_, summand = (leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor))
        return torch.where(z == 0, summand.to(z.dtype) * (torch.finfo(z.dtype).eps / 2), z)

    def _scaled(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [x if c == 1 else -x if c == -1 else c * x for c, x in zip(self.coefficients, inputs)]

    def _sum(self, terms: list[Tensor]) -> Tensor:
        z = terms[0] if self.constant is None else terms[0] + self.constant
        return z if len(terms) == 1 else z + terms[1]

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """Proportional shares."""
        terms = self._scaled(inputs)
        s = self._quotient(relevance, output if self.is_rounded else self._sum(terms))
        return [(term * s).sum_to_size(term.shape) for term in terms]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """The coefficients, times what arrives."""
        return [(c * arriving).sum_to_size(x.shape) for c, x in zip(self.coefficients, inputs)]

    def _quotient(self, relevance: Tensor, z: Tensor) -> Tensor:
        """Nothing where summands cancel out: shares that are large and opposite would not do so further down."""
        return (relevance / self.stabilize(z)).masked_fill_(z == 0, 0)

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """The share of the constant, and what the stabilizer takes."""
        z = output if self.is_rounded else self._sum(self._scaled(inputs))
        s = self._quotient(relevance, z)
        found = denominator_sinks(relevance, z, s)
        if self.constant is not None:
            found[self.sink] = total((s * self.constant).masked_fill(s == 0, 0))  # masks are infinite
        return found


class Shift(Addition):
    """A sum with a number, which gets a share as a bias does, unless the sum is part of an activation function.

    Attributes
    ----------
    is_in_activation : bool
        Found out in the forward pass, by what is done with the sum.
    """

    is_in_activation = False

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor]:
        """All of it within an activation function."""
        return [relevance.sum_to_size(inputs[0].shape)] if self.is_in_activation else super().send(
            relevance, inputs, output
        )

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """Within an activation function, the quotient of output and input."""
        if self.is_in_activation:
            return quotients(arriving, inputs, output, function, [True])
        return super().per_unit(arriving, inputs, output, function)

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """None within an activation function."""
        return {} if self.is_in_activation else super().sinks(relevance, inputs, output)


class Linear(OperationRule):
    """An operation that is linear in its input, up to what it adds: ``R = x df/dx(R / stabilized(z))``.

    Parameters
    ----------
    function : callable
        ``input -> output``
    stabilize : callable
    """

    reads_inputs = True

    def __init__(self, function: Callable[[Tensor], Tensor], stabilize: Stabilize):
        self.function, self.stabilize = function, stabilize

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """The input times what the transposed operation sends there."""
        x, = inputs
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            z = self.function(leaf)
            gradient, = torch.autograd.grad(z, leaf, relevance / self.stabilize(z.detach()))
        return [gradient * x]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """What the transposed operation sends."""
        return gradients(self.function, inputs, arriving, [True])

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """The share of what is added to zero, and what the stabilizer takes."""
        x, = inputs
        z = self.function(x)
        s = relevance / self.stabilize(z)
        return {**denominator_sinks(relevance, z, s), "biases": total(s * self.function(torch.zeros_like(x)))}


def sum_rule(first: float, second: float) -> Callable[[Operation], OperationRule | None]:
    """The rule of ``first * x + second * y`` (times ``alpha``, on the second argument)."""
    def rule(operation: Operation) -> OperationRule | None:
        x, y = operation.first, operation.argument(1, "other")
        alpha = operation.kwargs.get("alpha", 1)
        reverse = operation.function in REVERSED_SUBTRACTIONS
        coefficients = [first * alpha, second] if reverse else [first, second * alpha]
        constants = [c * v for c, v in zip(coefficients, (x, y)) if not carries(v)]
        coefficients = [c for c, v in zip(coefficients, (x, y)) if carries(v)]
        constant, kind = constants[0] if constants else None, torch.result_type(x, y)
        is_shift = bool(constants) and is_number(constant)
        if is_shift and (_is_zero(constant) or descent_of(operation.inputs[0]).is_activation):
            return Scaling(None, operation.inputs[0].shape)
        if not constants and _are_of_activation(operation.inputs):
            return Uniform([x.shape, y.shape], [True, True])
        choose = Shift if is_shift else Addition
        return choose(coefficients, constant, "parameters", operation.stabilize, kind)

    return rule


def _is_zero(number: Any) -> bool:
    return not isinstance(number, Tensor) and number == 0


def _are_of_activation(summands: list[Tensor]) -> bool:
    """Whether summands are parts of one activation function."""
    descents = [descent_of(x) for x in summands]
    return any(descent.is_activation for descent in descents) and joined(descents) is not None
