"""What is fitted is judged by rows that it has not seen: whole samples or groups of them, never parts."""
from __future__ import annotations

from typing import Any

import numpy as np

from crp.neurons.held_out import HeldOut
from crp.neurons.labels import Labels
from crp.neurons.values import UnitTable


def groups_of(table: UnitTable, labels: Labels, groups: Any) -> np.ndarray:
    """[n], which of the labelled rows belong together: of a group, of a sample, or none."""
    if groups is None:
        return np.arange(len(labels.rows)) if table.samples is None else table.samples[labels.rows]
    found = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(found) != table.rows:
        raise ValueError(f"groups holds {len(found)} groups, but there are {table.rows} rows")
    numbers: dict[Any, int] = {}
    for row, group in enumerate(found):
        if group is None or group != group:  # NaN: it belongs to no other
            found[row] = object()
        numbers.setdefault(found[row], len(numbers))
    return np.array([numbers[group] for group in found])[labels.rows]


def split(
    labels: Labels, groups: np.ndarray, test_size: float, random_state: int | np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the labelled rows to fit on, and which to hold out; ascending.

    Rows are drawn within each class where each is a group of its own; otherwise whole groups are.

    Raises
    ------
    ValueError
        If a class has no row left to fit on, or none to be held out.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size is a share between 0 and 1, not {test_size}")
    random = np.random.default_rng(random_state)
    members, place = np.unique(groups, return_inverse=True)
    strata = labels.of_class[np.unique(place, return_index=True)[1]]
    is_held = np.zeros(len(members), bool)
    for number in np.unique(strata):
        of_stratum = random.permutation(np.flatnonzero(strata == number))
        is_held[of_stratum[:max(round(test_size * len(of_stratum)), len(of_stratum) > 1)]] = True
    held = is_held[place]
    for part, what in ((~held, "to fit on"), (held, "to be held out")):
        missing = np.setdiff1d(labels.of_class, labels.of_class[part])
        if len(missing) or not part.any():
            name = repr(labels.classes[missing[0]]) if len(missing) and labels.classes else "labels"
            raise ValueError(f"class {name} has no row {what}: it needs at least two samples or groups")
    return np.flatnonzero(~held), np.flatnonzero(held)


def judge(
    outputs: np.ndarray, labels: Labels, fitted: np.ndarray, held: np.ndarray, groups: np.ndarray,
    random_state: int | np.random.Generator | None, resamplings: int = 1000,
) -> HeldOut:
    """The score of outputs [held, K] for the rows that were held out."""
    values = labels.values[held]
    if labels.classes:
        good, metric = (outputs.argmax(1) == values).astype(float), "accuracy"
        usual = np.bincount(labels.of_class[fitted]).argmax()
        base, chance = np.ones(len(held)), float((values == usual).mean())
    else:
        base, metric = (values - values.mean()) ** 2, "R2"
        good = base - (outputs[:, 0] - values) ** 2
        chance = 1 - float(((values - labels.values[fitted].mean()) ** 2).sum() / base.sum())
    if base.sum() == 0:
        raise ValueError("all numbers that are held out are the same: give more rows, or a larger test_size")
    _, place = np.unique(groups[held], return_inverse=True)
    good_of, base_of = np.bincount(place, good), np.bincount(place, base)
    random = np.random.default_rng(random_state)
    drawn = random.integers(0, len(good_of), (resamplings, len(good_of)))
    scores = good_of[drawn].sum(1) / np.maximum(base_of[drawn].sum(1), np.finfo(float).tiny)
    lower, upper = np.quantile(scores, [.025, .975])
    return HeldOut(float(good.sum() / base.sum()), float(lower), float(upper), chance, metric)
