"""Are concepts clear? What a store says of each by itself, without looking at any sample."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crp.analysis.class_shares import class_shares
from crp.model.numbers import spread_evenly
from crp.store.reader import ReferenceStore

DUPLICATE = .95
_ROWS_TO_COMPARE = 8192
_COLUMNS = 512


@dataclass(frozen=True, eq=False)
class Clearness:
    """What each concept of a layer is like; each field is [concepts].

    Attributes
    ----------
    purity : numpy.ndarray
        The portion of its relevance that the class has which it serves most; classes count alike. NaN for concepts that
        are never relevant, and where there are no classes.
    serves : numpy.ndarray
        That class; -1 where there is none.
    entropy : numpy.ndarray
        Of these portions, from 0 (one class) to 1 (all alike).
    sparsity : numpy.ndarray
        Of its activation over the samples, from 0 (always the same) to 1 (a single sample), after Treves and Rolls.
    silent : numpy.ndarray
        Share of the samples at which it is not active at all.
    peak : numpy.ndarray
        Largest absolute activation, in units of the mean one.
    nearest : numpy.ndarray
        The other concept of the layer whose activation is correlated most with its own, whatever the sign; -1 where
        there is none.
    similarity : numpy.ndarray
        That correlation.
    dead : numpy.ndarray
        bool, whether it is never active or never relevant.
    """

    purity: np.ndarray
    serves: np.ndarray
    entropy: np.ndarray
    sparsity: np.ndarray
    silent: np.ndarray
    peak: np.ndarray
    nearest: np.ndarray
    similarity: np.ndarray
    dead: np.ndarray

    @property
    def duplicate(self) -> np.ndarray:
        """[concepts] bool, whether another one does the same."""
        return np.abs(self.similarity) >= DUPLICATE


def clearness(store: ReferenceStore, layer: str) -> Clearness:
    """What a store says of the concepts of a layer.

    Parameters
    ----------
    store : ReferenceStore
    layer : str

    References
    ----------
    E. T. Rolls, M. J. Tovee (1995). Sparseness of the neuronal representation of stimuli in the primate temporal visual
    cortex. Journal of Neurophysiology 73, 713-726.
    """
    matrix = store.values(layer, "activation", normalised=False)
    rows, count = matrix.shape
    sums, squares, zeros, peaks = (np.zeros(count) for _ in range(4))
    for block in matrix.blocks():
        amounts = np.abs(block.astype(np.float64))
        sums, squares, zeros = sums + amounts.sum(0), squares + (amounts ** 2).sum(0), zeros + (amounts == 0).sum(0)
        peaks = np.maximum(peaks, amounts.max(0))
    mean = sums / rows
    evenness = np.divide(mean ** 2, squares / rows, out=np.ones(count), where=squares > 0)
    sparsity = (1 - evenness) / (1 - 1 / rows) if rows > 1 else np.zeros(count)
    shares = class_shares(store, layer)
    has_classes = len(shares.classes) > 1 and shares.classes.min() >= 0
    portions = shares.portions
    never = np.isnan(portions).all(0)
    nothing = np.full(count, np.nan)
    served = np.where(never, -1, shares.classes[np.argmax(np.nan_to_num(portions), axis=0)])
    nearest, similarity = _nearest(np.asarray(matrix[spread_evenly(rows, _ROWS_TO_COMPARE)], np.float32))
    return Clearness(
        portions.max(0) if has_classes else nothing, served if has_classes else np.full(count, -1),
        1 - shares.clarity if has_classes else nothing, sparsity, zeros / rows,
        np.divide(peaks, mean, out=nothing.copy(), where=mean > 0), nearest, similarity, never | (peaks == 0),
    )


def _nearest(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each column of values [rows, C] the other one that is correlated most with it, and the correlation."""
    centred = values - values.mean(0, dtype=np.float64).astype(np.float32)
    lengths = np.linalg.norm(centred, axis=0)
    is_constant = lengths <= 1e-6 * np.abs(values).max(0, initial=0) * np.sqrt(len(values))
    units = np.divide(centred, lengths, out=np.zeros_like(centred), where=~is_constant)
    count = values.shape[1]
    nearest, similarity = np.full(count, -1), np.full(count, np.nan)
    for first in range(0, count, _COLUMNS):
        part = np.arange(first, min(first + _COLUMNS, count))
        found = units[:, part].T @ units
        found[np.arange(len(part)), part] = 0
        best = np.abs(found).argmax(1)
        value = found[np.arange(len(part)), best].clip(-1, 1)
        has_one = ~is_constant[part] & (value != 0)
        nearest[part], similarity[part] = np.where(has_one, best, -1), np.where(has_one, value, np.nan)
    return nearest, similarity
