"""Range, mean, quartiles and whiskers of units, and the units that are typical of some rows."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np


class UnitStatistics(NamedTuple):
    """What a box plot of each unit shows; every field is [D].

    Attributes
    ----------
    minimum, maximum, mean : numpy.ndarray
    q1, median, q3 : numpy.ndarray
        Quartiles.
    lower, upper : numpy.ndarray
        Whiskers: the most extreme values within 1.5 interquartile ranges of the quartiles.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    q1: np.ndarray
    median: np.ndarray
    q3: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def unit_statistics(values: np.ndarray) -> UnitStatistics:
    """Statistics of each column of values [N, D]."""
    q1, median, q3 = np.quantile(values, [.25, .5, .75], axis=0)
    reach = 1.5 * (q3 - q1)
    inside = (values >= q1 - reach) & (values <= q3 + reach)
    lower, upper = np.where(inside, values, np.inf).min(0), np.where(inside, values, -np.inf).max(0)
    return UnitStatistics(values.min(0), values.max(0), values.mean(0), q1, median, q3, lower, upper)


def typical_units(own: UnitStatistics, everything: UnitStatistics) -> np.ndarray:
    """Units by the distance of their mean in a pattern from that of all rows, in interquartile ranges, descending."""
    spread = everything.q3 - everything.q1
    spread = np.where(spread > 0, spread, np.maximum(everything.maximum - everything.minimum, 1e-30))
    return np.argsort(-np.abs(own.mean - everything.mean) / spread, kind="stable")
