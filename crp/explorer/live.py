"""What the model answers now: predictions, heatmaps, graphs, and experiments on it. Only the worker calls this."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crp.attribution import AttributionGraph, Contrast
from crp.attribution.model_graph import trace_model_graph
from crp.explorer.documents import (
    Assignment,
    Graph,
    GraphEdge,
    GraphNode,
    LiveSample,
    Manipulated,
    Output,
    SampleLayer,
    UnitSetting,
)
from crp.explorer.pattern_pages import need_patterns
from crp.explorer.sample_pages import strongest
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.inputs import call_model, list_tensors, map_tensors
from crp.model.layers import select_output
from crp.neurons import Scale, intervene

MOST_OUTPUTS, MOST_HEATMAPS = 10, 48
_WIDTH = [5, 3]


@dataclass(frozen=True)
class Answered:
    """A document, and the numbers that travel beside it."""

    document: Any
    numbers: np.ndarray

    def to_bytes(self) -> bytes:
        """Both in one: the length of the document as int32, the document as JSON, filled up to 4, and float32."""
        text = self.document.model_dump_json().encode()
        text += b" " * (-len(text) % 4)
        return np.int32(len(text)).tobytes() + text + np.ascontiguousarray(self.numbers, "<f4").tobytes()


def read_answer(content: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """What :meth:`Answered.to_bytes` wrote: the document, as JSON has it, and the numbers, flat."""
    length = int(np.frombuffer(content[:4], "<i4")[0])
    return json.loads(content[4:4 + length]), np.frombuffer(content[4 + length:], "<f4")


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
    outputs, target = _answers(source, data, target)
    progress(.3)
    conditions = _start(source, data, target, against)
    if condition is not None:
        conditions[source.layer(condition[0])] = [condition[1]]
    found = fv.attribution(
        data, [conditions], composite, list(fv.layer_map), mask_map=dict(fv.layer_map), start_layer=fv.start_layer,
        exclude_parallel=False,
    )
    progress(.9)
    heatmap = as_picture(found.heatmap)
    layers = [
        SampleLayer(layer=number, concepts=strongest(source, number, _values(source, name, found.relevances)))
        for number, name in enumerate(source.store.layers)
    ] if condition is None else []
    document = LiveSample(
        outputs=outputs, target=target, against=against, layers=layers, height=heatmap.shape[0],
        width=heatmap.shape[1],
    )
    return Answered(document, heatmap)


def _values(source: Source, layer: str, relevances: Mapping[str, Tensor]) -> np.ndarray:
    fv, _ = source.need_model()
    return fv.layer_map[layer].read(relevances[layer], layer).value[0].float().cpu().numpy()


def as_picture(heatmap: Any) -> np.ndarray:
    """[height, width]: a heatmap of one input, of which channels are summed; of inputs of other forms in one row."""
    found = list_tensors(heatmap)[0][0].detach().float().cpu().numpy()
    if found.ndim >= 3:
        found = found.reshape(-1, *found.shape[-2:]).sum(0)
    return found if found.ndim == 2 else found.reshape(1, -1)


def heatmaps_of_concepts(
    source: Source, data: Any, target: int | None, layer: int, concepts: list[int], progress: Progress
) -> np.ndarray:
    """[concepts, height, width] float32, a conditional heatmap for each concept."""
    fv, composite = source.need_model()
    _, target = _answers(source, data, target)
    name, found = source.layer(layer), []
    start = _start(source, data, target)
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


def manipulate(
    source: Source, data: Any, settings: list[UnitSetting], target: int | None, progress: Progress
) -> Answered:
    """What the model answers with units set to other values, and the heatmap of that; none where nothing is asked."""
    fv, composite = source.need_model()
    progress(.1)
    before, target = _answers(source, data, target)
    with intervene(fv.attribution.model, changes_of(source, settings), concepts=dict(fv.layer_map)):
        after = _outputs(source, data, [output.target for output in before])
        progress(.5)
        start = _start(source, data, target)
        heatmap = as_picture(fv.attribution(data, [start], composite, start_layer=fv.start_layer).heatmap)
    document = Manipulated(before=before, after=after, height=heatmap.shape[0], width=heatmap.shape[1])
    return Answered(document, heatmap)


def changes_of(source: Source, settings: list[UnitSetting]) -> dict[str, dict[int, Any]]:
    """What :func:`crp.neurons.intervene` takes."""
    changes: dict[str, dict[int, Any]] = {}
    for setting in settings:
        value = Scale(setting.value) if setting.how == "scale" else setting.value
        source.concepts(setting.layer, [setting.concept])
        changes.setdefault(source.layer(setting.layer), {})[setting.concept] = value
    return changes


def _answers(source: Source, data: Any, target: int | None) -> tuple[list[Output], int]:
    """The largest outputs of the model, and which to explain: the one asked for, or the largest."""
    outputs = _outputs(source, data)
    return outputs, outputs[0].target if target is None else target


def _outputs(source: Source, data: Any, first: list[int] | None = None) -> list[Output]:
    """The largest outputs of the model, or those asked for, with their probabilities where they are classes."""
    values = _output(source, data).detach().float().cpu()[0]
    return outputs_of(source, values.reshape(-1, values.shape[-1])[-1], first)


def _output(source: Source, data: Any) -> Tensor:
    fv, _ = source.need_model()
    with torch.no_grad():
        return select_output(call_model(fv.attribution.model, data), fv.attribution.output, "y")


def _start(source: Source, data: Any, target: int, against: int | None = None) -> dict[str, Any]:
    """The condition that starts relevance at an output, at the last position of models with several.

    Raises
    ------
    LookupError
        If the model has no such output.
    """
    fv, _ = source.need_model()
    shape = _output(source, data).shape
    for output in (target, against):
        if output is not None and not 0 <= output < shape[-1]:
            raise LookupError(f"the model has no output {output}; it has 0 to {shape[-1] - 1}")
    found = [output if len(shape) == 2 else (-1,) * (len(shape) - 2) + (output,) for output in (target, against)]
    y = [found[0]] if against is None else Contrast(found[0], found[1])
    return {fv.attribution.MODEL_OUTPUT_NAME: y}


def outputs_of(source: Source, values: Tensor, first: list[int] | None = None) -> list[Output]:
    """Outputs [classes] as a page shows them, the largest first."""
    probabilities = torch.softmax(values.double(), 0) if len(values) > 1 else torch.full_like(values, float("nan"))
    order = values.argsort(descending=True, stable=True)[:MOST_OUTPUTS].tolist() if first is None else first
    corpus = source.corpus
    generates = corpus is not None and len(values) >= len(corpus.tokenizer)
    names = corpus.tokenizer.convert_ids_to_tokens(order) if corpus is not None and generates else [
        source.class_name(i) for i in order
    ]
    return [
        Output(target=i, name=str(name), value=values[i].item(), probability=probabilities[i].item())
        for i, name in zip(order, names)
    ]


def graph(source: Source, data: Any, layer: int, concept: int, target: int | None, progress: Progress) -> Graph:
    """What a concept is made of in a sample, and to which concepts of the next layer it goes."""
    fv, composite = source.need_model()
    _, target = _answers(source, data, target)
    name = source.layer(layer)
    progress(.2)
    model_graph = trace_model_graph(fv.attribution.model, data, list(fv.layer_map))
    decompose = AttributionGraph(fv.attribution, model_graph, fv.layer_map)
    found = decompose(data, composite, concept, name, target, width=_WIDTH, verbose=False)
    progress(.6)
    places = {node: place for place, node in enumerate(found.nodes)}
    edges = [
        GraphEdge(source=places[lower, child], sink=places[node], share=share)
        for node, children in found.connections.items() for lower, child, share in children
    ]
    nodes = list(found.nodes)
    for upper, unit, share in _served_by(source, data, layer, concept, target):
        edges.append(GraphEdge(source=0, sink=len(nodes), share=share))
        nodes.append((upper, unit))
    remainders = [0.] * len(nodes)
    for node, children in found.connections.items():
        by_layer: dict[str, float] = {}
        for lower, _, share in children:
            by_layer[lower] = by_layer.get(lower, 0.) + abs(share)
        remainders[places[node]] = max(0., 1 - max(by_layer.values(), default=1.))
    numbers = {other: i for i, other in enumerate(source.store.layers)}
    return Graph(
        nodes=[GraphNode(layer=numbers[of], concept=unit, name=source.name(numbers[of], unit)) for of, unit in nodes],
        edges=edges, remainders=remainders, target=target,
    )


def _served_by(
    source: Source, data: Any, layer: int, concept: int, target: int, most: int = 3
) -> list[tuple[str, int, float]]:
    """The concepts of the next layer that take most from a concept: layer, concept, share of what it holds."""
    fv, composite = source.need_model()
    order = fv.attribution.in_order(list(fv.layer_map), composite)
    below = source.layer(layer)
    above = order[order.index(below) + 1:order.index(below) + 2]
    if not above:
        return []
    upper, y = above[0], _start(source, data, target)
    how: dict[str, Any] = {"mask_map": dict(fv.layer_map), "start_layer": fv.start_layer, "exclude_parallel": False}
    whole = fv.attribution(data, [y], composite, [below, upper], heatmap=False, **how)
    held = _values(source, below, whole.relevances)[concept]
    values = np.abs(_values(source, upper, whole.relevances))
    candidates = np.argsort(-values, kind="stable")[:16].tolist()
    if held == 0:
        return []
    parts = fv.attribution.generate(
        data, [{**y, upper: [unit]} for unit in candidates], composite, [below], verbose=False, batch_size=16, **how
    )
    found: list[float] = []
    for part in parts:
        held_of = fv.layer_map[below].read(part.relevances[below], below).value
        found += (held_of[:, concept].double().cpu().numpy() / held).tolist()
    best = np.argsort(-np.abs(found), kind="stable")[:most].tolist()
    return [(upper, candidates[i], float(found[i])) for i in best]


def assign(source: Source, data: Any, layer: int, quantity: str, target: int | None, progress: Progress) -> Assignment:
    """The pattern that an input belongs to, by what it does to the concepts of a layer."""
    fv, composite = source.need_model()
    patterns = need_patterns(source, layer, quantity)
    name = source.layer(layer)
    _, target = _answers(source, data, target)
    progress(.3)
    found = fv.attribution(
        data, [_start(source, data, target)], composite, [name], start_layer=fv.start_layer, heatmap=False,
    )
    tensors = found.activations if quantity == "activation" else found.relevances
    values = fv.layer_map[name].read(tensors[name], name).value.float().cpu().numpy()
    labels, probability = patterns.assign(values)
    return Assignment(pattern=int(labels[0]), probability=float(probability[0]))
