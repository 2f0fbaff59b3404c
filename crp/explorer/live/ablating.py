"""What is left of a model without some of its units."""
from __future__ import annotations

from typing import Any

import numpy as np

from crp.explorer.documents import Ablation, Curve
from crp.explorer.source import NotThereError, Source
from crp.explorer.worker import Progress
from crp.model.inputs import map_tensors
from crp.model.numbers import spread_evenly
from crp.neurons import Ranking, ablation_curve

MOST_SAMPLES, RANDOM_ORDERS, BATCH = 256, 8, 16
_PASSES = 2  # that an ablation by means and zeros makes over the samples


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
    curves = ablation_curve(
        fv.attribution.model, _Samples(source, rows["sample"][places], rows["target"][places], progress), chosen,
        by=["zero", "mean"], random=RANDOM_ORDERS, concepts=dict(fv.layer_map), output=fv.attribution.output,
        batch_size=BATCH, verbose=False,
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


class _Samples:
    """Samples with their targets, which tell how many of them were read: between two batches work can end."""

    def __init__(self, source: Source, samples: np.ndarray, targets: np.ndarray, progress: Progress):
        self._source, self._samples, self._targets, self._progress = source, samples, targets, progress
        self._read = 0

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        if place >= len(self):
            raise IndexError(place)
        self._progress(self._read / (_PASSES * len(self)))
        self._read += 1
        fv, _ = self._source.need_model()
        with self._source.reading:
            data = fv.get_data_sample(int(self._samples[place]))[0]
        return map_tensors(lambda tensor: tensor[0], data), int(self._targets[place])
