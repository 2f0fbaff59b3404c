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


def clear_marks(tensor: Any) -> None:
    """Forget what was noted of a tensor that has been written to."""
    if isinstance(tensor, Tensor):
        vars(tensor).clear()


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

    def send(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> Sequence[Tensor | None]:
        """Relevance of the inputs. Those, and the output, are only given if they are read.

        Of several outputs, and of their relevance, there is a sequence.
        """
        raise NotImplementedError

    def per_unit(
        self, arriving: Any, inputs: tuple[Tensor, ...], output: Any, function: Callable[..., Any]
    ) -> Sequence[Tensor | None]:
        """Relevance per unit of each input, of that per unit of the output: :meth:`send` without its last product.

        Where relevance is ``x`` times a factor, this is the factor, also where ``x`` is zero. ``function`` is the
        operation, ``inputs -> output``.
        """
        raise ValueError(f"{type(self).__name__} does not say what relevance there is per unit of its inputs")

    def run(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """What the function gives; the arguments require no gradients."""
        with torch.no_grad():
            return function(*args, **kwargs)

    def reaches(self, leaf: Any) -> bool:
        """Whether relevance comes back through a leaf of what :meth:`run` gives."""
        return isinstance(leaf, Tensor)

    def sinks(self, relevance: Any, inputs: tuple[Tensor, ...], output: Any) -> dict[str, float]:
        """Relevance that reaches no input, by the name of what gets it."""
        return {}


UNKNOWN = OperationRule()
"""Stands for the rule of an operation that could be given none: its gradient passes, and that is told."""


def gradients(
    function: Callable[..., Any], inputs: Sequence[Tensor], arriving: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of ``sum(arriving * function(inputs))`` by the inputs that are wanted."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(takes) for x, takes in zip(inputs, wanted)]
        output = function(*leaves)
    taking = [leaf for leaf, takes in zip(leaves, wanted) if takes]
    found = iter(torch.autograd.grad(output, taking, arriving.to(output.dtype), allow_unused=True))
    return [next(found) if takes else None for takes in wanted]


def quotients(
    arriving: Tensor, inputs: Sequence[Tensor], output: Tensor, function: Callable[..., Any], sharing: Sequence[bool]
) -> list[Tensor | None]:
    """``arriving * output / x`` for elements whose relevance passes, shared equally; for ``x = 0`` its limit."""
    share = arriving / sum(sharing)
    at_zero: list[Tensor | None] | None = None
    if any(bool((x == 0).any()) for x, takes in zip(inputs, sharing) if takes):
        at_zero = gradients(function, inputs, share, sharing)
    found: list[Tensor | None] = []
    for i, (x, takes) in enumerate(zip(inputs, sharing)):
        if not takes:
            found.append(None)
            continue
        factor = (share * output / torch.where(x == 0, torch.ones_like(x), x)).sum_to_size(x.shape)
        limit = None if at_zero is None else at_zero[i]
        found.append(factor if at_zero is None else torch.where(x == 0, 0 if limit is None else limit, factor))
    return found


def denominator_sinks(relevance: Tensor, z: Tensor, s: Tensor) -> dict[str, float]:
    """What a stabilized division ``s = R / stabilized(z)`` keeps: where nothing contributes, and elsewhere."""
    relevance, z, s = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in (relevance, z, s))
    kept, empty = relevance - (s * z).masked_fill_(s == 0, 0), z == 0
    return {"stabilizers": total(kept.masked_fill(empty, 0)), "empty": total(kept[empty])}


def total(tensor: Tensor) -> float:
    """Sum in float64, of real and imaginary parts."""
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return float(tensor.detach().sum(dtype=torch.float64))


def by_parts(function: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """A function of real tensors, of complex ones for real and imaginary parts by themselves.

    Relevance of a complex number is a complex number: that of its real and of its imaginary part.
    """
    if not first.is_complex() and not second.is_complex():
        return function(first, second)
    kind = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.complex64)
    return torch.view_as_complex(function(
        *(torch.view_as_real(part.to(kind).resolve_conj()) for part in (first, second))
    ))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: OperationRule, count: int, *tensors: Tensor) -> Any:
        ctx.rule, ctx.count = rule, len(tensors) - count
        ctx.set_materialize_grads(False)
        outputs = tuple(tensor.detach() for tensor in tensors[:count])  # no views, which could not be written to
        ctx.save_for_backward(
            *(tensors[count:] if rule.reads_inputs else ()), *(outputs if rule.reads_output else ())
        )
        return outputs if count > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError("relevance of operations cannot be differentiated: use functional=False")
        rule, count = ctx.rule, len(relevance)
        arriving = [None if r is None else r.to(precision(r)) for r in relevance]
        device = next((r.device.type for r in relevance if r is not None), None)
        if device is None:
            return (None,) * (2 + count + ctx.count)
        saved = [tensor.to(precision(tensor)) for tensor in ctx.saved_tensors]
        inputs = tuple(saved[:ctx.count]) if rule.reads_inputs else ()
        outputs = tuple(saved[-count:]) if rule.reads_output else (None,) * count
        with torch.autocast(device, enabled=False):
            sent = rule.send(arriving, inputs, outputs) if count > 1 else rule.send(arriving[0], inputs, outputs[0])
        return (None,) * (2 + count) + tuple(sent)


def run_with_rule(rule: OperationRule, function: Callable, args: tuple, kwargs: dict, copy: bool = False) -> Any:
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
    alone = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    if in_place:
        alone[0] = alone[0].clone()
    output = rule.run(function, *unflatten_tensors((args, kwargs), alone))
    found = flatten_tensors(output)
    places = [i for i, leaf in enumerate(found) if rule.reaches(leaf)]
    results = _Backward.apply(rule, len(places), *(found[i].detach() for i in places), *inputs)
    results = [results] if isinstance(results, Tensor) else list(results)
    if in_place:
        return written.copy_(results[0])
    if copy and rule.reads_output:
        results = [result.clone() for result in results]
    for i, result in zip(places, results):
        found[i] = result
    return unflatten_tensors(output, found)


def is_in_place(function: Callable) -> bool:
    """Whether a function of PyTorch writes to its first argument, by its name."""
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__") or name.startswith("__i") and name != "__invert__"
