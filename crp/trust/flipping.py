"""Is relevance faithful? What is left of answers as concepts are taken away, and what is back as they return."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from tqdm.auto import tqdm

from crp.model.layers import resolve_layer
from crp.neurons.interventions import intervene
from crp.neurons.lower_part import LowerPart
from crp.trust.intervals import Estimate, mean_of_rows
from crp.trust.removal import Elements, Keep
from crp.trust.rows import RowBatch, SampledRows

ORDERS = ("relevance", "activation")


@dataclass(frozen=True, eq=False)
class Flipping:
    """Answers with concepts removed (flipping) and inserted, those of each row in an order of its own.

    Curves are in units of what all concepts of the layer change in an answer, on average: 0 with none of them, and 1 or
    -1 with all, if they raise or lower every answer.

    Attributes
    ----------
    fractions : numpy.ndarray
        [S], shares of the concepts that are removed, or inserted.
    removed, inserted : dict
        Order, "relevance" or "activation" -> [S], mean answer with the first concepts removed, or with them alone.
    random : numpy.ndarray
        [2 R, S], the same with concepts removed in random orders; each order follows its reverse.
    gaps : dict
        Order -> Estimate: the area between ``inserted`` and ``removed``. 0 at random, negative where the order is
        upside down.
    random_gaps : numpy.ndarray
        [R]
    span : float
        What all concepts together change in an answer: mean absolute difference.
    """

    fractions: np.ndarray
    removed: dict[str, np.ndarray]
    inserted: dict[str, np.ndarray]
    random: np.ndarray
    gaps: dict[str, Estimate]
    random_gaps: np.ndarray
    span: float

    @property
    def beats_chance(self) -> bool:
        """Whether relevance does better than random orders: by three of their standard deviations, and for sure."""
        gap = self.gaps["relevance"]
        spread = float(self.random_gaps.std(ddof=1)) if len(self.random_gaps) > 1 else 0.
        return gap.lower > 0 and gap.value > float(self.random_gaps.mean()) + 3 * spread


def flip_concepts(rows: SampledRows, steps: int, random: int, random_state: int | None, verbose: bool) -> Flipping:
    """Remove and insert concepts, in each row the most relevant first.

    Parameters
    ----------
    rows : SampledRows
    steps : int
        How many steps from none to all.
    random : int
        How many random orders, each of them in both directions.
    random_state : int or None
    verbose : bool

    References
    ----------
    R. Achtibat et al. (2023). From attribution maps to human-understandable explanations through Concept Relevance
    Propagation. Nature Machine Intelligence 5, 1006-1019: concept flipping and insertion.
    """
    count = rows.relevance.shape[1]
    counts = np.linspace(0, count, steps + 1).astype(int)
    counts = np.unique([counts, count - counts])  # the first ones alone are what is left without the last ones
    elements = Elements(rows.concept, rows.layer, count)
    generator = np.random.default_rng(random_state)
    kinds = [(order, direction) for order in (*ORDERS, *range(random)) for direction in (1, -1)]
    found: dict[tuple, list[np.ndarray]] = {kind: [] for kind in kinds}
    bar = tqdm(total=len(rows.batches) * len(kinds), desc="flipping", disable=not verbose)
    with bar:
        for batch in rows.batches:
            orders: dict = {"relevance": batch.relevance, "activation": batch.activation} | {
                number: generator.random(batch.relevance.shape) for number in range(random)
            }
            address = resolve_layer(rows.attribution.model, rows.layer)
            with torch.no_grad(), LowerPart(rows.attribution.model, batch.inputs, [address]) as lower:
                for order, direction in kinds:
                    place = np.argsort(np.argsort(-orders[order], axis=1, kind="stable"), axis=1)
                    place = place if direction > 0 else count - 1 - place
                    found[order, direction].append(
                        np.stack([_answers(rows, batch, lower, elements, place >= k) for k in counts])
                    )
                    bar.update()
    curves = {kind: np.concatenate(parts, 1) for kind, parts in found.items()}  # [S, rows], k of them removed
    return _flipping(curves, counts / count, random, random_state)


def _answers(
    rows: SampledRows, batch: RowBatch, lower: LowerPart, elements: Elements, kept: np.ndarray
) -> np.ndarray:
    if kept.all():
        return rows.answers(batch, lambda: lower.output if rows.starts.start_layer is None else lower.run())
    change = {rows.layer: Keep(torch.from_numpy(kept), elements)}
    with intervene(rows.attribution.model, change, concepts=rows.concept):
        return rows.answers(batch, lower.run)


def _flipping(
    curves: dict[tuple, np.ndarray], fractions: np.ndarray, random: int, random_state: int | None
) -> Flipping:
    whole, nothing = curves["relevance", 1][0], curves["relevance", 1][-1]
    span = float(np.abs(whole - nothing).mean())
    scale = span if span > 1e-9 * float(np.abs(whole).mean()) else np.nan

    def in_units(kind: tuple) -> np.ndarray:
        return (curves[kind] - nothing) / scale

    removed = {order: in_units((order, 1)) for order in ORDERS}
    inserted = {order: in_units((order, -1))[::-1] for order in ORDERS}
    gaps = {
        order: mean_of_rows(trapezoid(inserted[order] - removed[order], fractions, axis=0), random_state)
        for order in ORDERS
    }
    pairs = [(in_units((number, 1)), in_units((number, -1))) for number in range(random)]
    random_gaps = [trapezoid((back[::-1] - there).mean(1), fractions) for there, back in pairs]
    return Flipping(
        fractions, {order: curve.mean(1) for order, curve in removed.items()},
        {order: curve.mean(1) for order, curve in inserted.items()},
        np.array([curve.mean(1) for pair in pairs for curve in pair]).reshape(-1, len(fractions)),
        gaps, np.array(random_gaps), span,
    )


@dataclass(frozen=True, eq=False)
class Effects:
    """What becomes of answers without single concepts.

    Attributes
    ----------
    effect : numpy.ndarray
        [concepts], mean fall of the answer without a concept, at the rows where it is most relevant; NaN where it is
        never relevant.
    lower, upper : numpy.ndarray
        [concepts], bootstrap interval of 95 %.
    control : numpy.ndarray
        [concepts], mean fall without another concept at the same rows, drawn at random.
    """

    effect: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    control: np.ndarray


def remove_each(
    rows: SampledRows, concepts: np.ndarray, per_concept: int, batch_size: int, random_state: int | None,
    verbose: bool,
) -> Effects:
    """Take each concept away by itself, where it is most relevant, and another one as a control.

    Parameters
    ----------
    rows : SampledRows
    concepts : numpy.ndarray
        Ids.
    per_concept : int
        At how many rows.
    batch_size : int
    random_state : int or None
    verbose : bool
    """
    generator = np.random.default_rng(random_state)
    count = rows.relevance.shape[1]
    elements = Elements(rows.concept, rows.layer, count)
    alive = np.flatnonzero((rows.relevance != 0).any(0))
    falls: dict[int, tuple[list[float], list[float]]] = {concept: ([], []) for concept in concepts.tolist()}
    wanted = _strongest_rows(rows, concepts, per_concept)
    bar = tqdm(total=sum(len(part) for part in wanted), desc="single concepts", disable=not verbose)
    with bar, torch.no_grad():
        for batch, pairs in zip(rows.batches, wanted):
            for first in range(0, len(pairs), batch_size):
                part = pairs[first:first + batch_size]
                chosen = batch.take(row for _, row in part)
                own = np.array([concept for concept, _ in part])
                others = np.array([generator.choice(alive[alive != concept]) if (alive != concept).any() else concept
                                   for concept in own])
                for side, removed in enumerate((own, others)):
                    kept = np.ones((len(part), count), bool)
                    kept[np.arange(len(part)), removed] = False
                    change = {rows.layer: Keep(torch.from_numpy(kept), elements)}
                    with intervene(rows.attribution.model, change, concepts=rows.concept):
                        fall = chosen.started - rows.answers(chosen)
                    for concept, value in zip(own.tolist(), fall):
                        falls[concept][side].append(value)
                bar.update(len(part))
    effect, control = (
        np.array([np.mean(sides[side]) if sides[side] else np.nan for sides in falls.values()]) for side in range(2)
    )
    bounds = [mean_of_rows(np.array(own), random_state) if own else Estimate.unknown() for own, _ in falls.values()]
    return Effects(
        effect, np.array([bound.lower for bound in bounds]), np.array([bound.upper for bound in bounds]), control
    )


def _strongest_rows(rows: SampledRows, concepts: np.ndarray, per_concept: int) -> list[list[tuple[int, int]]]:
    """For each batch, pairs (concept, row): those rows at which a concept is most relevant."""
    relevance = np.abs(rows.relevance[:, concepts])
    best = np.argsort(-relevance, axis=0, kind="stable")[:per_concept]
    starts = np.cumsum([0, *map(len, rows.batches)])
    found: list[list[tuple[int, int]]] = [[] for _ in rows.batches]
    for column, concept in enumerate(concepts.tolist()):
        for row in best[:, column]:
            if relevance[row, column] > 0:
                batch = int(np.searchsorted(starts, row, side="right")) - 1
                found[batch].append((concept, int(row - starts[batch])))
    return found
