"""Numbers with bootstrap intervals."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

_RESAMPLINGS = 1000


class Estimate(NamedTuple):
    """A mean over samples.

    Attributes
    ----------
    value : float
    lower, upper : float
        Bootstrap interval of 95 %.
    """

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.lower:.2f}, {self.upper:.2f}]"

    @classmethod
    def unknown(cls) -> Estimate:
        """Of something that could not be measured."""
        return cls(float("nan"), float("nan"), float("nan"))


def mean_of_rows(values: np.ndarray, random_state: int | None) -> Estimate:
    """The mean of values [rows] that are not NaN, with its interval over the rows."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Estimate.unknown()
    if len(values) == 1:
        return Estimate(float(values[0]), float("nan"), float("nan"))
    random = np.random.default_rng(random_state)
    weights = random.multinomial(len(values), np.full(len(values), 1 / len(values)), _RESAMPLINGS) / len(values)
    lower, upper = np.quantile(weights @ values, [.025, .975])
    return Estimate(float(values.mean()), float(lower), float(upper))
