"""An audit of relevance: where it is created or lost on its way through a model."""
from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINKS = ("biases", "stabilizers", "parameters", "empty", "softmax")
EXPLOSION = 1000.
"""More absolute relevance than this at the input, per 1 at the output, is told."""
_NAMES = {"empty": "empty sums"}


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
    sinks : dict
        What its rule gives to no input: to "biases", "stabilizers" and "parameters" (and other constants) that enter as
        data, to outputs to which nothing contributes ("empty", such as an empty positive part), to the bias of
        AttnLRP's Taylor expansion of a "softmax", and, where an operation has no rule of its own, to what its linear
        part leaves of it ("remainder: logaddexp").
    magnitude, sent_magnitude : float
        Absolute relevance that arrives, and that is sent to inputs, summed over the elements.
    parameters : str
        Which parameters enter as data.
    """

    operation: str
    module: str
    source: str
    rule: str = ""
    arriving: float = 0.
    sent: float = 0.
    sinks: dict[str, float] = field(default_factory=dict)
    magnitude: float = 0.
    parameters: str = ""
    sent_magnitude: float = 0.

    @property
    def place(self) -> str:
        """The operation, its module and its line, in words."""
        return " ".join(filter(None, (self.operation, self.module and repr(self.module), self.source)))

    @property
    def sunk(self) -> float:
        """Relevance that goes elsewhere than to the inputs, for a known reason."""
        return sum(self.sinks.values())

    @property
    def imbalance(self) -> float:
        """Relevance that is created (positive) or lost (negative) for no known reason."""
        return self.sent + self.sunk - self.arriving

    @property
    def factor(self) -> float:
        """Relevance that leaves, sinks included, over relevance that arrives; NaN if none arrives."""
        return (self.sent + self.sunk) / self.arriving if self.arriving else float("nan")

    def is_fault(self, tolerance: float) -> bool:
        """Whether relevance is created or lost here, or no longer finite."""
        bound = max(tolerance * abs(self.arriving), 1e-4 * self.magnitude)
        return not abs(self.imbalance) <= bound  # NaN is a fault


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
    absolute : float
        Absolute relevance of the input, summed over its elements: far above the total where large relevance of both
        signs cancels, as the epsilon rule gives it, and heatmaps are noise.
    saturated : str
        In words, where the output is a softmax: relevance stays in it.
    turned : str
        In words, where the output is a sigmoid: below a half, signs of relevance are those of the wrong side.
    """

    total: float
    operations: list[OperationBalance]
    notes: list[str]
    tolerance: float = 0.01
    absolute: float = float("nan")
    saturated: str = ""
    turned: str = ""

    @property
    def faults(self) -> list[OperationBalance]:
        """Operations that create or lose relevance, the largest amounts first; before all, where it becomes NaN.

        NaN that the model itself leaves out again, as ``where`` does, is none.
        """
        def order(operation: OperationBalance) -> tuple[int, float]:
            if not math.isfinite(operation.magnitude):
                return 2, 0.
            return (1, -abs(operation.imbalance)) if math.isfinite(operation.imbalance) else (0, 0.)

        found = (o for o in self.operations if math.isfinite(o.imbalance) or not math.isfinite(self.total))
        return sorted((o for o in found if o.is_fault(self.tolerance)), key=order)

    @property
    def not_finite(self) -> str:
        """Where relevance becomes NaN or infinite, in words, if that of the input is; else empty."""
        if math.isfinite(self.total):
            return ""
        for operation in reversed(self.operations):
            if not math.isfinite(operation.magnitude):
                return f"relevance is NaN or infinite on its way to {operation.place}"
            if not math.isfinite(operation.sent_magnitude):
                return f"relevance becomes NaN or infinite in {operation.place}"
        return "relevance of the input is NaN or infinite"

    @property
    def exploding(self) -> str:
        """Where absolute relevance grows, in words, if there is far more at the input than at the output; else empty.

        NaN counts as :attr:`not_finite` only.
        """
        finite = [operation for operation in self.operations if math.isfinite(operation.sent_magnitude)]
        if not self.absolute > EXPLOSION or not finite:
            return ""
        most = max(finite, key=lambda o: o.sent_magnitude / o.magnitude)
        return (
            f"relevance of both signs cancels: of 1, {self.absolute:.3g} arrives at the input in absolute numbers; it "
            f"grows most in {most.place}, {most.sent_magnitude / most.magnitude:.3g}-fold. Rules that keep signs "
            "apart, as ZPlus in EpsilonPlus, or a larger epsilon prevent that"
        )

    @property
    def sinks(self) -> dict[str, float]:
        """Relevance that went to no input: see :class:`OperationBalance`."""
        found = dict.fromkeys(SINKS, 0.)
        for operation in self.operations:
            for name, amount in operation.sinks.items():
                found[name] = found.get(name, 0.) + amount
        return found

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters and other constants that enter as data (class tokens, position embeddings), and what they get."""
        found: defaultdict[str, float] = defaultdict(float)
        for operation in self.operations:
            if abs(operation.sinks.get("parameters", 0.)) > 1e-12:  # masks get what rounding leaves
                place = " ".join(filter(None, (operation.operation, operation.module, operation.source)))
                found[operation.parameters or f"constant in {place}"] += operation.sinks["parameters"]
        return dict(found)

    @property
    def accounted(self) -> float:
        """Relevance of the input and of the sinks together: 1 where LRP conserves relevance."""
        return self.total + sum(self.sinks.values())

    @property
    def vanishing(self) -> str:
        """Where relevance stays, in words, if almost none arrives at the input; else empty."""
        sinks = [(abs(amount), name, o) for o in self.operations for name, amount in o.sinks.items()]
        if not abs(self.total) <= 1e-6 or not sinks:
            return ""
        amount, name, most = max(sinks, key=lambda sink: sink[0])
        sink = _NAMES.get(name, name)
        return f"almost no relevance arrives at the input: of 1, {amount:.3g} goes to {sink} in {most.place}"

    @property
    def alarms(self) -> list[str]:
        """Why heatmaps tell little, although each operation may conserve relevance."""
        found = (self.not_finite, self.saturated, self.turned, self.exploding, self.vanishing)
        return [alarm for alarm in found if alarm]

    def table(self, most: int = 20) -> str:
        """The largest faults as text.

        Parameters
        ----------
        most : int, default 20
            How many lines.
        """
        return "\n".join(_format(self._lines(most))) if self.faults else ""

    def _lines(self, most: int) -> list[tuple[str, ...]]:
        header = ("operation", "module", "source", "rule", "arrives", "leaves", "factor")
        lines = [
            (o.operation, o.module or "(model)", o.source, o.rule or "gradient", f"{o.arriving:.4g}",
             f"{o.sent + o.sunk:.4g}", f"{o.factor:.3f}")
            for o in self.faults[:most]
        ]
        return [header, *lines]

    def _summary(self) -> str:
        sinks = ", ".join(
            f"{amount:.3g} to {_NAMES.get(name, name)}" for name, amount in self.sinks.items()
            if abs(amount) > 1e-9 or name in SINKS[:2]
        )
        faults = self.faults
        verdict = (
            f"{len(faults)} of {len(self.operations)} operations create or lose relevance"
            if faults else f"all {len(self.operations)} operations conserve relevance"
        )
        absolute = f" ({self.absolute:.3g} in absolute numbers)"
        return f"Of relevance 1 at the output, {self.total:.5g} arrives at the input{absolute}; {sinks} ({verdict})."

    def __str__(self) -> str:
        hidden = len(self.faults) - 20
        return "\n".join([
            self._summary(), *([self.table()] if self.faults else []),
            *([f"... and {hidden} more"] if hidden > 0 else []),
            *(f"Note: {note}" for note in (*self.alarms, *self.notes)),
        ])

    __repr__ = __str__

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the relevance that is there after each operation, from the output to the input.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.audit_plots import draw_audit  # matplotlib is only needed to draw

        return draw_audit(self, figsize)


def _format(lines: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
