"""How far it is true what is said of a network; where it is not, nothing is scored."""
from __future__ import annotations

from typing import NamedTuple


class TruthError(ValueError):
    """What is said to be known of a network or data is not true enough to score anything by it."""


class Guarantee(NamedTuple):
    """One thing that was measured.

    Attributes
    ----------
    name : str
        What.
    value : float
        Measured on data that took no part in training.
    least : float
        What it has to be at least.
    """

    name: str
    value: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether it is so."""
        return self.value >= self.least  # NaN is not

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3f} ({'at least' if self.holds else 'not'} {self.least:g})"


class Guaranteed:
    """Something of which the truth is known, as far as its guarantees say."""

    guarantees: tuple[Guarantee, ...]

    @property
    def holds(self) -> bool:
        """Whether all guarantees hold."""
        return all(guarantee.holds for guarantee in self.guarantees)

    def check(self) -> None:
        """Raise a TruthError that names what does not hold, if anything."""
        broken = [str(guarantee) for guarantee in self.guarantees if not guarantee.holds]
        if broken:
            raise TruthError(f"{type(self).__name__} is not what it should be, and scores nothing: {'; '.join(broken)}")
