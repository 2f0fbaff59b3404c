"""How good what was fitted is on rows that it has not seen."""
from __future__ import annotations

from typing import NamedTuple


class HeldOut(NamedTuple):
    """How good something fitted is on rows that it has not seen.

    Attributes
    ----------
    score : float
    lower, upper : float
        Bootstrap interval of 95 % over the samples that were held out.
    chance : float
        The same score of what knows only how frequent classes are, or the mean of the numbers.
    metric : str
        "accuracy" or "R2".
    """

    score: float
    lower: float
    upper: float
    chance: float
    metric: str

    def __str__(self) -> str:
        return f"{self.metric} {self.score:.3f} [{self.lower:.3f}, {self.upper:.3f}], chance {self.chance:.3f}"
