"""Rules that users give to operations: functions, custom kernels, and functions of ``torch.autograd.Function``."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crp.rules.operations.call import canonical
from crp.rules.operations.elementwise import Identity
from crp.rules.operations.rule import OperationRule, total
from crp.rules.operations.table import RULES

Send = Callable[[Tensor, tuple[Tensor, ...], Any], Sequence[Tensor | None]]
"""``(relevance of the output, inputs, output) -> relevance of the inputs``."""

AUTOGRAD_RULES: dict[type, Callable[[], OperationRule]] = {}
"""Functions of ``torch.autograd.Function``, and what makes their rule."""


class OwnRule(OperationRule):
    """A rule that a user gave.

    Parameters
    ----------
    function : callable
        ``(relevance, inputs, output) -> relevance of the inputs``
    """

    reads_inputs = reads_output = True

    def __init__(self, function: Send):
        self.function = function

    def send(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> list[Tensor | None]:
        """What the function gives."""
        return list(self.function(relevance, inputs, output))

    def sinks(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> dict[str, float]:
        """What the function keeps."""
        arriving = relevance if isinstance(relevance, list) else [relevance]
        sent = self.send(relevance, inputs, output)
        came, went = (sum(total(r) for r in values if r is not None) for values in (arriving, sent))
        return {"own rules": came - went}


def register_rule(function: Any, rule: Send | str) -> None:
    """Give an operation a rule of its own, in all models from now on.

    Parameters
    ----------
    function : callable or subclass of torch.autograd.Function
        A function of PyTorch or a method of tensors, a custom operator such as ``torch.ops.library.name``, or a class
        whose ``apply`` models call.
    rule : callable or "identity"
        ``rule(relevance, inputs, output)`` gives the relevance of each input, or None: of the tensors among the
        arguments that relevance can go to, in order. ``relevance`` has the shape of the output (for several outputs it
        is a list, as ``output`` is). For a ``torch.autograd.Function``, ``inputs`` are the tensors that it saved,
        ``output`` is None, and what is given is for its arguments. "identity" passes relevance as it is.

    Raises
    ------
    ValueError
        If the rule is neither.

    Examples
    --------
    >>> import torch
    >>> from crp.rules import register_rule
    >>> class Rounding(torch.autograd.Function):
    ...     pass  # forward and backward
    >>> register_rule(Rounding, "identity")
    """
    if rule != "identity" and not callable(rule):
        raise ValueError(f"rule is a function (relevance, inputs, output), or 'identity', not {rule!r}")

    def make(*_: Any) -> OperationRule:
        return Identity() if isinstance(rule, str) else OwnRule(rule)

    if isinstance(function, type) and issubclass(function, torch.autograd.Function):
        AUTOGRAD_RULES[function] = make
    else:
        RULES[canonical(function)] = make
