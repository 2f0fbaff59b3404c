"""Activations that are sparse sums of known directions."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crp.truth.guarantees import Guarantee, Guaranteed
from crp.truth.scores import recovery


@dataclass(frozen=True, eq=False)
class SparseFeatures(Guaranteed):
    """Values of a layer, and the features that they are made of.

    Attributes
    ----------
    values : numpy.ndarray
        [N, D], ``codes @ directions`` and noise.
    directions : numpy.ndarray
        [K, D], of length 1.
    codes : numpy.ndarray
        [N, K], how strong each feature is in each sample; mostly zero, never negative.
    guarantees : tuple of Guarantee
        The share of the variance of the values that the features explain; one minus the largest cosine between two
        directions: how well they can be told apart.
    """

    values: np.ndarray = field(repr=False)
    directions: np.ndarray = field(repr=False)
    codes: np.ndarray = field(repr=False)
    guarantees: tuple[Guarantee, ...]

    def recovery(self, found: Any) -> float:
        """How near directions [M, D] come to those that are planted: see :func:`crp.truth.recovery`.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        """
        self.check()
        return recovery(found, self.directions)


def sparse_features(
    n: int = 3000, features: int = 24, dimensions: int = 64, *, active: float = 3., noise: float = .02,
    positive: bool = True, random_state: int = 0,
) -> SparseFeatures:
    """Make values of which it is known which directions mean something.

    Parameters
    ----------
    n : int
        Samples.
    features : int
        Directions; more than ``dimensions`` overlap.
    dimensions : int
        Units of the layer.
    active : float
        How many features a sample has on average; their strengths are from 0.5 to 1.5.
    noise : float
        Standard deviation of what is added to each unit.
    positive : bool, default True
        Directions and values are not negative, as after a ReLU; else directions point anywhere.
    random_state : int, default 0

    Returns
    -------
    SparseFeatures

    Raises
    ------
    ValueError
        If there are fewer features than are active, or none.
    """
    if not 0 < active <= features or min(n, dimensions) < 2 or noise < 0:
        raise ValueError("active is above 0 and at most the number of features, noise is not negative")
    random = np.random.default_rng(random_state)
    directions = random.normal(size=(features, dimensions))
    if positive:
        directions = np.abs(directions) * (random.random((features, dimensions)) < .2)
        directions[np.arange(features), np.arange(features) % dimensions] += 1  # none is empty
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = random.uniform(.5, 1.5, (n, features)) * (random.random((n, features)) < active / features)
    clean = codes @ directions
    values = clean + noise * random.normal(size=clean.shape)
    values = values.clip(0) if positive else values
    explained = 1 - ((values - clean) ** 2).sum() / ((values - values.mean(0)) ** 2).sum()
    overlap = np.abs(directions @ directions.T - np.eye(features)).max() if features > 1 else 0.
    guarantees = (
        Guarantee("variance explained", float(explained), .9), Guarantee("directions apart", float(1 - overlap), .05),
    )
    return SparseFeatures(values, directions, codes, guarantees)
