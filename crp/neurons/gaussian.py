"""Gaussian probe: units chosen one by one, each for what it adds to those that are there."""
from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def select_forward(
    values: np.ndarray, classes: np.ndarray, held: np.ndarray, held_classes: np.ndarray, count: int
) -> tuple[list[int], list[float], np.ndarray]:
    """Choose units greedily by the probability that they give the classes of rows held out.

    Each class is a Gaussian. Its covariance is the mean of the posterior under an inverse-Wishart prior with as many
    degrees of freedom as there are units, plus two, whose own mean is diagonal: the variances within classes
    (L. Torroba Hennigen et al., 2020).

    Parameters
    ----------
    values, held : numpy.ndarray
        [n, U] to fit on, [m, U] to choose by.
    classes, held_classes : numpy.ndarray
        [n], [m] integers from 0 to K - 1.
    count : int
        How many units to choose.

    Returns
    -------
    units : list of int
        In the order in which they were chosen.
    gains : list of float
        What each adds to the mean log probability of the right class, in bits.
    log_posterior : numpy.ndarray
        [m, K], of the classes, by the chosen units.
    """
    mean, scale = values.mean(0), values.std(0)
    scale = np.where(scale > 0, scale, 1)
    values, held = (values - mean) / scale, (held - mean) / scale
    fits = [_ClassFit(values, classes == number, held, _within(values, classes)) for number in np.unique(classes)]
    prior = np.log(np.bincount(classes) / len(classes))
    joint = np.broadcast_to(prior, (len(held), len(fits))).copy()
    rows = np.arange(len(held))
    bits = _bits(joint, rows, held_classes)
    units: list[int] = []
    gains: list[float] = []
    for _ in range(count):
        candidates = np.stack([fit.log_density_with_each() for fit in fits], 2) + joint[:, None]  # [m, U, K]
        right = np.take_along_axis(candidates, held_classes[:, None, None], 2)[..., 0]
        of_each = (right - logsumexp(candidates, 2)).mean(0) / np.log(2)
        of_each[units] = -np.inf
        best = int(of_each.argmax())
        joint = candidates[:, best]
        for fit in fits:
            fit.add(best)
        units.append(best)
        gains.append(float(of_each[best] - bits))
        bits = float(of_each[best])
    return units, gains, joint - logsumexp(joint, 1, keepdims=True)


def _bits(joint: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> float:
    return float((joint[rows, classes] - logsumexp(joint, 1)).mean() / np.log(2))


def _within(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """[U], variances within classes."""
    total = np.zeros(values.shape[1])
    for number in np.unique(classes):
        part = values[classes == number]
        total += np.square(part - part.mean(0)).sum(0)
    return np.maximum(total / len(values), 1e-6)


class _ClassFit:
    """The Gaussian of one class, and what the chosen units leave unknown of the others."""

    def __init__(self, values: np.ndarray, members: np.ndarray, held: np.ndarray, prior: np.ndarray):
        own = values[members]
        centre = own.mean(0)
        scatter = (own - centre).T @ (own - centre)
        self._covariance = (scatter + np.diag(prior)) / (len(own) + 1)
        self._residual = held - centre
        self._variance = self._covariance.diagonal().copy()
        self._factors: list[np.ndarray] = []

    def log_density_with_each(self) -> np.ndarray:
        """[m, U], log densities of each unit, given those that were chosen."""
        variance = np.maximum(self._variance, 1e-12)
        return -(self._residual ** 2 / variance + np.log(2 * np.pi * variance)) / 2

    def add(self, unit: int) -> None:
        """Choose a unit: a step of the Cholesky decomposition."""
        column = self._covariance[:, unit] - sum((factor[unit] * factor for factor in self._factors), np.zeros(1))
        variance = max(self._variance[unit], 1e-12)
        self._residual = self._residual - np.outer(self._residual[:, unit] / variance, column)
        self._factors.append(column / np.sqrt(variance))
        self._variance = self._variance - column ** 2 / variance
