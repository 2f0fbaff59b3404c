"""An audit of relevance: where it is created or lost on its way through a model."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SINKS = ("biases", "stabilizers", "parameters", "empty", "softmax")
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
    magnitude : float
        Absolute relevance that arrives, summed over the elements.
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
        if abs(self.total) > 1e-6 or not sinks:
            return ""
        amount, name, most = max(sinks, key=lambda sink: sink[0])
        place = " ".join(filter(None, (most.operation, most.module and repr(most.module), most.source)))
        sink = _NAMES.get(name, name)
        return f"almost no relevance arrives at the input: of 1, {amount:.3g} goes to {sink} in {place}"

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
        return f"Of relevance 1 at the output, {self.total:.5g} arrives at the input; {sinks} ({verdict})."

    def __str__(self) -> str:
        hidden = len(self.faults) - 20
        return "\n".join([
            self._summary(), *([self.table()] if self.faults else []),
            *([f"... and {hidden} more"] if hidden > 0 else []),
            *(f"Note: {note}" for note in filter(None, (self.vanishing, *self.notes))),
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
