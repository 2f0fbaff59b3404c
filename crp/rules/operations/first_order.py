"""The rule of operations that have none of their own: the epsilon rule of their linear part.

At the inputs it has, an operation is its linear part plus a remainder. Each input gets the relevance of its
contribution to the linear part; what the remainder keeps is a sink. Operations that are linear in what carries
relevance have no remainder, whatever they are called.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crp.model.layers import flatten_tensors
from crp.rules.operations.call import Operation, named, sharing
from crp.rules.operations.places import operation_name, warn_of_loss
from crp.rules.operations.rule import (
    UNKNOWN,
    OperationRule,
    Stabilize,
    by_parts,
    denominator_sinks,
    total,
)
from crp.rules.replacement import precision


class FirstOrder(OperationRule):
    """``R_i = x_i df/dx_i(R / stabilized(z)) / n``: the epsilon rule of the first-order expansion.

    For ``n`` factors of a product, each of which gets an equal share; for all other operations ``n`` is 1.

    Parameters
    ----------
    function : callable
        ``inputs -> output``: differentiable, and with any structure of tensors for an output.
    inputs : list of torch.Tensor
    stabilize : callable
    sharing : list of bool
        Which of the inputs take part.
    name : str
        Of the operation, for the sink of the remainder.
    """

    reads_inputs = reads_output = True

    def __init__(
        self, function: Callable, inputs: list[Tensor], stabilize: Stabilize, sharing: list[bool], name: str
    ):
        self.function, self.stabilize, self.sharing, self.name = function, stabilize, sharing, name
        graph = self._run(inputs)
        self._output = graph[0]
        self.gives_tensors = any(isinstance(leaf, Tensor) for leaf in flatten_tensors(graph[0]))
        is_exact = all(precision(tensor) == tensor.dtype for tensor in (*inputs, *self.outputs))
        self._graph = graph if is_exact else None  # else run again in float32
        factors = [x for x, takes in zip(inputs, sharing) if takes]
        self.shares = len(factors) if len(factors) > 1 and self._is_product(inputs) else 1

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors of the output through which relevance can come."""
        return [leaf for leaf in flatten_tensors(self._output) if self.reaches(leaf)]

    def run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """What the operation gave already."""
        output, self._output = self._output, None
        return output

    def reaches(self, leaf: Any) -> bool:
        """Whether a leaf of the output has a graph."""
        return isinstance(leaf, Tensor) and leaf.requires_grad

    def send(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """Each input times what the transposed linear part sends there."""
        return self._sent(self._quotients(relevance, output), inputs)

    def sinks(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> dict[str, float]:
        """What the stabilizer takes and what the remainder keeps."""
        s = self._quotients(relevance, output)
        found = {"stabilizers": 0., "empty": 0.}
        passing = 0.
        for r, z, quotient in zip(_sequence(relevance), _sequence(output), s):
            if r is not None and quotient is not None:
                for name, amount in denominator_sinks(r, z, quotient).items():
                    found[name] += amount
                passing += total(by_parts(torch.mul, quotient, z))
        remainder = passing - sum(total(sent) for sent in self._sent(s, inputs) if sent is not None)
        return {**found, f"remainder: {self.name}": remainder}

    def _quotients(self, relevance: Any, output: Any) -> list[Tensor | None]:
        return [
            None if r is None else by_parts(lambda r, z: r / self.stabilize(z), r, z)
            for r, z in zip(_sequence(relevance), _sequence(output))
        ]

    def per_unit(
        self, arriving: Any, inputs: tuple[Tensor, ...], output: Any, function: Callable[..., Any]
    ) -> list[Tensor | None]:
        """What the transposed linear part sends of what arrives."""
        return self._received(list(_sequence(arriving)), inputs)

    def _sent(self, s: list[Tensor | None], inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
        return [
            None if gradient is None else by_parts(_contribution, x, gradient)
            for x, gradient in zip(inputs, self._received(s, inputs))
        ]

    def _received(self, s: list[Tensor | None], inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
        output, leaves = self._graph or self._run([x.to(precision(x)) for x in inputs])
        outputs = [leaf for leaf in flatten_tensors(output) if self.reaches(leaf)]
        arriving = [(z, q.to(z.dtype)) for z, q in zip(outputs, s) if q is not None]
        gradients = iter(self._gradients(arriving, [leaf for leaf in leaves if leaf.requires_grad]))
        received = [next(gradients) if takes else None for takes in self.sharing]
        return [None if gradient is None else gradient / self.shares for gradient in received]

    def _gradients(self, arriving: list[tuple[Tensor, Tensor]], leaves: list[Tensor]) -> Sequence[Tensor | None]:
        """Gradients of the leaves; none, with a warning, where an operation has none."""
        try:
            return torch.autograd.grad(
                [z for z, _ in arriving], leaves, [q for _, q in arriving], retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            if "modified by an inplace operation" in str(error):
                raise
            warn_of_loss(self.name, f"it has no derivative ({error}); crp.rules.register_rule gives it a rule")
            return [None] * len(leaves)

    def _run(self, inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        """The output, and the leaves of its graph."""
        with torch.enable_grad():
            leaves = [x.detach().requires_grad_(takes) for x, takes in zip(inputs, self.sharing)]
            return self.function(*leaves), leaves

    def _is_product(self, inputs: list[Tensor]) -> bool:
        """Whether the output is linear in each of the inputs by itself: twice as large for twice an input."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = [2 * z.detach() for z in self.outputs]
            for i, takes in enumerate(self.sharing):
                if takes:
                    doubled = self.function(*(2 * x if i == j else x for j, x in enumerate(inputs)))
                    found = [leaf for leaf in flatten_tensors(doubled) if _is_continuous(leaf)]
                    if len(found) != len(expected) or not all(map(_is_close, found, expected)):
                        return False
        return any(bool(z.any()) for z in expected)


def first_order_rule(operation: Operation) -> OperationRule | None:
    """The general rule; none where no relevance comes back, nor for views and sparse forms, whose gradient is right."""
    inputs = [x.clone() for x in operation.inputs] if operation.copy else operation.inputs
    if any(x.layout != torch.strided for x in inputs):
        return None if operation.function in _FORMS else UNKNOWN
    try:
        rule = FirstOrder(
            operation.as_function_of(operation.inputs), inputs, operation.stabilize, sharing(operation.inputs),
            operation_name(operation.function),
        )
    except Exception:  # of functions that are about a tensor's own graph, or that fail anyway
        return None
    outputs = rule.outputs
    if not rule.gives_tensors:
        QUESTIONS.add(operation.function)
    is_dense = all(z.layout == torch.strided for z in outputs)
    return rule if outputs and is_dense and not any(_is_view(z, inputs) for z in outputs) else None


QUESTIONS: set[Callable] = set()
"""Functions that were found to give no tensors, such as ``Tensor.size``."""

_FORMS = named("to_dense", "to_sparse", "to_sparse_coo", "to_sparse_csr", "coalesce", "values")


def _contribution(x: Tensor, gradient: Tensor) -> Tensor:
    """Nothing where one of them is zero, were the other infinite."""
    return (x * gradient).masked_fill((x == 0) | (gradient == 0), 0)


def _is_view(tensor: Tensor, inputs: list[Tensor]) -> bool:
    """Whether a tensor shows the values of an input as they are, at other places."""
    places = [x.untyped_storage().data_ptr() for x in inputs if x.layout == torch.strided and x.numel()]
    return not tensor.is_conj() and not tensor.is_neg() and tensor.untyped_storage().data_ptr() in places


def _is_continuous(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _is_close(found: Tensor, expected: Tensor) -> bool:
    error = 20 * torch.finfo(found.dtype).eps
    return found.shape == expected.shape and torch.allclose(found, expected, error, 0, equal_nan=True)


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)
