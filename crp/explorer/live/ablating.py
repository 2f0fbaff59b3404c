"""What is left of a model without some of its units."""
from __future__ import annotations

from crp.explorer.documents import Ablation, Curve
from crp.explorer.source import NotThereError, Source
from crp.explorer.worker import Progress
from crp.model.numbers import spread_evenly
from crp.model.samples import join_samples
from crp.neurons import Ranking, ablation_curve

MOST_SAMPLES, RANDOM_ORDERS = 256, 8


def ablate(source: Source, keys: list[str], progress: Progress) -> bytes:
    """Take units away in the order of rankings, with the model; an :class:`Ablation` as JSON.

    Raises
    ------
    NotThereError
        If the store keeps no such ranking, or there is no model.
    """
    fv, _ = source.need_model()
    found = Ranking.kept(source.store)
    missing = [key for key in keys if key not in found]
    if missing or not keys:
        raise NotThereError(f"the store keeps no ranking {missing[0] if missing else ''}")
    chosen = {found[key].method if len(keys) == 1 else f"{found[key].method} ({i + 1})": found[key]
              for i, key in enumerate(keys)}
    rows = source.rows("relevance")
    places = [place for place in spread_evenly(len(rows), MOST_SAMPLES).tolist() if rows["target"][place] >= 0]
    if not places:
        raise NotThereError("ablation compares answers with targets, and the samples of this store have none")
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
