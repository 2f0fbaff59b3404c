"""Pages of rankings and ablations, and the ranges in which units can be set."""
from __future__ import annotations

import json
from typing import Any

import numpy as np

from crp.explorer.documents import Ablation, Curve, RankedUnit, RankingDocument, Rankings, UnitRange
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.samples import join_samples, spread_evenly
from crp.neurons import Ranking, ablation_curve, rank

METHODS = (
    "relevance", "activation", "variance", "mean_distance", "anova", "probeless", "average_precision",
    "mutual_information", "probe", "gaussian", "random",
)
NO_ABLATION = Ablation(metric="", samples=0, fractions=[], curves=[], lowest={}, highest={})
MOST_UNITS, MOST_CLASSES, MOST_SAMPLES, RANDOM_ORDERS = 100, 30, 256, 8


def rankings(source: Source) -> Rankings:
    """All rankings that the store keeps."""
    found = Ranking.kept(source.store)
    return Rankings(
        rankings=[_described(source, key, ranking) for key, ranking in found.items()], methods=list(METHODS),
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


def rank_and_keep(source: Source, number: int, method: str, progress: Progress) -> None:
    """Rank the units of a layer, and keep the ranking in the store."""
    progress(0.)
    rank(source.store, by=method, layers=source.layer(number)).save(source.store)


def ablate(source: Source, keys: list[str], progress: Progress) -> bytes:
    """Take units away in the order of rankings, with the model; an :class:`Ablation` as JSON.

    Raises
    ------
    LookupError
        If the store keeps no such ranking, or there is no model.
    """
    fv, _ = source.need_model()
    found = Ranking.kept(source.store)
    missing = [key for key in keys if key not in found]
    if missing or not keys:
        raise LookupError(f"the store keeps no ranking {missing[0] if missing else ''}")
    chosen = {found[key].method if len(keys) == 1 else f"{found[key].method} ({i + 1})": found[key]
              for i, key in enumerate(keys)}
    rows = source.rows("relevance")
    places = [place for place in spread_evenly(len(rows), MOST_SAMPLES).tolist() if rows["target"][place] >= 0]
    if not places:
        raise LookupError("ablation compares answers with targets, and the samples of this store have none")
    progress(.05)
    with source.reading:
        samples = [fv.get_data_sample(int(rows["sample"][place]))[0] for place in places]
    inputs, targets = join_samples(samples, places), rows["target"][places].copy()
    progress(.1)
    curves = ablation_curve(
        fv.attribution.model, (inputs, targets), chosen, by=["zero", "mean"], random=RANDOM_ORDERS,
        concepts=dict(fv.layer_map), output=fv.attribution.output, verbose=False,
    )
    document = Ablation(
        metric=curves.metric, samples=len(places), fractions=curves.fractions.tolist(), curves=[
            Curve(ranking=key.ranking, by=key.by, order=key.order, scores=curve.tolist())
            for key, curve in curves.curves.items()
        ],
        lowest={by: found.min(0).tolist() for by, found in curves.random.items()},
        highest={by: found.max(0).tolist() for by, found in curves.random.items()},
    )
    return document.model_dump_json().encode()


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
