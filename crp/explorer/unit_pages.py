"""Pages of rankings and ablations, and the ranges in which units can be set."""
from __future__ import annotations

import json
from typing import Any

import numpy as np

from crp.explorer.documents import Ablation, RankedUnit, RankingDocument, Rankings, UnitRange
from crp.explorer.source import Source
from crp.neurons.method_names import OF_ONE_MODEL
from crp.neurons.ranking import Ranking

NO_ABLATION = Ablation(metric="", samples=0, fractions=[], curves=[], lowest={}, highest={})
MOST_UNITS, MOST_CLASSES = 100, 30


def rankings(source: Source) -> Rankings:
    """All rankings that the store keeps."""
    found = Ranking.kept(source.store)
    return Rankings(
        rankings=[_described(source, key, ranking) for key, ranking in found.items()], methods=list(OF_ONE_MODEL),
    )


def _described(source: Source, key: str, ranking: Ranking) -> RankingDocument:
    layers = [source.store.layers.index(layer) for layer in ranking.layers]
    interval = ranking.interval
    bounds = np.full((len(ranking), 2), np.nan) if interval is None else interval
    of_each = np.empty((len(ranking.classes), len(ranking)))
    for scores, order, values in zip(of_each, ranking.class_order, ranking.class_scores):
        scores[order] = values
    classes = ranking.classes[:MOST_CLASSES]

    def units(order: np.ndarray, scores: np.ndarray, with_bounds: bool) -> list[RankedUnit]:
        return [
            RankedUnit(
                layer=layers[0] if isinstance(unit, int) else source.store.layers.index(unit[0]),
                concept=unit if isinstance(unit, int) else unit[1], score=float(score),
                lower=float(low) if with_bounds else None, upper=float(high) if with_bounds else None,
                classes=[float(value) for value in of_each[:len(classes), number]],
            ) for unit, number, score, (low, high) in zip(
                ranking.ids(order[:MOST_UNITS]), order[:MOST_UNITS], scores, bounds
            )
        ]

    return RankingDocument(
        key=key, method=ranking.method, layers=layers, units=len(ranking), rows=ranking.rows,
        options={name: value for name, value in ranking.options.items() if isinstance(value, (str, int, float))},
        classes=[source.class_name(name) if isinstance(name, int) else str(name) for name in classes],
        held_out="" if ranking.held_out is None else str(ranking.held_out),
        top=units(ranking.order, ranking.scores, interval is not None), top_of_classes=[
            units(order, scores, False)
            for order, scores in zip(ranking.class_order[:len(classes)], ranking.class_scores)
        ],
    )


def rank_and_keep(source: Source, number: int, method: str) -> None:
    """Rank the units of a layer, and keep the ranking in the store."""
    from crp.neurons import rank

    rank(source.store, by=method, layers=source.layer(number)).save(source.store)


def ablation_key(keys: list[str]) -> dict[str, Any]:
    """Under what an ablation is kept."""
    return {"what": "ablation", "rankings": keys}


def unit_ranges(source: Source, units: list[tuple[int, int]]) -> list[UnitRange]:
    """Least, mean and most mean value of units over positions, over the samples of the store."""
    found = []
    for number, concept in units:
        entry = source.store.entry(source.layer(number))
        values = np.asarray(source.store.values(source.layer(number), "activation")[:, concept], np.float64)
        positions = 1 if source.store.of_positions or entry.position_shape is None else entry.positions
        values = values / positions
        found.append(UnitRange(
            layer=number, concept=concept, least=values.min(), mean=values.mean(), most=values.max(),
        ))
    return found


def read_ablation(content: bytes) -> Ablation:
    """An ablation, as it was kept."""
    return Ablation.model_validate(json.loads(content))
