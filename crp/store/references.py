"""The strongest samples of a concept, as stores give them."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np


class References(NamedTuple):
    """The strongest samples of a concept, in descending order.

    Attributes
    ----------
    samples : numpy.ndarray
        [k] positions in the dataset.
    values : numpy.ndarray
        [k]
    positions : numpy.ndarray
        [k] flat index of the strongest position in the layer.
    """

    samples: np.ndarray
    values: np.ndarray
    positions: np.ndarray


def check_concept(layer: str, concept: int, count: int) -> None:
    """Raise an IndexError if a layer has no such concept."""
    if isinstance(concept, bool) or not hasattr(concept, "__index__"):
        raise TypeError(f"a concept id is an integer, not {concept!r}")
    if not -count <= concept < count:
        raise IndexError(f"concept id {concept} is out of range: those of layer {layer!r} are 0 to {count - 1}")
