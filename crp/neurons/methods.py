"""The methods by which units are ranked: each takes a table and labels, and gives scores.

The keywords of a method are its options.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from crp.neurons import columns as of_columns
from crp.neurons import moments as of_moments
from crp.neurons.between import (
    Standardised,
    best_partners,
    check_same_rows,
    common_directions,
    explained,
    resampled_correlations,
)
from crp.neurons.gaussian import select_forward
from crp.neurons.held_out import HeldOut
from crp.neurons.labels import Labels
from crp.neurons.moments import Moments, interval, moments, resamplings
from crp.neurons.probes import fit_probe, order_of_shares, share_order
from crp.neurons.splits import groups_of, judge, split
from crp.neurons.values import UnitTable

RandomState = int | None
_MOST_GAUSSIAN_ROWS = 4000


@dataclass(frozen=True)
class Found:
    """What a method gives: scores of the units, of them for each class, and more; ``order`` if scores do not give it.

    With ``keeps_constant``, the scores of units with one value only are as the method gives them, not zero.
    """

    scores: np.ndarray
    of_each: np.ndarray | None = None
    interval: np.ndarray | None = None
    held_out: HeldOut | None = None
    constant: np.ndarray | None = None
    details: dict[str, np.ndarray] = field(default_factory=dict)
    order: np.ndarray | None = None
    keeps_constant: bool = False


class Method(NamedTuple):
    """How to rank, and what for: no labels, classes, or any labels."""

    score: Callable[..., Found]
    labels: str
    several: bool = False

    @property
    def options(self) -> list[str]:
        """Names of the options."""
        return [p.name for p in inspect.signature(self.score).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def takes(self, option: str) -> bool:
        """Whether the method has an option."""
        return option in self.options

    def check(self, name: str, options: dict[str, Any]) -> None:
        """Raise a TypeError for an option that the method does not have."""
        known = self.options
        if options.get("n_bootstrap", 0) < 0:
            raise ValueError(f"n_bootstrap is not negative, as {options['n_bootstrap']} is")
        for option in options:
            if option not in known:
                raise TypeError(f"a ranking by {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}")


def _resamplings(table: UnitTable, labels: Labels, count: int, random_state: RandomState) -> np.ndarray:
    samples = None if table.samples is None else table.samples[labels.rows]
    return resamplings(labels, samples, count, random_state)


def _from_moments(
    table: UnitTable, labels: Labels, random_state: RandomState, n_bootstrap: int,
    score: Callable[[Moments], np.ndarray], score_of_each: Callable[[Moments], np.ndarray] | None = None,
    keeps_constant: bool = False,
) -> Found:
    drawn = _resamplings(table, labels, n_bootstrap, random_state)
    scores, bounds = np.empty(table.units), np.empty((table.units, 2))
    of_each = None if score_of_each is None else np.empty((len(labels.classes), table.units))
    constant = np.zeros(table.units, bool)
    for columns, found in moments(table, labels, drawn):
        constant[columns] = found.lowest == found.highest
        replicates = score(found)
        scores[columns] = replicates[0]
        if n_bootstrap:
            bounds[columns] = interval(replicates[1:], replicates[0])
        if of_each is not None and score_of_each is not None:
            of_each[:, columns] = score_of_each(found)
    return Found(
        scores, of_each, bounds if n_bootstrap else None, constant=np.flatnonzero(constant),
        keeps_constant=keeps_constant,
    )


def constant_units(table: UnitTable, rows: np.ndarray) -> np.ndarray:
    """Numbers of the units that have the same value in some rows."""
    return np.flatnonzero(of_moments.mean_and_scale(table, rows)[1] == 0)


def _variance(table: UnitTable, labels: Labels, random_state: RandomState, *, n_bootstrap: int = 100) -> Found:
    return _from_moments(table, _without_classes(labels), random_state, n_bootstrap, of_moments.variance)


def _without_classes(labels: Labels) -> Labels:
    return replace(labels, classes=[], values=np.zeros(len(labels.rows)))


def _anova(table: UnitTable, labels: Labels, random_state: RandomState, *, n_bootstrap: int = 100) -> Found:
    if not labels.classes:
        return _from_moments(table, labels, random_state, n_bootstrap, of_moments.f_statistic_of_numbers)
    return _from_moments(
        table, labels, random_state, n_bootstrap, of_moments.f_statistic, of_moments.f_statistic_of_each
    )


def _probeless(table: UnitTable, labels: Labels, random_state: RandomState, *, n_bootstrap: int = 100) -> Found:
    return _from_moments(
        table, labels, random_state, n_bootstrap, of_moments.mean_differences, of_moments.mean_differences_of_each
    )


def _relevance(
    table: UnitTable, labels: Labels, random_state: RandomState, *, targets: Any = None, n_bootstrap: int = 100
) -> Found:
    return _mean(table.shares(), labels, random_state, targets, n_bootstrap)


def _activation(
    table: UnitTable, labels: Labels, random_state: RandomState, *, targets: Any = None, n_bootstrap: int = 100
) -> Found:
    return _mean(table.absolute(), labels, random_state, targets, n_bootstrap)


def _mean(
    table: UnitTable, labels: Labels, random_state: RandomState, targets: Any, n_bootstrap: int
) -> Found:
    of_each = of_moments.mean_of_each if labels.classes else None
    if targets is None:
        return _from_moments(table, labels, random_state, n_bootstrap, of_moments.mean, of_each, True)
    places = []
    for target in np.atleast_1d(np.asarray(targets)).tolist():
        if target not in labels.classes:
            raise ValueError(f"there is no class {target!r} in targets; there are {labels.classes}")
        places.append(labels.classes.index(target))

    def mean_of_targets(found: Moments) -> np.ndarray:
        return found.sums[:, places].sum(1) / np.maximum(found.counts[:, places].sum(1), 1) + found.shift

    return _from_moments(table, labels, random_state, n_bootstrap, mean_of_targets, of_each, True)


def _mean_distance(table: UnitTable, labels: Labels, random_state: RandomState, *, n_bootstrap: int = 100) -> Found:
    labels = _without_classes(labels)
    drawn = _resamplings(table, labels, n_bootstrap, random_state).astype(np.float64)
    scores, bounds = np.empty(table.units), np.empty((table.units, 2))
    for columns, values in table.column_blocks(labels.rows):
        replicates = of_columns.mean_distance(values, drawn)
        scores[columns] = replicates[0]
        if n_bootstrap:
            bounds[columns] = interval(replicates[1:], replicates[0])
    return Found(scores, interval=bounds if n_bootstrap else None)


def _average_precision(
    table: UnitTable, labels: Labels, random_state: RandomState, *, n_bootstrap: int = 100
) -> Found:
    drawn = _resamplings(table, labels, n_bootstrap, random_state)
    shares = np.bincount(labels.of_class) / len(labels.rows)
    of_each, bounds = np.empty((len(shares), table.units)), np.empty((table.units, 2))
    for columns, values in table.column_blocks(labels.rows):
        ordered = of_columns.SortedColumns(values)
        for number in range(len(shares)):
            of_each[number, columns] = ordered.average_precision(labels.of_class == number, drawn[0])
        if n_bootstrap:
            best = of_columns.above_chance(of_each[:, columns], shares[:, None]).argmax(0)
            is_best = labels.of_class[:, None] == best
            own = of_each[best, np.arange(table.units)[columns]]
            replicates = np.stack([ordered.average_precision(is_best, weights) for weights in drawn[1:]])
            replicates = np.where(np.isnan(replicates), own, replicates)  # of resamplings that lack the class
            bounds[columns] = interval(
                of_columns.above_chance(replicates, shares[best]), of_columns.above_chance(own, shares[best])
            )
    scores = of_columns.above_chance(of_each, shares[:, None]).max(0)
    return Found(scores, of_each, bounds if n_bootstrap else None)


def _mutual_information(
    table: UnitTable, labels: Labels, random_state: RandomState, *, n_neighbors: int = 3, n_bootstrap: int = 0
) -> Found:
    smallest = np.bincount(labels.of_class).min()
    if not 1 <= n_neighbors < smallest:
        raise ValueError(f"n_neighbors is from 1 to {smallest - 1}, less than the smallest class, not {n_neighbors}")
    scores, of_each = np.empty(table.units), np.empty((len(labels.classes), table.units))
    replicates = np.empty((n_bootstrap, table.units))
    random = np.random.default_rng(random_state)
    halves = [_half(labels, random) for _ in range(n_bootstrap)]
    for columns, values in table.column_blocks(labels.rows):
        scores[columns], of_each[:, columns] = of_columns.mutual_information(
            values, labels, n_neighbors, random_state
        )
        for replicate, half in zip(replicates, halves):
            part = replace(labels, rows=labels.rows[half], values=labels.values[half])
            replicate[columns] = of_columns.mutual_information(values[half], part, n_neighbors, random_state)[0]
    bounds = interval(replicates - replicates.mean(0) + scores, scores) if n_bootstrap else None
    return Found(scores, of_each, bounds)


def _half(labels: Labels, random: np.random.Generator) -> np.ndarray:
    """Half of the rows of each class, without repeats, which neighbours do not bear; they spread as the bootstrap."""
    return np.sort(np.concatenate([
        random.permutation(rows)[:max(len(rows) // 2, min(len(rows), 4))] for rows in (
            np.flatnonzero(labels.of_class == number) for number in np.unique(labels.of_class)
        )
    ]))


def _probe(
    table: UnitTable, labels: Labels, random_state: RandomState, *, l1: float = 1e-3, l2: float = 1e-3,
    test_size: float = .25, groups: Any = None,
) -> Found:
    for name, value in (("l1", l1), ("l2", l2)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is a number from 0 on, not {value}")
    belonging = groups_of(table, labels, groups)
    fitted, held = split(labels, belonging, test_size, random_state)
    probe = fit_probe(table, labels, fitted, l1, l2)
    held_out = judge(probe.outputs(table, labels.rows[held]), labels, fitted, held, belonging, random_state)
    scores, of_each = share_order(probe.weights)
    order = order_of_shares(scores, of_each)
    return Found(
        scores, of_each if labels.classes else None, held_out=held_out,
        details={"weights": probe.weights}, order=order,
    )


def _gaussian(
    table: UnitTable, labels: Labels, random_state: RandomState, *, n_select: int = 20, candidates: int = 200,
    test_size: float = .25, groups: Any = None,
) -> Found:
    if n_select < 1 or candidates < 1:
        raise ValueError("n_select and candidates are at least 1")
    belonging = groups_of(table, labels, groups)
    alone = _anova(table, labels, random_state, n_bootstrap=0)
    assert alone.constant is not None
    alone.scores[alone.constant] = 0
    by_anova = np.argsort(-alone.scores, kind="stable")
    chosen = np.sort(by_anova[:min(candidates, table.units - len(alone.constant))])
    rows, held = split(labels, belonging, test_size, random_state)
    random = np.random.default_rng(random_state)
    inner = replace(labels, rows=labels.rows[rows], values=labels.values[rows])
    fitted, chosen_by = split(inner, belonging[rows], .3, random)
    fitted, chosen_by = (_thinned(rows[part], labels.of_class, random) for part in (fitted, chosen_by))
    values = table.subset(chosen).matrices[""][labels.rows].astype(np.float64)
    classes = labels.of_class
    count = min(n_select, len(chosen))
    units, gains, _ = select_forward(
        values[fitted], classes[fitted], values[chosen_by], classes[chosen_by], count
    )
    log_posterior = select_forward(
        values[rows][:, units], classes[rows], values[held][:, units], classes[held], count
    )[2]
    held_out = judge(log_posterior, labels, rows, held, belonging, random_state)
    selected = chosen[units]
    scores = np.zeros(table.units)
    scores[selected] = gains
    return Found(
        scores, held_out=held_out, constant=alone.constant,
        order=np.concatenate([selected, by_anova[~np.isin(by_anova, selected)]]),
        details={"selected": selected},
    )


def _thinned(rows: np.ndarray, of_class: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """No more rows than a Gaussian needs, of each class its share and at least some."""
    share = min(_MOST_GAUSSIAN_ROWS / len(rows), 1)
    kept = []
    for number in np.unique(of_class[rows]):
        own = rows[of_class[rows] == number]
        kept.append(random.permutation(own)[:max(int(np.ceil(share * len(own))), min(len(own), 20))])
    return np.sort(np.concatenate(kept))


def _random(table: UnitTable, labels: Labels, random_state: RandomState) -> Found:
    return Found(np.random.default_rng(random_state).random(table.units))


def _correlation(
    tables: list[UnitTable], labels: Labels, random_state: RandomState, *, reduce: str = "max", n_bootstrap: int = 100
) -> Found:
    _check_reduce(reduce)
    first, *others = (Standardised.of(table) for table in tables)
    drawn = _resamplings(tables[0], labels, n_bootstrap, random_state)
    partners, found = map(np.stack, zip(*(best_partners(first, other) for other in others)))
    place = _reduced(np.abs(found), reduce)
    scores = np.take_along_axis(np.abs(found), place[None], 0)[0]
    bounds = None
    if n_bootstrap:
        replicates = np.stack([
            resampled_correlations(first, other, partner, drawn[1:]) for other, partner in zip(others, partners)
        ])
        bounds = interval(np.take_along_axis(replicates, place[None, None], 0)[0], scores)
    return Found(
        scores, interval=bounds, constant=np.flatnonzero(first.scale == 0),
        details={"partner": partners, "correlation": found},
    )


def _regression(
    tables: list[UnitTable], labels: Labels, random_state: RandomState, *, reduce: str = "max",
    test_size: float = .5, groups: Any = None, n_bootstrap: int = 100,
) -> Found:
    _check_reduce(reduce)
    first, *others = tables
    belonging = groups_of(first, labels, groups)
    fitted, held = split(labels, belonging, test_size, random_state)
    of_held = replace(labels, rows=held, values=np.zeros(len(held)))
    drawn = resamplings(of_held, belonging[held], n_bootstrap, random_state)
    found = np.stack([explained(first, other, fitted, held, drawn) for other in others])
    place = _reduced(found[:, 0], reduce)
    replicates = np.take_along_axis(found, place[None, None], 0)[0]
    bounds = interval(replicates[1:], replicates[0]) if n_bootstrap else None
    return Found(replicates[0], interval=bounds, constant=constant_units(first, np.arange(first.rows)),
                 details={"explained": found[:, 0]})


def _svcca(
    tables: list[UnitTable], labels: Labels, random_state: RandomState, *, variance: float = .99
) -> Found:
    if len(tables) != 2:
        raise ValueError(f"svcca compares two models, not {len(tables)}")
    if not 0 < variance <= 1:
        raise ValueError(f"variance is a share above 0 and at most 1, not {variance}")
    correlations, directions = common_directions(tables[0], tables[1], variance)
    return Found(
        correlations, constant=constant_units(tables[0], np.arange(tables[0].rows)), keeps_constant=True,
        details={"directions": directions},
    )


def _check_reduce(reduce: str) -> None:
    if reduce not in ("max", "min"):
        raise ValueError(f"reduce is 'max' or 'min' over the other models, not {reduce!r}")


def _reduced(scores: np.ndarray, reduce: str) -> np.ndarray:
    """[U], the other model that counts for each unit."""
    return scores.argmax(0) if reduce == "max" else scores.argmin(0)


METHODS: dict[str, Method] = {
    "relevance": Method(_relevance, "none"), "activation": Method(_activation, "none"),
    "variance": Method(_variance, "none"), "mean_distance": Method(_mean_distance, "none"),
    "random": Method(_random, "none"), "anova": Method(_anova, "any"), "probeless": Method(_probeless, "classes"),
    "average_precision": Method(_average_precision, "classes"),
    "mutual_information": Method(_mutual_information, "any"), "probe": Method(_probe, "any"),
    "gaussian": Method(_gaussian, "classes"), "correlation": Method(_correlation, "none", True),
    "regression": Method(_regression, "none", True), "svcca": Method(_svcca, "none", True),
}


def rank_tables(
    tables: list[UnitTable], names: list[str], labels: Labels, method: Method, random_state: RandomState,
    options: dict[str, Any],
) -> Found:
    """Rank the units of the first table."""
    if not method.several:
        return method.score(tables[0], labels, random_state, **options)
    check_same_rows(tables, names)
    return method.score(tables, labels, random_state, **options)
