"""The rules that functional operations get beside a composite."""
from __future__ import annotations

from torch import nn
from zennit.core import Composite, Hook, Stabilizer
from zennit.layer import Sum

from crp.rules.fast_rules import stabilizer_of
from crp.rules.operations.call import Operation
from crp.rules.operations.first_order import first_order_rule
from crp.rules.operations.rule import OperationRule
from crp.rules.operations.table import RULES, SOFTMAX, activates, normalises, routes
from crp.rules.stabilizers import FastStabilizer

ATTENTION = ("attnlrp", "cp-lrp", "cp-lrp-gates")


class OperationRules:
    """The rules that functional operations get beside a composite.

    Linear operations, convolutions and pooling get the composite's rule for such a module; the others those of
    :mod:`crp.rules.operations`, with the composite's stabilizer.

    Parameters
    ----------
    composite : zennit.core.Composite
    model : torch.nn.Module
        On which it is registered.
    attention : {"attnlrp", "cp-lrp", "cp-lrp-gates"}
        Whether relevance passes the softmax of attention, or all of it goes to the values; and, with the last, whether
        what an activation function gives gets nothing of a product either.
    copy : bool, default False
        Let rules read copies of their inputs, for models that write to these later.
    open_layers : dict, optional
        Layer -> what gives the rule of linear operations in it, for layers that carry none.
    """

    def __init__(
        self, composite: Composite, model: nn.Module, attention: str = "attnlrp", copy: bool = False,
        open_layers: dict[nn.Module, Composite] | None = None,
    ):
        self.composite, self.attention, self.copy = composite, attention, copy
        self.open_layers = open_layers or {}
        self.context: dict = {}
        for name, module in model.named_modules():
            composite.module_map(self.context, name, module)
        examples = Sum(), nn.Linear(1, 1, device="meta")  # which needs no random numbers
        rules = [composite.module_map(dict(self.context), "", module) for module in examples]
        found = (stabilizer_of(rule) for rule in rules if isinstance(rule, Hook))
        self.stabilize = FastStabilizer(next((stabilizer for stabilizer in found if stabilizer), Stabilizer(1e-6)))

    def rule_of(self, operation: Operation) -> OperationRule | None:
        """The rule of an operation; None where gradients are right."""
        if routes(operation):
            return None
        is_complex = any(x.is_complex() for x in operation.inputs)
        choose = None if is_complex else RULES.get(operation.function)
        return (choose and choose(operation)) or first_order_rule(operation)

    def is_constant_factor(self, operation: Operation) -> bool:
        """Whether what an operation gives counts as a constant where it is a factor."""
        is_weight = self.attention != "attnlrp" and operation.function in SOFTMAX
        return normalises(operation) or is_weight or self.are_gates_constant and activates(operation)

    @property
    def are_gates_constant(self) -> bool:
        """Whether what an activation function gives counts as a constant where it is a factor."""
        return self.attention == "cp-lrp-gates"
