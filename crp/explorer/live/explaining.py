"""Why a model answers what it does: heatmaps, on conditions or not, and the concepts that it takes."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crp.explorer.documents import Assignment, LiveSample, SampleLayer
from crp.explorer.live.answered import Answered
from crp.explorer.live.outputs import answers, as_picture
from crp.explorer.pattern_pages import need_patterns
from crp.explorer.sample_pages import strongest
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.inputs import list_tensors, map_tensors
from crp.pictures.kinds import vis_inputs


def explain(
    source: Source, data: Any, target: int | None, against: int | None, condition: tuple[int, int] | None,
    progress: Progress,
) -> Answered:
    """What the model answers to an input, why, and which concepts it takes for that.

    Parameters
    ----------
    source : Source
    data : torch.Tensor, tuple or dict
        One input of the model.
    target, against : int, optional
        The output to explain, by default the largest, and perhaps another one, against which it is explained.
    condition : (int, int), optional
        Layer and concept that the heatmap shall be of.

    Returns
    -------
    Answered
        A :class:`LiveSample`, and the heatmap [height, width]; [1, positions] of inputs with one axis.
    """
    fv, composite = source.need_model()
    progress(.1)
    outputs, target, conditions = answers(source, data, target, against)
    progress(.3)
    if condition is not None:
        conditions[source.layer(condition[0])] = [condition[1]]
    found = fv.attribution(
        data, [conditions], composite, list(fv.layer_map), mask_map=dict(fv.layer_map), start_layer=fv.start_layer,
        exclude_parallel=False,
    )
    progress(.9)
    heatmap = as_picture(found.heatmap)
    layers = [
        SampleLayer(layer=number, concepts=strongest(source, number, values_of(source, name, found.relevances)))
        for number, name in enumerate(source.store.layers)
    ] if condition is None else []
    document = LiveSample(
        outputs=outputs, target=target, against=against, layers=layers, height=heatmap.shape[0],
        width=heatmap.shape[1],
    )
    return Answered(document, heatmap)


def values_of(source: Source, layer: str, relevances: Mapping[str, Tensor]) -> np.ndarray:
    """[C], the relevance of each concept of a layer, of the first input."""
    fv, _ = source.need_model()
    return fv.layer_map[layer].read(relevances[layer], layer).value[0].float().cpu().numpy()


def heatmaps_of_concepts(
    source: Source, data: Any, target: int | None, against: int | None, layer: int, concepts: list[int],
    progress: Progress,
) -> np.ndarray:
    """[concepts, height, width] float32, a conditional heatmap for each concept."""
    fv, composite = source.need_model()
    _, _, start = answers(source, data, target, against)
    name, found = source.layer(layer), []
    conditions = [{**start, name: [concept]} for concept in concepts]
    results = fv.attribution.generate(
        data, conditions, composite, mask_map=dict(fv.layer_map), start_layer=fv.start_layer, batch_size=8,
        exclude_parallel=False, verbose=False,
    )
    for result in results:
        rows = len(list_tensors(result.heatmap)[0])
        found += [as_picture(map_tensors(lambda tensor: tensor[i:i + 1], result.heatmap)) for i in range(rows)]
        progress(len(found) / len(concepts))
    return np.stack(found).astype(np.float32)


def assign(source: Source, data: Any, layer: int, quantity: str, target: int | None, progress: Progress) -> Assignment:
    """The pattern that an input belongs to, by what it does to the concepts of a layer."""
    fv, composite = source.need_model()
    patterns = need_patterns(source, layer, quantity)
    name = source.layer(layer)
    _, _, start = answers(source, data, target)
    progress(.3)
    found = fv.attribution(
        data, [start], composite, [name], start_layer=fv.start_layer, heatmap=False,
    )
    tensors = found.activations if quantity == "activation" else found.relevances
    values = fv.layer_map[name].read(tensors[name], name).value.float().cpu().numpy()
    labels, probability = patterns.assign(values)
    return Assignment(pattern=int(labels[0]), probability=float(probability[0]))


def average(inputs: Iterable[Any]) -> Image.Image:
    """The mean of inputs, as a picture."""
    total: Any = None
    count = 0
    for data in inputs:
        found = map_tensors(torch.Tensor.double, data)
        total = found if total is None else total + found
        count += 1
    return vis_inputs((total / count).float())[0]
