"""Maps of layers: topographic maps of groups, and response maps of inputs."""
from __future__ import annotations

import numpy as np

from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.numbers import spread_evenly

MOST_NEURONS, MOST_ROWS = 2048, 2000


def draw_map(source: Source, number: int, quantity: str, progress: Progress) -> bytes:
    """Lay out the concepts of a layer by what classes do to them.

    Returns
    -------
    bytes
        float32 [2 + 2 K, C]: x and y in [0, 1], the mean of each class, and its difference from the mean of all.
    """
    from crp.analysis import TopographicMap, contrast, group_profiles

    progress(0.)
    layer = source.layer(number)
    profiles = group_profiles(source.store, layers=[layer], quantity=quantity)
    profiles = profiles.select([str(of.target) for of in source.classes]) if source.classes else profiles
    progress(.2)
    found = TopographicMap().fit(profiles)
    values = [found.values(profiles), found.values(contrast(profiles))] if len(profiles.groups) > 1 else [
        found.values(profiles), np.zeros((1, len(found.coordinates)))
    ]
    return _bytes(np.concatenate([found.coordinates.T, *values]))


def draw_response_map(source: Source, layers: list[int], progress: Progress) -> bytes:
    """Lay out the concepts of several layers by their activations.

    Returns
    -------
    bytes
        float32 [6, D]: x and y in [-1, 1], the number of the layer, the concept, its lowest and highest activation.
    """
    from crp.analysis import ResponseMap

    progress(0.)
    names = [source.layer(number) for number in layers]
    sizes = {name: len(source.store.concepts(name)) for name in names}
    if sum(sizes.values()) > MOST_NEURONS:
        raise ValueError(f"these layers have {sum(sizes.values())} concepts; a map of more than {MOST_NEURONS} takes "
                         "too long: choose fewer layers")
    rows = spread_evenly(len(source.rows("activation")), MOST_ROWS)
    values = {name: np.asarray(source.store.values(name, "activation")[rows]) for name in names}
    progress(.2)
    found = ResponseMap().fit_values(values).round()
    low = {name: column.min(0) for name, column in values.items()}
    high = {name: column.max(0) for name, column in values.items()}
    return _bytes(np.array([
        (x, y, source.store.layers.index(name), channel, low[name][channel], high[name][channel])
        for (x, y), (name, channel) in zip(found.coordinates, found.neurons)
    ]).T)


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()
