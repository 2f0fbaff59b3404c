"""Layers that use another weight than a parameter of theirs: weight norm, pruning, standardised weights, adapters.

Rules change weights, and can only change parameters. So these layers stay open: what they compute is seen operation by
operation, and the rule is that of a plain layer with the weight as it is used.
"""
from __future__ import annotations

from torch import nn
from zennit.core import Composite, Hook
from zennit.types import Linear


def computes_weight(module: nn.Module) -> bool:
    """Whether a linear layer or convolution may use another weight than its parameter of that name."""
    if not isinstance(module, Linear):
        return False
    return not isinstance(module._parameters.get("weight"), nn.Parameter) or _has_own_forward(module)


def _has_own_forward(module: nn.Module) -> bool:
    """Whether a subclass of PyTorch's layer says itself what it computes."""
    methods = (getattr(module, name, None) for name in ("forward", "_conv_forward"))
    return not all(method.__module__.startswith("torch.nn.modules.") for method in methods if method is not None)


def leave_open(composite: Composite, model: nn.Module) -> tuple[Composite, dict[nn.Module, Hook]]:
    """A composite without rules for the layers of a model that compute their weight, and these rules.

    Returns
    -------
    composite : zennit.core.Composite
        The given one itself if there is no such layer, or if its class registers rules in a way of its own.
    rules : dict
        Layer -> its rule; filled when the composite is registered.
    """
    rules: dict[nn.Module, Hook] = {}
    is_own = type(composite).register is not Composite.register
    if is_own or not any(computes_weight(module) for module in model.modules()):
        return composite, rules

    def module_map(context: dict, name: str, module: nn.Module) -> Hook | None:
        rule = composite.module_map(context, name, module)
        if rule is None or not computes_weight(module):
            return rule
        rules[module] = rule
        return None

    return Composite(module_map, composite.canonizers), rules
