"""What the commands answer that rank units and take them away."""
from __future__ import annotations

from crp.cli.answers import Answer, File, Number, Part


class RankedUnit(Part):
    """A unit, and its score."""

    layer: str
    """The layer."""
    unit: int
    """Its id there: that of the concept."""
    score: Number
    """How much it matters; what that means depends on `by`."""
    lower: Number
    """Lower bound of the interval of 95 %, by resampling samples; null where there is none."""
    upper: Number
    """Upper bound."""


class HeldOutScore(Part):
    """How good that which was fitted is on samples that it has not seen."""

    score: Number
    """The score."""
    lower: Number
    """Lower bound of its interval of 95 %."""
    upper: Number
    """Upper bound."""
    chance: Number
    """What is reached without looking at the units."""
    metric: str
    """Its name."""


class RankingAnswer(Answer):
    """Units in order of how much they matter."""

    store: File
    """Folder of the store, in which the ranking is kept."""
    by: str
    """What they are ranked by."""
    layers: list[str]
    """The layers that were ranked together."""
    quantity: str
    """Which values: relevance or activation."""
    rows: int
    """How many rows were looked at."""
    left_out: int
    """How many rows have no label."""
    target: str | None
    """The class, if one was asked for."""
    classes: list[str]
    """The classes for which there are rankings of their own."""
    of: int
    """How many units were ranked."""
    units: list[RankedUnit]
    """The first units."""
    constant: list[str]
    """Units that have the same value in all rows, as `layer unit`."""
    held_out: HeldOutScore | None
    """For rankings by what was fitted: how good that is."""
    picture: File | None
    """The picture, if one was asked for."""

    def in_words(self) -> list[str]:
        """A line per unit."""
        of = "" if self.target is None else f" for class {self.target}"
        lines = [
            f"{len(self.units)} of {self.of} units of {', '.join(self.layers)}, by {self.by}{of}, in {self.rows} rows"
            + (f" ({self.left_out} without label)" if self.left_out else ""),
            *(f"{u.layer} {u.unit:4d}  {_number(u.score)}" + (
                f"  [{_number(u.lower)}, {_number(u.upper)}]" if u.lower is not None else ""
            ) for u in self.units),
        ]
        if self.held_out is not None:
            found = self.held_out
            lines.append(f"{found.metric} on samples held out: {_number(found.score)} [{_number(found.lower)}, "
                         f"{_number(found.upper)}]; by chance {_number(found.chance)}")
        if self.constant:
            lines.append(f"constant: {', '.join(self.constant)}")
        return lines + ([] if self.picture is None else [str(self.picture)])


class RankingArea(Part):
    """What becomes of the model without the units of a ranking."""

    ranking: str
    """What units were ranked by."""
    set_to: str
    """What they were set to: zero, mean or resample."""
    most: Number
    """Area under the curve with the most important units first."""
    least: Number
    """Area under the curve with the least important units first."""
    difference: Number
    """The second less the first: the larger, the better the ranking."""
    lower: Number
    """Lower bound of the interval of 95 % of the difference, by resampling samples."""
    upper: Number
    """Upper bound."""
    random: Number
    """Mean area under curves in random order."""
    cpr: Number
    """Circuit performance ratio: faithfulness of the most important units, by the share that is kept."""
    cmd: Number
    """Circuit-model distance: the same for its distance from 1."""


class AblationAnswer(Answer):
    """What is left of a model as units are taken away."""

    store: File
    """Folder of the store that holds the rankings."""
    layers: list[str]
    """The layers whose units were taken away."""
    metric: str
    """What was measured."""
    samples: int
    """On how many samples."""
    whole: Number
    """The metric of the whole model."""
    areas: list[RankingArea]
    """Of each ranking and each way to take units away."""
    picture: File
    """The curves."""

    def in_words(self) -> list[str]:
        """A line per area."""
        return [
            f"{self.metric} of {self.samples} samples: {_number(self.whole)}; without units of "
            f"{', '.join(self.layers)}:",
            *(f"{a.ranking}, {a.set_to}: area {_number(a.least)} with the least first, {_number(a.most)} with the most "
              f"first; difference {_number(a.difference)} [{_number(a.lower)}, {_number(a.upper)}]; at random "
              f"{_number(a.random)}" for a in self.areas),
            str(self.picture),
        ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
