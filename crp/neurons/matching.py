"""Units of two models, checkpoints or layers side by side."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.model.frames import import_pandas
from crp.neurons.between import Standardised, check_same_rows, correlations
from crp.neurons.values import unit_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Match:
    """The best partners of the units of two tables, by absolute correlation.

    Units are numbered through all layers.

    Attributes
    ----------
    partner_of_a, partner_of_b : numpy.ndarray
        [A], [B], the best partner of each unit among those of the other; on ties the lower.
    correlation_of_a, correlation_of_b : numpy.ndarray
        [A], [B], Pearson correlation with it, with sign; 0 for constant units.
    threshold : float
        Below this absolute correlation a unit has no partner.
    names : tuple of str
        What the two are called.
    constant_in_a, constant_in_b : numpy.ndarray
        Units that have the same value in all rows, and so neither a partner nor lack one.
    """

    partner_of_a: np.ndarray = field(repr=False)
    partner_of_b: np.ndarray = field(repr=False)
    correlation_of_a: np.ndarray = field(repr=False)
    correlation_of_b: np.ndarray = field(repr=False)
    threshold: float
    names: tuple[str, str]
    constant_in_a: np.ndarray = field(repr=False)
    constant_in_b: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        (a, b), mutual = self.names, len(self.mutual)
        return (
            f"Match({a}: {len(self.partner_of_a)} units, {len(self.alone_in_a)} without partner, "
            f"{len(self.constant_in_a)} constant; {b}: {len(self.partner_of_b)} units, {len(self.alone_in_b)} without, "
            f"{len(self.constant_in_b)} constant; {mutual} mutual pairs)"
        )

    @property
    def mutual(self) -> np.ndarray:
        """[M, 2], pairs that are each other's best partner, the most correlated first."""
        units = np.arange(len(self.partner_of_a))
        good = np.abs(self.correlation_of_a) >= self.threshold
        pairs = units[(self.partner_of_b[self.partner_of_a] == units) & good]
        order = np.argsort(-np.abs(self.correlation_of_a[pairs]), kind="stable")
        return np.stack([pairs[order], self.partner_of_a[pairs[order]]], 1)

    @property
    def alone_in_a(self) -> np.ndarray:
        """Units of the first that vary, without a partner in the second."""
        return np.setdiff1d(np.flatnonzero(np.abs(self.correlation_of_a) < self.threshold), self.constant_in_a)

    @property
    def alone_in_b(self) -> np.ndarray:
        """Units of the second that vary, without a partner in the first."""
        return np.setdiff1d(np.flatnonzero(np.abs(self.correlation_of_b) < self.threshold), self.constant_in_b)

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each unit of the first: its partner, their correlation, whether they are mutual."""
        units = np.arange(len(self.partner_of_a))
        return import_pandas().DataFrame({
            "unit": units, "partner": self.partner_of_a, "correlation": self.correlation_of_a,
            "mutual": np.isin(units, self.mutual[:, 0]),
        })

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw how many of the units that vary have a partner of at least each correlation.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.ranking_plots import draw_match

        vary = (np.delete(correlation, constant) for correlation, constant in (
            (self.correlation_of_a, self.constant_in_a), (self.correlation_of_b, self.constant_in_b)
        ))
        return draw_match(
            [np.abs(correlation) for correlation in vary], list(self.names), self.threshold,
            f"{len(self.mutual)} mutual pairs", figsize,
        )


def match(
    a: Any, b: Any, *, layers: Any = None, quantity: str = "activation", threshold: float = .5,
    names: tuple[str, str] = ("a", "b"),
) -> Match:
    """Find for each unit of two models, checkpoints or layers the one of the other that is most like it.

    Parameters
    ----------
    a, b : array-like, dict or ReferenceStore
        [rows, units] each, of the same rows; a dict layer -> such an array, or a store.
    layers : str, list of str or pair of these, optional
        Of stores and dicts: the same for both, or one for each as a tuple ``(of a, of b)``.
    quantity : {"activation", "relevance"}
        Of stores.
    threshold : float, default 0.5
        The absolute correlation from which on a unit counts as a partner.
    names : (str, str), default ("a", "b")
        What the two are called.

    Returns
    -------
    Match

    Raises
    ------
    ValueError
        If they are of different rows; stores are compared by their samples.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a correlation from 0 to 1, not {threshold}")
    of_both = layers if isinstance(layers, tuple) and len(layers) == 2 else (layers, layers)
    tables = [unit_table(values, of, quantity) for values, of in zip((a, b), of_both)]
    check_same_rows(tables, list(names))
    first, second = (Standardised.of(table) for table in tables)
    partner_a, best_a = np.zeros(tables[0].units, int), np.zeros(tables[0].units)
    partner_b, best_b = np.zeros(tables[1].units, int), np.zeros(tables[1].units)
    for columns, found in correlations(first, second):
        absolute = np.abs(found)
        partner_a[columns] = absolute.argmax(1)
        best_a[columns] = np.take_along_axis(found, partner_a[columns][:, None], 1)[:, 0]
        row = absolute.argmax(0)
        best = np.take_along_axis(found, row[None], 0)[0]
        better = np.abs(best) > np.abs(best_b)
        partner_b[better], best_b[better] = row[better] + columns.start, best[better]
    constant = (np.flatnonzero(of.scale == 0) for of in (first, second))
    return Match(partner_a, partner_b, best_a, best_b, threshold, names, *constant)
