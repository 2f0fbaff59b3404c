"""Measures each operation of a model while relevance flows back through it."""
from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from zennit.core import BasicHook, Hook, ParamMod
from zennit.rules import Pass
from zennit.types import BatchNorm

from crp.attribution.audit import Audit, OperationBalance
from crp.model.layers import flatten_tensors
from crp.rules.batch_norms import is_identity
from crp.rules.fast_rules import FORMULAS, FastRule
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.mode import OperationMode, rule_of
from crp.rules.operations.modules import WITH_WEIGHTS
from crp.rules.operations.places import operation_name, source_line
from crp.rules.operations.rule import UNKNOWN, OperationRule, carries, total
from crp.rules.operations.table import LOG_SOFTMAX, ROUTING, SIGMOID, SOFTMAX
from crp.rules.replacement import PassThrough, precision

Edge: TypeAlias = tuple[Any, int]
"""A node of the autograd graph, and which of its inputs."""
Sinks: TypeAlias = Callable[[torch.Tensor, int], dict[str, float]]
"""``relevance of an output, its place among those that carry relevance -> what goes to no input``."""

_RELU = {functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


@dataclass
class _Measured:
    """An operation with the sums that its backward pass adds to, in float64, and the sink of what is left.

    ``layer`` is the module that it is the whole of, if any.
    """

    balance: OperationBalance
    function: Callable | None = None
    layer: str = ""
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    sinks: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    rest: str = ""


class AuditMode(OperationMode):
    """Measures each operation of a model that runs within its context, when relevance flows back.

    Parameters
    ----------
    model : torch.nn.Module
    rules : OperationRules, optional
    """

    def __init__(self, model: nn.Module, rules: OperationRules | None = None):
        super().__init__(model, rules)
        self._measured: list[_Measured] = []
        self._calls: Counter[str] = Counter()
        self._functional_relus: Counter[tuple[str, str]] = Counter()
        self._without_rule: Counter[str] = Counter()
        self._places = {
            name: tensor.untyped_storage().data_ptr()
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
            if tensor.is_floating_point() and tensor.layout == torch.strided
        }
        self._running: tuple[Any, ...] = ()

    # Forward

    def on_operation(self, function: Callable, args: tuple, kwargs: dict, rule: OperationRule | None) -> Any:
        """Run a function, and measure it if relevance can pass."""
        leaves = flatten_tensors((args, kwargs))
        parameters = self._parameters_among(leaves)
        if not any(carries(leaf) for leaf in leaves):
            result = function(*args, **kwargs)
            if parameters and isinstance(result, torch.Tensor) and result.is_floating_point():
                vars(result)["of_parameters"] = parameters
            return result
        first: Any = args[0] if args else None
        edges = _edges((args, kwargs)) | _edges(_whole(first))
        inputs = tuple(leaf.detach().clone() for leaf in leaves if carries(leaf)) if rule is not None else ()
        result = super().on_operation(function, args, kwargs, rule)
        outputs = result if any(carries(leaf) for leaf in flatten_tensors(result)) else args[:1]  # x[0] = y gives None
        name, module = self.modules[-1] if self.modules else ("", None)
        operation = operation_name(function)
        is_leaf = module is not None and next(module.children(), None) is None
        if is_leaf:
            operation = f"{type(module).__name__} ({operation})"
        source = source_line()
        known = None if rule is UNKNOWN else rule
        balance = OperationBalance(operation, name, source, "" if known is None else type(known).__name__)
        balance.parameters = ", ".join(parameters)
        outputs = flatten_tensors(outputs)
        sinks = None if known is None else _sinks_of_operation(known, inputs, list(filter(carries, outputs)))
        if _is_written(first, outputs):
            sinks = None if sinks is None else _sinks_of_part(sinks, first)
            outputs = [_whole(first)]
        measured = self._measure(balance, edges, outputs, sinks)
        if measured is not None:
            measured.function, measured.layer = function, name if is_leaf else ""
        has_rules = self.rules is not None and function not in WITH_WEIGHTS
        if rule is UNKNOWN:
            self._without_rule[f"{operation} {source or name}".strip()] += 1
        elif measured is not None and rule is None and (has_rules or function in ROUTING):
            measured.rest = "parameters"  # relevance that is lost is that of constants
        if measured is not None and function in _RELU and rule is None:
            self._functional_relus[source or name, name] += 1
        return result

    def on_autograd_function(self, output: torch.Tensor, function: type, has_rule: bool) -> None:
        """Measure a function that has no graph but that of its own."""
        balance = OperationBalance(
            function.__name__, self.modules[-1][0] if self.modules else "", source_line(), "own" if has_rule else ""
        )
        following = output.grad_fn.next_functions if output.grad_fn is not None else ()
        edges = {edge[:2] for edge in following if edge[0] is not None}
        self._measure(balance, edges, [output])
        if not has_rule:
            self._without_rule[f"{function.__name__} {balance.source or balance.module}".strip()] += 1

    def _parameters_among(self, leaves: list[Any]) -> list[str]:
        """Names of the parameters among constants, or of those that they were computed from."""
        constants = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not carries(leaf)]
        memory = {
            constant.untyped_storage().data_ptr() for constant in constants if constant.layout == torch.strided
        }
        known = [name for name, place in self._places.items() if place in memory]
        return list(dict.fromkeys([*known, *(name for c in constants for name in getattr(c, "of_parameters", ()))]))

    def before_rule(self, name: str, module: nn.Module, rule: Hook, args: tuple, kwargs: dict) -> None:
        """Remember what a module with a rule is given."""
        is_functional = self.modules[-1][1] is not module
        self._calls[name] += not is_functional
        x = next((leaf for leaf in flatten_tensors((args, kwargs)) if carries(leaf)), None)
        source = source_line() if is_functional else ""
        balance = OperationBalance(type(module).__name__, name, source, _rule_name(rule))
        self._running = balance, module, rule, _edges((args, kwargs)), x if x is None else x.detach().clone()

    def after_rule(self, output: Any) -> None:
        """Measure a module with a rule."""
        balance, module, rule, edges, x = self._running
        sinks = _sinks_of(rule, module, x)
        measured = self._measure(balance, edges, flatten_tensors(output), sinks)
        if measured is not None:
            measured.function = torch.sigmoid if isinstance(module, nn.Sigmoid) else None
            measured.layer = balance.module

    def _measure(
        self, balance: OperationBalance, edges: set[Edge], outputs: list[Any], sinks: Sinks | None = None
    ) -> _Measured | None:
        """Add what arrives at outputs, and what the nodes between send along edges, to an operation."""
        carrying = enumerate(output for output in outputs if carries(output) and not _is_sparse(output))
        places = [(place, output) for place, output in carrying if get_gradient_edge(output)[:2] not in edges]
        if not places:
            return None
        nodes = list(_nodes_between([output for _, output in places], edges))
        if not nodes:  # as where an operation writes to a part of another tensor
            return None
        measured = _Measured(balance)
        self._measured.append(measured)

        def arrive(relevance: torch.Tensor | None, place: int) -> None:
            if relevance is None:  # none arrives at a factor that counts as a constant
                return
            measured.sums["arriving"] += total(relevance)
            measured.sums["magnitude"] += total(relevance.abs())
            if sinks is not None:
                for name, amount in sinks(relevance, place).items():
                    measured.sinks[name] += amount

        def leave(sent: Sequence[torch.Tensor | None], places: list[int]) -> None:
            for place in places:
                if (relevance := sent[place]) is not None:
                    measured.sums["sent"] += total(relevance)
                    measured.sums["sent_magnitude"] += total(relevance.abs())

        for place, output in places:
            output.register_hook(lambda relevance, place=place: arrive(relevance, place))
        for node, positions in nodes:
            node.register_hook(lambda sent, _, places=[i for i, _ in positions]: leave(sent, places))
        return measured

    # Results

    def audit(self, total: float, absolute: float, start: float, tolerance: float, below_half: bool) -> Audit:
        """What was measured, after relevance ``start`` was sent back and ``total`` arrived at the input.

        ``below_half`` tells whether it started at outputs that are below a half.
        """
        operations = []
        for measured in self._measured:
            balance, sums = measured.balance, measured.sums
            for name in ("arriving", "sent", "magnitude", "sent_magnitude"):
                setattr(balance, name, sums[name] / start)
            balance.sinks = {name: amount / start for name, amount in measured.sinks.items()}
            if measured.rest:
                balance.sinks[measured.rest] = balance.arriving - balance.sent
            if balance.magnitude > 0 or not math.isfinite(total) and math.isnan(balance.magnitude):
                operations.append(balance)
        told = self._squashed_output(below_half)
        return Audit(total / start, operations, list(self._notes()), tolerance, absolute / start, **told)

    def _squashed_output(self, below_half: bool) -> dict[str, str]:
        """What is to be told if relevance starts from a softmax or a sigmoid, and what to start from instead."""
        passed = [m for m in self._measured if m.balance.magnitude != 0 and m.function not in ROUTING]
        function = passed[-1].function if passed else None
        if function is None or function not in SOFTMAX | LOG_SOFTMAX | (SIGMOID if below_half else set()):
            return {}
        last, before = passed[-1], next((m.layer for m in reversed(passed[:-1]) if m.layer), "")
        layer = f"{last.layer}:in" if last.layer else before
        what = f"the output is a {operation_name(function)} ({last.balance.place})"
        advice = "Start from what it is computed from" + (
            f": start_layer={layer!r}, with classes as its concepts" if layer else ""
        )
        if function in SIGMOID:
            return {"turned": f"{what}, positive also where what it is computed from is negative: there what speaks "
                              f"for the output has negative relevance. {advice}"}
        lost = 1 - last.balance.sent / last.balance.arriving if last.balance.arriving else 1.
        return {"saturated": f"{what}: it saturates, and of 1, {lost:.3g} stays in it. {advice}"}

    def _notes(self) -> Iterator[str]:
        batch_norms = [
            name for name, module in self.model.named_modules()
            if isinstance(module, BatchNorm) and self._calls[name] and not is_identity(module)
            and isinstance(rule_of(module), (Pass, PassThrough))
        ]
        if self._without_rule:
            yield f"no rule, the gradient passes: {_listed(list(self._without_rule))}"
        if batch_norms:
            yield f"batch norm is not merged into the layer before it: {_listed(batch_norms)}"
        repeated = [name for name, count in self._calls.items() if count > 1]
        if repeated:
            yield f"called more than once, read at the last call: {_listed(repeated)}"
        rule_for_relu = any(
            isinstance(module, nn.ReLU) and isinstance(rule_of(module), (Pass, PassThrough))
            for module in self.model.modules()
        )
        if self._functional_relus and rule_for_relu:
            places = [place for place, _ in self._functional_relus]
            yield f"functional ReLU, out of reach of the rule for nn.ReLU (its gradient conserves): {_listed(places)}"


def _edges(values: Any) -> set[Edge]:
    """Where, in the autograd graph, relevance of tensors goes."""
    return {get_gradient_edge(leaf)[:2] for leaf in flatten_tensors(values) if carries(leaf) and not _is_sparse(leaf)}


def _whole(value: Any) -> Any:
    """The tensor of which a view shows a part; other values as they are."""
    return value if not isinstance(value, torch.Tensor) or value._base is None else value._base


def _is_written(value: Any, outputs: list[Any]) -> bool:
    """Whether an operation gave a view that it was given: what is written there becomes part of the whole."""
    return any(output is value for output in outputs) and _whole(value) is not value and carries(_whole(value))


def _sinks_of_part(sinks: Sinks, part: torch.Tensor) -> Sinks:
    """The sinks of what was written to a view, of the relevance of the whole."""
    whole = _whole(part)
    size, stride, offset = part.size(), part.stride(), part.storage_offset() - whole.storage_offset()
    whole_size, whole_stride = whole.size(), whole.stride()

    def sinks_of_part(relevance: torch.Tensor, place: int) -> dict[str, float]:
        laid_out = relevance.new_empty_strided(whole_size, whole_stride).copy_(relevance)
        return sinks(laid_out.as_strided(size, stride, offset), place)

    return sinks_of_part


def _is_sparse(tensor: torch.Tensor) -> bool:
    """Whether a tensor has no memory of its own, nor views, as sparse parameters do."""
    return tensor.layout != torch.strided and tensor.grad_fn is None


def _nodes_between(outputs: list[torch.Tensor], edges: set[Edge]) -> Iterable[tuple[Any, list[tuple[int, Edge]]]]:
    """The nodes of the autograd graph above edges, with the places at which each leads to one."""
    waiting, seen = [get_gradient_edge(output).node for output in outputs], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        following = node.next_functions
        positions = [(i, edge) for i, edge in enumerate(following) if edge in edges]
        if positions:
            yield node, positions
        waiting += [edge[0] for edge in following if edge[0] is not None and edge not in edges]


def _sinks_of(rule: Hook, module: nn.Module, x: torch.Tensor | None) -> Sinks | None:
    """For a rule of zennit's, ``relevance of the output -> what goes to biases and stabilizers``."""
    rule = rule.rule if isinstance(rule, FastRule) else rule
    if x is None or not isinstance(rule, BasicHook):
        return None

    def sinks(relevance: torch.Tensor, _: int) -> dict[str, float]:
        with torch.no_grad(), torch.autocast(relevance.device.type, enabled=False):
            given = x.to(relevance.dtype)
            outputs, biases = [], []
            for change_input, change_parameters, change_output in zip(
                rule.input_modifiers, rule.param_modifiers, rule.output_modifiers
            ):
                modified = change_input(given.clone())
                with ParamMod.ensure(change_parameters)(module) as changed:
                    outputs.append(change_output(changed.forward(modified)))
                    biases.append(change_output(changed.forward(torch.zeros_like(modified))))
            gradients = rule.gradient_mapper(relevance, outputs)
            gradients = [gradients] if isinstance(gradients, torch.Tensor) else gradients

        def reduced(values: list[torch.Tensor]) -> torch.Tensor:
            """What the rule sends back for ``values`` among the summands of its outputs."""
            return rule.reducer([1.] * len(values), [gradient * value for gradient, value in zip(gradients, values)])

        found = {"biases": total(reduced(biases))}
        if type(rule) in FORMULAS:
            kept = relevance - reduced(outputs)
            empty = torch.stack([output == 0 for output in outputs]).all(0)
            found |= {"stabilizers": total(kept.masked_fill(empty, 0)), "empty": total(kept[empty])}
        return found

    return sinks


def _sinks_of_operation(rule: OperationRule, inputs: tuple[torch.Tensor, ...], outputs: list[torch.Tensor]) -> Sinks:
    kept = [z.detach().clone().to(precision(z)) for z in outputs]

    def sinks(relevance: torch.Tensor, place: int) -> dict[str, float]:
        arriving = [relevance.to(precision(relevance)) if i == place else None for i in range(len(kept))]
        with torch.no_grad(), torch.autocast(relevance.device.type, enabled=False):
            given = tuple(x.to(precision(x)) for x in inputs)
            return rule.sinks(arriving, given, kept) if len(kept) > 1 else rule.sinks(arriving[0], given, kept[0])

    return sinks


def _rule_name(rule: Hook) -> str:
    return type(rule.rule if isinstance(rule, FastRule) else rule).__name__


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(dict.fromkeys(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
