"""Linear probes: an elastic-net logistic or linear regression on the units of a table, which is read in blocks.

The objective is the mean loss plus ``l1`` times the absolute weights plus half ``l2`` times their squares, of units in
standard deviations. Positive and negative parts of the weights make it smooth, and scipy's L-BFGS-B minimises it.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from crp.neurons.labels import Labels
from crp.neurons.moments import mean_and_scale
from crp.neurons.values import UnitTable


@dataclass(frozen=True)
class Probe:
    """What was fitted.

    Attributes
    ----------
    weights : numpy.ndarray
        [K, U], of units in standard deviations; one row for numbers, two for two classes.
    bias : numpy.ndarray
        [K]
    mean, scale : numpy.ndarray
        [U], of the units where it was fitted; a scale of 0 for constant ones.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def outputs(self, table: UnitTable, rows: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
        """Scores [rows, K] of classes, or numbers [rows, 1]; of some units only, the others at their means."""
        weights = _divided(self.weights, self.scale)
        if units is not None:
            kept = np.zeros(table.units, bool)
            kept[units] = True
            weights = np.where(kept, weights, 0)
        found = np.empty((len(rows), len(self.bias)))
        for span, block in table.row_blocks():
            inside = slice(*np.searchsorted(rows, (span.start, span.stop)))
            found[inside] = (block[rows[inside] - span.start] - self.mean) @ weights.T + self.bias
        return found


@dataclass
class _Problem:
    """The objective over rows of a table, and its gradient.

    ``targets`` holds classes, or numbers in standard deviations.
    """

    table: UnitTable
    rows: np.ndarray
    targets: np.ndarray
    outputs: int
    is_classes: bool
    l1: float
    l2: float

    def __post_init__(self) -> None:
        self.mean, self.scale = mean_and_scale(self.table, self.rows)

    def _inside(self, span: slice) -> tuple[slice, np.ndarray]:
        """Of the rows that lie in a span of the table: which these are, and where in it they are."""
        inside = slice(*np.searchsorted(self.rows, (span.start, span.stop)))
        return inside, self.rows[inside] - span.start

    def loss(self, weights: np.ndarray, bias: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Mean loss, and its gradients."""
        scaled = _divided(weights, self.scale).astype(np.float32)
        mean, loss = self.mean.astype(np.float32), 0.
        of_weights, of_bias = np.zeros(weights.shape), np.zeros(bias.shape)
        for span, block in self.table.row_blocks():
            inside, places = self._inside(span)
            if not len(places):
                continue
            values = block if len(places) == len(block) else block[places]
            exact = values if values.dtype == np.float32 else values - self.mean  # which float32 could not hold
            values = exact - mean if exact is values else exact.astype(np.float32)
            outputs = (values @ scaled.T).astype(np.float64) + bias
            part, residual = self._residual(outputs, self.targets[inside])
            loss += part
            of_weights += residual.astype(np.float32).T @ values
            of_bias += residual.sum(0)
        count = len(self.rows)
        return loss / count, _divided(of_weights, self.scale) / count, of_bias / count

    def _residual(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of the losses of some rows, and its gradient by the outputs."""
        if not self.is_classes:
            residual = outputs - targets[:, None]
            return float(np.square(residual).sum()) / 2, residual
        rows = np.arange(len(targets))
        residual = np.exp(log_softmax(outputs, 1))
        residual[rows, targets] -= 1
        return float((logsumexp(outputs, 1) - outputs[rows, targets]).sum()), residual

    def objective(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective of positive and negative parts of weights, and of biases."""
        size = self.outputs * self.table.units
        positive, negative = parameters[:size], parameters[size:2 * size]
        weights = (positive - negative).reshape(self.outputs, -1)
        loss, of_weights, of_bias = self.loss(weights, parameters[2 * size:])
        gradient = of_weights.ravel() + self.l2 * weights.ravel()
        value = loss + self.l1 * float(positive.sum() + negative.sum()) + self.l2 / 2 * float((weights ** 2).sum())
        return value, np.concatenate([gradient + self.l1, self.l1 - gradient, of_bias])


def fit_probe(
    table: UnitTable, labels: Labels, chosen: np.ndarray, l1: float, l2: float, tolerance: float = 1e-5
) -> Probe:
    """Fit a probe.

    Parameters
    ----------
    table : UnitTable
    labels : Labels
    chosen : numpy.ndarray
        Which of the labelled rows to fit on, ascending.
    l1, l2 : float
    tolerance : float
        Relative decrease of the objective at which to end.
    """
    values, middle, unit = labels.values[chosen], 0., 1.
    if not labels.classes:
        middle, unit = float(values.mean()), float(values.std())
        values = (values - middle) / unit
    outputs = len(labels.classes) or 1
    problem = _Problem(table, labels.rows[chosen], values, outputs, bool(labels.classes), l1, l2)
    size = outputs * table.units
    bounds: Any = [(0, None)] * (2 * size) + [(None, None)] * outputs
    found = minimize(
        problem.objective, np.zeros(2 * size + outputs), jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 500, "maxfun": 1000, "ftol": tolerance * 1e-2, "gtol": 1e-7, "maxcor": 10},
    )
    weights = (found.x[:size] - found.x[size:2 * size]).reshape(outputs, -1)
    return Probe(weights * unit, found.x[2 * size:] * unit + middle, problem.mean, problem.scale)


def share_order(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units by the share of the weight mass at which they come in, for all outputs and for each.

    Units of an output come in by descending absolute weight; a set that holds a share of the mass is the smallest that
    does. Over all outputs a unit comes in with the first set that has it (N. Durrani et al., 2020).

    Parameters
    ----------
    weights : numpy.ndarray
        [K, U]

    Returns
    -------
    scores : numpy.ndarray
        [U], one less the share that is held already when a unit comes in; 0 for units without weight.
    of_each : numpy.ndarray
        [K, U], the units' shares of the mass.
    """
    mass = np.abs(weights)
    total = mass.sum(1, keepdims=True)
    shares = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    order = np.argsort(-shares, axis=1, kind="stable")
    ordered = np.take_along_axis(shares, order, 1)
    before = np.zeros_like(ordered)
    before[:, 1:] = ordered.cumsum(1)[:, :-1]
    held = np.empty_like(before)
    np.put_along_axis(held, order, before, 1)
    return np.where(shares > 0, np.maximum(1 - held, 0), 0).max(0), shares


def order_of_shares(scores: np.ndarray, of_each: np.ndarray) -> np.ndarray:
    """Units by descending score; of the same score, by the largest share."""
    return np.lexsort((np.arange(len(scores)), -of_each.max(0), -scores))


def _divided(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """By standard deviations; 0 where these are."""
    return np.divide(values, scale, out=np.zeros(values.shape), where=scale > 0)
