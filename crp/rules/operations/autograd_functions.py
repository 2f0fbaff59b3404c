"""Functions of ``torch.autograd.Function``, which say themselves what their backward pass is: no relevance, mostly."""
from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from crp.rules.operations.elementwise import Identity, maps_single_elements
from crp.rules.operations.places import warn_of_gradient
from crp.rules.operations.registration import AUTOGRAD_RULES
from crp.rules.operations.rule import OperationRule
from crp.rules.replacement import precision

_OURS = "crp.", "zennit."


def function_of(tensor: Tensor) -> type | None:
    """The class of ``torch.autograd.Function`` that gave a tensor, unless it is one of ours."""
    node = tensor.grad_fn
    if not isinstance(node, BackwardCFunction):
        return None
    function = type(node)._forward_cls
    return None if function.__module__.startswith(_OURS) else function


def give_rule(node: Any, function: type) -> bool:
    """Let relevance go back through a node by the rule of its function; False, with a warning, if there is none."""
    make = AUTOGRAD_RULES.get(function)
    rule = make() if make is not None else Identity() if _is_elementwise(function, node) else None
    if rule is None:
        warn_of_gradient(function, "a torch.autograd.Function says what its gradient is, not what it computes")
        return False
    node.register_hook(lambda sent, arriving: _replaced(rule, node, sent, arriving))
    return True


def _replaced(rule: OperationRule, node: Any, sent: tuple, arriving: tuple) -> tuple:
    """What a node sends, by a rule."""
    relevance = [None if r is None else r.to(precision(r)) for r in arriving]
    if all(r is None for r in relevance):
        return sent
    saved = tuple(node.saved_tensors) if rule.reads_inputs else ()
    several: Any = relevance
    found = iter(rule.send(several if len(several) > 1 else several[0], saved, None))
    places = [edge[0] is not None for edge in node.next_functions]
    return tuple(next(found) if takes else None for takes in places)


def _is_elementwise(function: Any, node: Any) -> bool:
    """Whether a function of one tensor maps each element by itself, as swish and gradient reversal do."""
    if len([edge for edge in node.next_functions if edge[0] is not None]) != 1:
        return False
    own_context = function.setup_context is torch.autograd.Function.setup_context
    others = len(inspect.signature(function.forward).parameters) - 1 - own_context
    return maps_single_elements(lambda x: function.apply(x, *[1.] * others))
