"""Figures of concept graphs."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from matplotlib.figure import Figure
from PIL import Image

from crp.pictures.plotting import NEGATIVE, POSITIVE, new_figure, show_picture
from crp.pictures.words import percent

Node: TypeAlias = tuple[str, int]
Connections: TypeAlias = dict[Node, list[tuple[str, int, float]]]


class GivesReferences(Protocol):
    """What has pictures of concepts, as ``FeatureVisualization`` does."""

    def get_max_reference(self, *arguments: Any, **options: Any) -> Mapping[int, Any]:
        """Pictures by concept id, for ids and a layer."""


def draw_concept_graph(
    nodes: list[Node], connections: Connections, feature_visualization: GivesReferences | None,
    figsize: tuple[float, float] | None, reference_arguments: dict[str, Any],
) -> Figure:
    """Draw a ``ConceptGraph``: layers as columns from low to high, the concept asked for at the right."""
    columns = _columns(nodes, connections)
    tallest = max(len(column) for column in columns)
    figure = new_figure(figsize or (2.4 * len(columns) + 0.6, 1.3 * tallest + 0.8))
    axes = figure.add_subplot()
    place = {
        node: (x, (len(column) - 1) / 2 - y)
        for x, column in enumerate(columns) for y, node in enumerate(column)
    }
    strongest = max((abs(edge[2]) for edges in connections.values() for edge in edges), default=1.0) or 1.0
    labelled = dict.fromkeys(place, 0)
    for parent, edges in connections.items():
        for layer, concept, relevance in edges:
            (x0, y0), (x1, y1) = place[layer, concept], place[parent]
            along = 0.15 + 0.22 * (labelled[layer, concept] % 4)  # labels of lines from one node must not meet
            labelled[layer, concept] += 1
            axes.plot(
                [x0 + 0.2, x1 - 0.2], [y0, y1], linewidth=0.5 + 6 * abs(relevance) / strongest, alpha=0.6, zorder=1,
                color=POSITIVE if relevance >= 0 else NEGATIVE, solid_capstyle="round",
            )
            axes.text(
                x0 + 0.2 + along * (x1 - x0 - 0.4), y0 + along * (y1 - y0), percent(relevance), fontsize=9, zorder=3,
                ha="center", va="center", bbox={"facecolor": figure.get_facecolor(), "edgecolor": "none", "pad": 0.8},
            )
    pictures = _node_pictures(nodes, feature_visualization, reference_arguments)
    for node, (x, y) in place.items():
        box = axes.inset_axes((x - 0.19, y - 0.32, 0.38, 0.68), transform=axes.transData, zorder=2)
        box.set(xticks=[], yticks=[])
        if node in pictures:
            show_picture(box, pictures[node])
            box.set_xlabel(f"#{node[1]}", fontsize=9, labelpad=2)
        else:
            box.set_box_aspect(1)
            box.text(0.5, 0.5, f"#{node[1]}", ha="center", va="center", transform=box.transAxes)
        if node == nodes[0]:
            box.spines[:].set(linewidth=2)
    axes.set(
        xlim=(-0.5, len(columns) - 0.5), ylim=(-tallest / 2, tallest / 2), yticks=[], xticks=range(len(columns)),
        xticklabels=[column[0][0] for column in columns],
    )
    axes.tick_params(bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    return figure


def _columns(nodes: list[Node], connections: Connections) -> list[list[Node]]:
    """The nodes of each layer, from the layer farthest below the first node to the first node's."""
    depth = {nodes[0][0]: 0}
    for _ in connections:  # the longest way to a layer has no more steps than there are parents
        for (parent_layer, _), edges in connections.items():
            for layer, _, _ in edges:
                depth[layer] = max(depth.get(layer, 0), depth.get(parent_layer, 0) + 1)
    columns: dict[str, list[Node]] = {}
    for node in nodes:
        columns.setdefault(node[0], []).append(node)
    return [columns[layer] for layer in sorted(columns, key=lambda layer: -depth[layer])]


def _node_pictures(
    nodes: list[Node], feature_visualization: GivesReferences | None, reference_arguments: dict[str, Any]
) -> dict[Node, Image.Image]:
    if feature_visualization is None:
        return {}
    pictures: dict[Node, Image.Image] = {}
    by_layer: dict[str, list[int]] = {}
    for layer, concept in nodes:
        by_layer.setdefault(layer, []).append(concept)
    for layer, concepts in by_layer.items():
        arguments = {"r_range": (0, 1), **reference_arguments}
        references = feature_visualization.get_max_reference(concepts, layer, **arguments)
        for concept, found in references.items():
            pictures[layer, concept] = (found[0] if isinstance(found, tuple) else found)[0]
    return pictures
