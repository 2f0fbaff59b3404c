"""An audit of relevance: where it is created or lost on its way through a model."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional
from zennit.core import BasicHook, Hook, ParamMod
from zennit.rules import Pass
from zennit.types import BatchNorm

from crp.layers import flatten_tensors, unflatten_tensors
from crp.operations import OperationMode, operation_name, rule_of, source_line
from crp.replacement import PassThrough
from crp.rules import FORMULAS, FastRule

_JOINING = {
    torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack, torch.dstack, torch.where
}
_RELU = {functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


@dataclass
class OperationBalance:
    """What arrives at an operation and where it goes, in units of the relevance at the output.

    Attributes
    ----------
    operation : str
        A function such as ``add``, or the class of a module with a rule.
    module : str
        Name of the innermost module in which it runs.
    source : str
        ``file.py:line`` in the code of the model, if it is not PyTorch's.
    rule : str
        The rule of the module; empty for an operation that passes its gradient.
    arriving, sent : float
        Relevance of its outputs, and its own contributions to the relevance of its inputs.
    to_biases, to_stabilizers, to_parameters : float
        What its rule gives to biases and stabilizers, and what falls on parameters and other constants that enter as
        data.
    magnitude : float
        Absolute relevance that arrives, summed over the elements.
    """

    operation: str
    module: str
    source: str
    rule: str = ""
    arriving: float = 0.
    sent: float = 0.
    to_biases: float = 0.
    to_stabilizers: float = 0.
    to_parameters: float = 0.
    magnitude: float = 0.

    @property
    def sunk(self) -> float:
        """Relevance that goes elsewhere than to the inputs, for a known reason."""
        return self.to_biases + self.to_stabilizers + self.to_parameters

    @property
    def imbalance(self) -> float:
        """Relevance that is created (positive) or lost (negative) for no known reason."""
        return self.sent + self.sunk - self.arriving

    @property
    def factor(self) -> float:
        """Relevance that leaves, sinks included, over relevance that arrives; NaN if none arrives."""
        return (self.sent + self.sunk) / self.arriving if self.arriving else float("nan")


@dataclass(frozen=True)
class Audit:
    """Where relevance is created or lost on its way from the output to the input of a model.

    All numbers are in units of the relevance at the output.

    Attributes
    ----------
    total : float
        Relevance of the input: 1 where nothing is created, lost or sunk.
    operations : list of OperationBalance
        All operations that relevance passed, from the input to the output.
    notes : list of str
        What is unusual in the structure of the model, whether or not relevance is conserved.
    tolerance : float
        How much of the relevance that arrives an operation may create or lose.
    """

    total: float
    operations: list[OperationBalance]
    notes: list[str]
    tolerance: float = 0.01

    @property
    def faults(self) -> list[OperationBalance]:
        """Operations that create or lose relevance, the largest amounts first."""
        faults = [
            operation for operation in self.operations
            if abs(operation.imbalance) > max(self.tolerance * abs(operation.arriving), 1e-4 * operation.magnitude)
        ]
        return sorted(faults, key=lambda operation: -abs(operation.imbalance))

    @property
    def sinks(self) -> dict[str, float]:
        """Relevance that went to biases, stabilizers and parameters that enter as data."""
        return {
            name: sum(getattr(operation, f"to_{name}") for operation in self.operations)
            for name in ("biases", "stabilizers", "parameters")
        }

    @property
    def accounted(self) -> float:
        """Relevance of the input and of the sinks together: 1 where LRP conserves relevance."""
        return self.total + sum(self.sinks.values())

    def table(self, most: int = 20) -> str:
        """The largest faults as text.

        Parameters
        ----------
        most : int, default 20
            How many lines.
        """
        return "\n".join(_format(self._lines(most))) if self.faults else ""

    def _lines(self, most):
        header = ("operation", "module", "source", "rule", "arrives", "leaves", "factor")
        lines = [
            (o.operation, o.module or "(model)", o.source, o.rule or "gradient", f"{o.arriving:.4g}",
             f"{o.sent + o.sunk:.4g}", f"{o.factor:.3f}")
            for o in self.faults[:most]
        ]
        return [header, *lines]

    def _summary(self) -> str:
        sinks = ", ".join(f"{amount:.3g} to {name}" for name, amount in self.sinks.items())
        faults = self.faults
        verdict = (
            f"{len(faults)} of {len(self.operations)} operations create or lose relevance"
            if faults else f"all {len(self.operations)} operations conserve relevance"
        )
        return f"Of relevance 1 at the output, {self.total:.5g} arrives at the input; {sinks} ({verdict})."

    def __str__(self):
        hidden = len(self.faults) - 20
        return "\n".join([
            self._summary(), *([self.table()] if self.faults else []),
            *([f"... and {hidden} more"] if hidden > 0 else []), *(f"Note: {note}" for note in self.notes),
        ])

    __repr__ = __str__

    def plot(self, figsize: tuple[float, float] | None = None):
        """Draw the relevance that is there after each operation, from the output to the input.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.plotting import draw_audit  # matplotlib is only needed to draw

        return draw_audit(self, figsize)


def _format(lines: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


@dataclass
class _Measured:
    """An operation with the sums that its backward pass adds to, in float64."""

    balance: OperationBalance
    sums: Counter = field(default_factory=Counter)


class AuditMode(OperationMode):
    """Measures each operation of a model that runs within its context, when relevance flows back.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._measured: list[_Measured] = []
        self._calls: Counter[str] = Counter()
        self._functional_relus: Counter[tuple[str, str]] = Counter()
        self._running: tuple | None = None

    # Forward

    def on_operation(self, function, args, kwargs):
        """Run a function, and measure it if relevance can pass."""
        if not any(_carries(leaf) for leaf in flatten_tensors((args, kwargs))):
            return function(*args, **kwargs)
        constants = []
        if function in _JOINING:
            args, constants = _watch_constants(args)
        edges = _edges((args, kwargs))
        result = function(*args, **kwargs)
        outputs = result if any(_carries(leaf) for leaf in flatten_tensors(result)) else args[:1]  # x[0] = y gives None
        name, module = self.modules[-1] if self.modules else ("", None)
        operation = operation_name(function)
        if module is not None and next(module.children(), None) is None:
            operation = f"{type(module).__name__} ({operation})"
        source = source_line()
        measured = self._measure(
            OperationBalance(operation, name, source), edges, flatten_tensors(outputs), constants=constants
        )
        if measured is not None and function in _RELU:
            self._functional_relus[source or name, name] += 1
        return result

    def before_rule(self, name, module, rule, args, kwargs):
        """Remember what a module with a rule is given."""
        self._calls[name] += 1
        x = next((leaf for leaf in flatten_tensors((args, kwargs)) if _carries(leaf)), None)
        self._running = name, module, rule, _edges((args, kwargs)), x if x is None else x.detach().clone()

    def after_rule(self, output):
        """Measure a module with a rule."""
        name, module, rule, edges, x = self._running
        balance = OperationBalance(type(module).__name__, name, "", _rule_name(rule))
        sinks = _sinks_of(rule, module, x)
        self._measure(balance, edges, flatten_tensors(output), sinks)

    def _measure(self, balance, edges, outputs, sinks=None, constants=()):
        """Add what arrives at outputs, and what the nodes between send along edges, to an operation."""
        constant_edges = {get_gradient_edge(constant)[:2] for constant in constants}
        edges = edges | constant_edges
        outputs = [output for output in outputs if _carries(output) and get_gradient_edge(output)[:2] not in edges]
        if not outputs:
            return None
        nodes = list(_nodes_between(outputs, edges))
        if not nodes:  # as where an operation writes to a part of another tensor
            return None
        measured = _Measured(balance)
        self._measured.append(measured)

        def arrive(relevance):
            measured.sums["arriving"] += _sum(relevance)
            measured.sums["magnitude"] += _sum(relevance.abs())
            if sinks is not None:
                for name, amount in sinks(relevance).items():
                    measured.sums[name] += amount

        for output in outputs:
            output.register_hook(arrive)
        for node, positions in nodes:
            kinds = [(i, "constant" if edge in constant_edges else "sent") for i, edge in positions]

            def leave(sent, _, kinds=kinds):
                for i, kind in kinds:
                    if sent[i] is not None:
                        measured.sums[kind] += _sum(sent[i])

            node.register_hook(leave)
        return measured

    # Results

    def audit(self, total: float, start: float, tolerance: float) -> Audit:
        """What was measured, after relevance ``start`` was sent back and ``total`` arrived at the input."""
        operations = []
        for balance, sums in ((measured.balance, measured.sums) for measured in self._measured):
            for name in ("arriving", "sent", "to_biases", "to_stabilizers", "magnitude"):
                setattr(balance, name, sums[name] / start)
            missing = balance.arriving - balance.sent
            if abs(missing - sums["constant"] / start) <= tolerance * abs(balance.arriving):
                balance.to_parameters = sums["constant"] / start
            if balance.magnitude > 0:
                operations.append(balance)
        return Audit(total / start, operations, list(self._notes()), tolerance)

    def _notes(self):
        batch_norms = [
            name for name, module in self.model.named_modules()
            if isinstance(module, BatchNorm) and self._calls[name] and not _is_identity(module)
        ]
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


def _carries(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def _edges(values: Any) -> set:
    """Where, in the autograd graph, relevance of tensors goes."""
    return {get_gradient_edge(leaf)[:2] for leaf in flatten_tensors(values) if _carries(leaf)}


def _watch_constants(args: tuple) -> tuple[tuple, list[torch.Tensor]]:
    """Let floating-point constants among tensors that are joined have gradients, to see what falls on them."""
    leaves, constants = flatten_tensors(args), []
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not leaf.requires_grad:
            leaves[i] = leaf.detach().requires_grad_()
            constants.append(leaves[i])
    return unflatten_tensors(args, leaves), constants


def _nodes_between(outputs: list[torch.Tensor], edges: set) -> Iterable[tuple[Any, list[tuple[int, tuple]]]]:
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


def _sinks_of(rule: Hook, module: nn.Module, x: torch.Tensor | None) -> Callable[[torch.Tensor], dict] | None:
    """For a rule of zennit's, ``relevance of the output -> what goes to biases and stabilizers``."""
    rule = rule.rule if isinstance(rule, FastRule) else rule
    if x is None or not isinstance(rule, BasicHook):
        return None

    def sinks(relevance):
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

        def reduced(values):
            """What the rule sends back for ``values`` among the summands of its outputs."""
            sums = [_sum(gradient * value) for gradient, value in zip(gradients, values)]
            return float(rule.reducer([1.] * len(sums), sums))

        found = {"to_biases": reduced(biases)}
        if type(rule) in FORMULAS:
            found["to_stabilizers"] = _sum(relevance) - reduced(outputs)
        return found

    return sinks


def _sum(tensor: torch.Tensor) -> float:
    return float(tensor.detach().sum(dtype=torch.float64))


def _rule_name(rule: Hook) -> str:
    return type(rule.rule if isinstance(rule, FastRule) else rule).__name__


def _is_identity(module: nn.Module) -> bool:
    """Whether a batch norm does nothing, as when it has been merged."""
    if module.running_mean is None:
        return False
    scale = (module.running_var + module.eps).rsqrt() * (1 if module.weight is None else module.weight)
    shift = (0 if module.bias is None else module.bias) - module.running_mean * scale
    close = 2e-3  # zennit's canonizers leave its epsilon, 1e-3 at most in common models
    return bool((scale - 1).abs().max() < close and shift.abs().max() < close)


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(dict.fromkeys(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
