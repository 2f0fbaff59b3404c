"""Rankings of the units in a store, and what becomes of the model without them."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crp.cli.questions import ClassNames
from crp.cli.runs import specified
from crp.cli.unit_answers import AblationAnswer, HeldOutScore, RankedUnit, RankingAnswer, RankingArea
from crp.model.numbers import spread_evenly
from crp.model.samples import join_samples
from crp.neurons import Ranking, ablation_curve, rank
from crp.store import ReferenceStore, StoreError


def rank_units(
    store: ReferenceStore, by: str, layers: list[str] | None, quantity: str | None, names: ClassNames, *,
    labels: str | None = None, target: str | None = None, most: int = 20, picture: str | None = None,
) -> RankingAnswer:
    """Rank the units of a store, keep the ranking there, and tell the first units."""
    ranking = rank(store, _read_labels(labels), by, layers=layers, quantity=quantity)
    ranking.save(store, None if labels is None else Path(labels).name)
    classes = list(map(str, ranking.classes)) if labels else names.of(ranking.classes)
    order, scores, interval = ranking.order, ranking.scores, ranking.interval
    if target is not None:
        place = _place_of(target, ranking, classes)
        order, scores, interval = ranking.class_order[place], ranking.class_scores[place], None
    if picture is not None:
        chosen = None if target is None else ranking.classes[_place_of(target, ranking, classes)]
        ranking.plot(most, chosen).savefig(picture, bbox_inches="tight")
    assert ranking.source is not None
    bounds = np.full((len(order), 2), np.nan) if interval is None else interval
    return RankingAnswer(
        store=store.path, by=by, layers=ranking.layers, quantity=ranking.source.quantity, rows=ranking.rows,
        left_out=ranking.left_out, target=target, classes=classes, of=len(order),
        units=[
            RankedUnit(layer=layer, unit=unit, score=score, lower=lower, upper=upper)
            for (layer, unit), score, (lower, upper) in zip(_pairs(ranking, order[:most]), scores, bounds)
        ],
        constant=[f"{layer} {unit}" for layer, unit in _pairs(ranking, ranking.constant)],
        held_out=None if ranking.held_out is None else HeldOutScore(**ranking.held_out._asdict()),
        picture=None if picture is None else Path(picture),
    )


def _read_labels(file: str | None) -> list[Any] | None:
    """A label per line: numbers if all are, else text; None for empty lines."""
    if file is None:
        return None
    lines = [line.strip() or None for line in Path(file).read_text("utf-8").splitlines()]
    for kind in (int, float):
        try:
            return [None if line is None else kind(line) for line in lines]
        except ValueError:
            continue
    return lines


def _place_of(target: str, ranking: Ranking, classes: list[str]) -> int:
    """Which of the classes a name or number means."""
    for known in (classes, list(map(str, ranking.classes))):
        if target in known:
            return known.index(target)
    told = f"there are {', '.join(classes)}" if classes else f"a ranking by {ranking.method} has none"
    raise ValueError(f"there is no class {target!r}; {told}")


def _pairs(ranking: Ranking, numbers: np.ndarray) -> list[tuple[str, int]]:
    return [(layer, unit) for number in numbers for layer, (unit,) in ranking.by_layer([number]).items()]


def ablate(
    spec: str, store: str | None, rankings: list[str], layers: list[str] | None, ways: list[str], *, metric: str,
    samples: int, random: int, batch_size: int, picture: str,
) -> AblationAnswer:
    """Ablation curves of the model that a function specifies, by the rankings of its store. Its file is executed."""
    visualization, _ = specified(spec)
    opened = ReferenceStore(store or visualization.path)
    layers = opened.layers if layers is None else layers
    found = {by: _kept_or_made(opened, by, layers) for by in dict.fromkeys(rankings)}
    attribution, length = visualization.attribution, len(visualization.dataset)
    numbers = spread_evenly(length, samples).tolist()
    pairs = [visualization.get_data_sample(number) for number in numbers]
    targets = [visualization.multitarget_to_single(target) for _, target in pairs]
    for number, of_sample in zip(numbers, targets):
        if len(of_sample) != 1 or of_sample[0] < 0:
            raise ValueError(f"sample {number} has the targets {of_sample}, and the metrics are of one class")
    curves = ablation_curve(
        attribution.model, (join_samples([data for data, _ in pairs], numbers), [target for target, in targets]), found,
        metric, by=ways, random=random, concepts=visualization.layer_map, output=attribution.output,
        batch_size=batch_size,
    )
    curves.plot().savefig(picture, bbox_inches="tight")
    return AblationAnswer(
        store=opened.path, layers=layers, metric=metric, samples=len(numbers),
        whole=next(iter(curves.curves.values()))[0], picture=Path(picture), areas=[
            RankingArea(
                ranking=area.ranking, set_to=area.by, most=area.most, least=area.least, difference=area.difference,
                lower=area.lower, upper=area.upper, random=area.random, cpr=area.cpr, cmd=area.cmd,
            ) for area in curves.areas()
        ],
    )


def _kept_or_made(store: ReferenceStore, by: str, layers: list[str]) -> Ranking:
    try:
        return Ranking.load(store, by, layers=layers)
    except StoreError:
        return rank(store, by=by, layers=layers)
