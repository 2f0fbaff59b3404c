"""What a concept is made of in an input, and where it goes."""
from __future__ import annotations

from typing import Any

import numpy as np

from crp.attribution import AttributionGraph
from crp.attribution.model_graph import trace_model_graph
from crp.explorer.documents import Graph, GraphEdge, GraphNode
from crp.explorer.live.explaining import values_of
from crp.explorer.live.outputs import answers
from crp.explorer.source import Source
from crp.explorer.worker import Progress

_WIDTH = [5, 3]


def graph(source: Source, data: Any, layer: int, concept: int, target: int | None, progress: Progress) -> Graph:
    """What a concept is made of in a sample, and to which concepts of the next layer it goes."""
    fv, composite = source.need_model()
    _, target, start = answers(source, data, target)
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
    for upper, unit, share in _served_by(source, data, layer, concept, start):
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
    source: Source, data: Any, layer: int, concept: int, start: dict[str, Any], most: int = 3
) -> list[tuple[str, int, float]]:
    """The concepts of the next layer that take most from a concept: layer, concept, share of what it holds."""
    fv, composite = source.need_model()
    order = fv.attribution.in_order(list(fv.layer_map), composite)
    below = source.layer(layer)
    above = order[order.index(below) + 1:order.index(below) + 2]
    if not above:
        return []
    upper = above[0]
    how: dict[str, Any] = {"mask_map": dict(fv.layer_map), "start_layer": fv.start_layer, "exclude_parallel": False}
    whole = fv.attribution(data, [start], composite, [below, upper], heatmap=False, **how)
    held = values_of(source, below, whole.relevances)[concept]
    values = np.abs(values_of(source, upper, whole.relevances))
    candidates = np.argsort(-values, kind="stable")[:16].tolist()
    if held == 0:
        return []
    parts = fv.attribution.generate(
        data, [{**start, upper: [unit]} for unit in candidates], composite, [below], verbose=False, batch_size=16, **how
    )
    found: list[float] = []
    for part in parts:
        held_of = fv.layer_map[below].read(part.relevances[below], below).value
        found += (held_of[:, concept].double().cpu().numpy() / held).tolist()
    best = np.argsort(-np.abs(found), kind="stable")[:most].tolist()
    return [(upper, candidates[i], float(found[i])) for i in best]
