"""Relevance per unit of activation: the rules of operations in the form of changed gradients.

Relevance of an element is its value times a factor that comes from above. In relevance patching that factor is wanted
by itself, also of elements that are zero: it is what autograd gives as the gradient where each operation hands on such
factors instead of relevance. Linear layers have the epsilon rule without its stabilizer, that is their gradient.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from zennit.core import Composite

from crp.rules.operations.call import Operation
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode
from crp.rules.operations.places import operation_name
from crp.rules.operations.rule import UNKNOWN, OperationRule, run_with_rule


class _PerUnit(OperationRule):
    """A rule of which what arrives and is sent is relevance per unit."""

    reads_inputs = reads_output = True

    def __init__(self, rule: OperationRule, function: Callable[..., Any]):
        self.rule, self.function = rule, function

    def send(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> Sequence[Tensor | None]:
        """Relevance per unit of the inputs."""
        return self.rule.per_unit(relevance, inputs, output, self.function)

    def run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """What the rule makes of the function."""
        return self.rule.run(function, args, kwargs)

    def reaches(self, leaf: Any) -> bool:
        """Whether the rule reaches a leaf."""
        return self.rule.reaches(leaf)


class PerUnitMode(OperationMode):
    """Within its context, gradients that flow back through a model are relevance per unit of activation.

    The model carries no rules of a composite.

    Parameters
    ----------
    model : torch.nn.Module
    attention : {"attnlrp", "cp-lrp", "cp-lrp-gates"}
        As for ``functional`` of :class:`crp.attribution.CondAttribution`.
    """

    def __init__(self, model: nn.Module, attention: str):
        nothing = Composite(lambda context, name, module: None)
        super().__init__(model, OperationRules(nothing, model, attention, copy=True))

    def see(self, value: Any) -> None:
        """Functions of ``torch.autograd`` keep their gradient."""

    def on_operation(self, function: Callable, args: tuple, kwargs: dict, rule: OperationRule | None) -> Any:
        """What a function gives."""
        if rule is None or rule is UNKNOWN or self.rules is None:
            return function(*args, **kwargs)
        if type(rule).per_unit is OperationRule.per_unit:
            raise ValueError(
                f"{type(rule).__name__}, the rule of {operation_name(function)!r}, does not say what relevance there "
                "is per unit of activation: method='gradient' or 'exact' does without"
            )
        operation = Operation(function, args, kwargs, self.rules.stabilize)
        return run_with_rule(_PerUnit(rule, operation.as_function_of(operation.inputs)), function, args, kwargs, True)
