"""Numbers of samples."""
from __future__ import annotations

import numpy as np


def spread_evenly(length: int, most: int) -> np.ndarray:
    """Numbers of at most so many of ``length`` samples, ascending, evenly from the first to the last."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).round().astype(int))
