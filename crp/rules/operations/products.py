"""Rules of products: of activations with each other, of matrices, and with constants."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import Operation, sharing
from crp.rules.operations.elementwise import Scaling
from crp.rules.operations.first_order import first_order_rule
from crp.rules.operations.rule import OperationRule, Stabilize, carries, denominator_sinks, quotients


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

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """An equal share for each."""
        share = relevance / sum(self.sharing)
        return [share.sum_to_size(shape) if takes else None for shape, takes in zip(self.shapes, self.sharing)]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """The other factors, times an equal share of what arrives."""
        return quotients(arriving, inputs, output, function, self.sharing)


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

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """``R_a = a (s b^T)`` and ``R_b = b (a^T s)``, where ``s = R / 2 stabilized(z)``."""
        received = self._received(relevance / self.stabilize(output), inputs)
        return [None if gradient is None else gradient.mul_(x) for x, gradient in zip(inputs, received)]

    def per_unit(
        self, arriving: Tensor, inputs: tuple[Tensor, ...], output: Tensor, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """Half of the gradients."""
        return self._received(arriving, inputs)

    def _received(self, s: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
        a, b = inputs
        s = s / sum(self.sharing)
        return [
            (s @ b.mT).sum_to_size(a.shape) if self.sharing[0] else None,
            (a.mT @ s).sum_to_size(b.shape) if self.sharing[1] else None,
        ]

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """What the stabilizer takes."""
        return denominator_sinks(relevance, output, relevance / self.stabilize(output))


def product_rule(operation: Operation) -> OperationRule | None:
    """Constants, and factors that count as such, get nothing."""
    x, y = operation.first, operation.argument(1, "other")
    if len(operation.inputs) == 1:
        return Scaling(y if carries(x) else x, operation.inputs[0].shape)
    return Uniform([x.shape, y.shape], sharing(operation.inputs))


def quotient_rule(operation: Operation) -> OperationRule | None:
    """As a product; the numerator gets all of it where the denominator is a constant."""
    if operation.kwargs.get("rounding_mode"):
        return None
    x, y = operation.first, operation.argument(1, "other")
    if carries(x) and not carries(y):
        return Scaling(None, x.shape)
    return product_rule(operation)


def power_rule(operation: Operation) -> OperationRule | None:
    """The base gets all of it where the exponent is a constant; otherwise both share it."""
    inputs = operation.inputs
    return Scaling(None, inputs[0].shape) if len(inputs) == 1 else Uniform([x.shape for x in inputs], sharing(inputs))


def matrix_product_rule(operation: Operation) -> OperationRule | None:
    """That of matrices; vectors have the general rule of products."""
    a, b = operation.first, operation.argument(1, "other", operation.kwargs.get("mat2"))
    if carries(a) and carries(b) and a.ndim > 1 and b.ndim > 1:
        return MatrixProduct(operation.stabilize, sharing([a, b]))
    return first_order_rule(operation)
