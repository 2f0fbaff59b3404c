"""What a rule of an operation is, and how a function runs with one."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crp.model.layers import flatten_tensors, unflatten_tensors
from crp.rules.replacement import precision

Stabilize = Callable[[Tensor], Tensor]


def carries(value: Any) -> bool:
    """Whether relevance can come back through a value."""
    return isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled()


def mark_constant_factor(tensor: Tensor) -> None:
    """Let a tensor count as a constant where it is a factor: it gets no relevance of the product."""
    vars(tensor)["is_constant_factor"] = True


def is_constant_factor(tensor: Tensor) -> bool:
    """Whether a tensor, and so what is computed from such tensors alone, counts as a constant factor."""
    return getattr(tensor, "is_constant_factor", False)


class OperationRule:
    """How an operation hands relevance to its inputs.

    Attributes
    ----------
    reads_inputs, reads_output : bool
        Whether :meth:`send` looks at them.
    """

    reads_inputs = reads_output = False

    def send(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Any) -> Sequence[Tensor | None]:
        """Relevance of the inputs. Those, and the output, are only given if they are read."""
        raise NotImplementedError

    def sinks(self, relevance: Tensor, inputs: tuple[Tensor, ...], output: Tensor) -> dict[str, float]:
        """Relevance that reaches no input, by the name of what gets it."""
        return {}


def denominator_sinks(relevance: Tensor, z: Tensor, s: Tensor) -> dict[str, float]:
    """What a stabilized division ``s = R / stabilized(z)`` keeps: where nothing contributes, and elsewhere."""
    kept, empty = relevance - s * z, z == 0
    return {"stabilizers": total(kept.masked_fill(empty, 0)), "empty": total(kept[empty])}


def total(tensor: Tensor) -> float:
    """Sum in float64."""
    return float(tensor.detach().sum(dtype=torch.float64))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: OperationRule, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.rule, ctx.count = rule, len(inputs)
        output = output.detach()  # no view, which could not be written to
        ctx.save_for_backward(*(inputs if rule.reads_inputs else ()), *((output,) if rule.reads_output else ()))
        return output

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("relevance of operations cannot be differentiated: use functional=False")
        rule, kind = ctx.rule, precision(relevance)
        saved = tuple(tensor.to(kind) for tensor in ctx.saved_tensors)
        inputs = saved[:ctx.count] if rule.reads_inputs else ()
        with torch.autocast(relevance.device.type, enabled=False):
            return None, None, *rule.send(relevance.to(kind), inputs, saved[-1] if rule.reads_output else None)


def run_with_rule(rule: OperationRule, function: Callable, args: tuple, kwargs: dict, copy: bool = False) -> Tensor:
    """Call a function such that relevance goes back through it by a rule; its in-place forms write, as they do.

    Parameters
    ----------
    rule : OperationRule
    function, args, kwargs
    copy : bool, default False
        Let the rule read copies, for models that write to its inputs or its output later.
    """
    in_place = is_in_place(function) or bool(kwargs.get("inplace"))
    kwargs = {**kwargs, "inplace": False} if "inplace" in kwargs else kwargs
    leaves = flatten_tensors((args, kwargs))
    if in_place:
        written = args[0]
        if rule.reads_inputs:
            leaves = [written.clone() if leaf is written else leaf for leaf in leaves]
    elif copy and rule.reads_inputs:
        leaves = [leaf.clone() if carries(leaf) else leaf for leaf in leaves]
    inputs = [leaf for leaf in leaves if carries(leaf)]
    with torch.no_grad():
        alone = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if in_place:
            alone[0] = alone[0].clone()
        alone_args, alone_kwargs = unflatten_tensors((args, kwargs), alone)
        output = function(*alone_args, **alone_kwargs)
    result = _Backward.apply(rule, output, *inputs)
    if in_place:
        return written.copy_(result)
    return result.clone() if copy and rule.reads_output else result


def is_in_place(function: Callable) -> bool:
    """Whether a function of PyTorch writes to its first argument, by its name."""
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__") or name.startswith("__i") and name != "__invert__"
