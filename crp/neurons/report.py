"""How much of what labels say is in units: linear probes on all, few, random and worst, each with its controls."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from crp.model.frames import import_pandas
from crp.neurons.between import Standardised, correlations
from crp.neurons.held_out import HeldOut
from crp.neurons.labels import Labels, read_labels
from crp.neurons.probes import fit_probe, order_of_shares, share_order
from crp.neurons.ranking import Ranking
from crp.neurons.splits import groups_of, judge, split
from crp.neurons.values import UnitTable, unit_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """What probes of the same labels reach on units that they were given.

    Attributes
    ----------
    everything : HeldOut
        With all units.
    control : HeldOut
        With all units, on the control task: random labels.
    counts : list of int
        Numbers of units, for what follows.
    top, bottom : list of HeldOut
        With the first and the last units of the ranking.
    random : list of HeldOut
        With units drawn at random: mean, least and largest score of several draws in the place of the interval.
    fewest : int
        How many of the first units do, for a score at most .01 below that with all, as more of them do too.
    clusters : numpy.ndarray
        [U], number of the group of units that are alike (average linkage of ``1 - |r|``, cut at .5) of each unit;
        constant ones are alone.
    order : numpy.ndarray
        [U], numbers of the units in the order of the ranking.
    rows, left_out : int
    """

    everything: HeldOut
    control: HeldOut
    counts: list[int]
    top: list[HeldOut] = field(repr=False)
    random: list[HeldOut] = field(repr=False)
    bottom: list[HeldOut] = field(repr=False)
    fewest: int
    clusters: np.ndarray = field(repr=False)
    order: np.ndarray = field(repr=False)
    rows: int
    left_out: int

    @property
    def selectivity(self) -> float:
        """The score less that on the control task (J. Hewitt, P. Liang, 2019)."""
        return self.everything.score - self.control.score

    @property
    def redundancy(self) -> float:
        """The share of the units that others are like."""
        return 1 - len(np.unique(self.clusters)) / len(self.clusters)

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each probe: units, count, score, lower, upper, chance. Needs pandas."""
        return import_pandas().DataFrame([
            {"units": name, "count": count, **held._asdict()} for name, count, held in self._lines()
        ])

    def _lines(self) -> list[tuple[str, int, HeldOut]]:
        units = len(self.order)
        lines = [("all", units, self.everything), ("all, random labels", units, self.control)]
        for i, count in enumerate(self.counts):
            lines += [(name, count, found[i]) for name, found in (
                ("top", self.top), ("random", self.random), ("bottom", self.bottom)
            )]
        return lines

    def __str__(self) -> str:
        metric = self.everything.metric
        lines = [f"{'units':<20}{'count':>6}  {metric:<8}  interval         chance"]
        for name, count, held in self._lines():
            span = f"[{held.lower:.3f}, {held.upper:.3f}]"
            of_draws = "  (range of draws)" if name == "random" else ""
            lines.append(f"{name:<20}{count:>6}  {held.score:<8.3f}  {span:<16} {held.chance:.3f}{of_draws}")
        lines.append(f"selectivity {self.selectivity:.3f}; {self.fewest} of {len(self.order)} units do within .01")
        lines.append(f"{len(np.unique(self.clusters))} groups of units that are alike")
        return "\n".join(lines)

    def plot(self, figsize: tuple[float, float] | None = None) -> Figure:
        """Draw the scores by number of units, with those of all units, of random labels and of chance.

        Parameters
        ----------
        figsize : tuple of float, optional
            In inches.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from crp.pictures.ranking_plots import draw_report

        lines = {"top": self.top, "random": self.random, "bottom": self.bottom}
        return draw_report(self.counts, lines, self.everything, self.control, figsize)


def probe_report(
    values: Any, labels: Any = None, ranking: Ranking | None = None, *, layers: str | list[str] | None = None,
    quantity: str = "activation", shares: Sequence[float] = (.01, .05, .1, .15, .2), types: Any = None,
    groups: Any = None, l1: float = 1e-3, l2: float = 1e-3, test_size: float = .25, draws: int = 5,
    random_state: int | None = 0,
) -> ProbeReport:
    """Fit linear probes on all units, and on the first, the last and random ones of a ranking.

    Parameters
    ----------
    values, labels, layers, quantity
        As for :func:`crp.neurons.rank`.
    ranking : Ranking, optional
        Of the same units; one that has seen all rows is judged too well. By default by the weights of the probe on all
        units, fitted on the rows that are not held out.
    shares : sequence of float, default (.01, .05, .1, .15, .2)
        Of the units, to fit probes on; at least one unit each.
    types : array-like, optional
        For each row what the control task gives one random label to, such as the word of a token: the probe can learn
        these by heart. By default each row has a random label of its own.
    groups : array-like, optional
        For each row what is not to be torn apart by the split; by default the samples of a store.
    l1, l2 : float, default 1e-3
        Penalties, as for "probe" in :func:`crp.neurons.rank`.
    test_size : float, default .25
        Share of the samples (or groups) that are held out.
    draws : int, default 5
        How many sets of random units.
    random_state : int or None, default 0

    Returns
    -------
    ProbeReport
        Prints as a table.

    Raises
    ------
    ValueError
        If the ranking is of other units, or labels are missing, of another length, or all the same.

    References
    ----------
    J. Hewitt, P. Liang (2019). Designing and Interpreting Probes with Control Tasks. EMNLP.

    F. Dalvi, H. Sajjad, N. Durrani, Y. Belinkov (2020). Analyzing Redundancy in Pretrained Transformer Models. EMNLP.
    """
    table = unit_table(values, layers, quantity)
    if ranking is not None:
        own = [layer for layer in table.matrices if layer]
        has_other_layers = bool(own and ranking.layers) and own != ranking.layers
        if ranking.sizes != table.sizes or has_other_layers or ranking.method == "svcca":
            raise ValueError(
                f"the ranking is of {ranking.sizes} units of {ranking.layers}, but values hold {table.sizes} of {own}"
            )
    if labels is None and table.targets is None:
        raise ValueError(f"probe_report needs labels, one for each of the {table.rows} rows")
    if not all(0 < share <= 1 for share in shares) or draws < 1:
        raise ValueError(f"shares of the units are above 0 and at most 1, and draws at least 1, not {shares}, {draws}")
    known = read_labels(labels, table)
    belonging = groups_of(table, known, groups)
    fitted, held = split(known, belonging, test_size, random_state)
    random = np.random.default_rng(random_state)

    def judged(units: np.ndarray | None, labelled: Labels = known) -> HeldOut:
        part = table if units is None else table.subset(np.sort(units))
        probe = fit_probe(part, labelled, fitted, l1, l2)
        return judge(probe.outputs(part, labelled.rows[held]), labelled, fitted, held, belonging, random_state)

    whole = fit_probe(table, known, fitted, l1, l2)
    everything = judge(whole.outputs(table, known.rows[held]), known, fitted, held, belonging, random_state)
    order = order_of_shares(*share_order(whole.weights)) if ranking is None else ranking.order
    counts = sorted({max(round(share * table.units), 1) for share in shares})
    top = [judged(order[:count]) for count in counts]
    return ProbeReport(
        everything, judged(None, _control_task(known, types, table, random)), counts, top,
        [_of_draws([judged(random.choice(table.units, count, replace=False)) for _ in range(draws)])
         for count in counts],
        [judged(order[len(order) - count:]) for count in counts],
        _fewest(lambda count: judged(order[:count]).score >= everything.score - .01, table.units),
        redundancy_clusters(table), order, len(known.rows), known.left_out,
    )


def _control_task(labels: Labels, types: Any, table: UnitTable, random: np.random.Generator) -> Labels:
    """Labels of the same frequencies that mean nothing: one for each type."""
    if types is None:
        return replace(labels, values=random.permutation(labels.values))
    found = np.asarray(types)
    if found.shape != (table.rows,):
        raise ValueError(f"types holds one for each of the {table.rows} rows, but has the shape {found.shape}")
    _, place = np.unique(found[labels.rows], return_inverse=True)
    return replace(labels, values=random.choice(labels.values, place.max() + 1)[place])


def _of_draws(found: list[HeldOut]) -> HeldOut:
    scores = [held.score for held in found]
    return found[0]._replace(score=float(np.mean(scores)), lower=min(scores), upper=max(scores))


def _fewest(is_enough: Callable[[int], bool], units: int) -> int:
    """The smallest number of units that is enough, as more are: halved between powers of two."""
    powers = [2 ** power for power in range(units.bit_length()) if 2 ** power < units]
    too_few = next((count for count in reversed(powers) if not is_enough(count)), 0)
    enough = min(2 * too_few or 1, units)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if is_enough(middle) else (enough, middle)
    return enough


def redundancy_clusters(table: UnitTable, cut: float = .5) -> np.ndarray:
    """[U], groups of units that are alike, numbered from 0: average linkage of ``1 - |r|``, cut at a distance."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if table.units == 1:
        return np.zeros(1, int)
    found = Standardised.of(table)
    distance = 1 - np.abs(np.concatenate([part for _, part in correlations(found, found)]).astype(np.float64))
    np.fill_diagonal(distance, 0)
    grouped = fcluster(linkage(squareform((distance + distance.T) / 2, checks=False), "average"), cut, "distance")
    return np.unique(grouped, return_inverse=True)[1]
