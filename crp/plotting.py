"""Figures: grids of pictures and graphs of concepts."""
from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

POSITIVE, NEGATIVE = "#c03028", "#3050b0"


class NotebookFigure(Figure):
    """A pyplot figure that a notebook shows once, whether or not it is the value of a cell."""

    def _ipython_display_(self):
        if "inline" not in plt.get_backend():
            raise NotImplementedError  # tells IPython to print the figure as it prints any object
        from IPython.core.pylabtools import print_figure
        from IPython.display import display

        display({"image/png": print_figure(self, base64=True)}, raw=True)
        plt.close(self)  # at the end of the cell the backend shows what is still open


def new_figure(figsize: tuple[float, float]) -> NotebookFigure:
    """An empty figure with a constrained layout; ``figsize`` in inches."""
    return plt.figure(FigureClass=NotebookFigure, figsize=figsize, layout="compressed")


def draw_grid(rows: list[tuple[str, list[list[Any]]]], figsize: tuple[float, float]) -> Figure:
    """Draw pictures in a grid.

    Parameters
    ----------
    rows : list of (label, parts)
        Each part is a line of pictures; the label stands beside the first.
    figsize : tuple of float
        In inches; the height at most.

    Returns
    -------
    matplotlib.figure.Figure
    """
    lines = [(label if i == 0 else "", part) for label, parts in rows for i, part in enumerate(parts)]
    columns = max((len(part) for _, part in lines), default=0)
    if columns == 0:
        raise ValueError("there is nothing to plot: the references are empty")
    width, height = figsize
    ratios = [max((picture.height / picture.width for picture in part), default=1.) for _, part in lines]
    figure = new_figure((width, min(height, width / columns * sum(ratios) + 0.2)))
    axes = figure.subplots(len(lines), columns, squeeze=False, height_ratios=ratios)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for (label, part), line in zip(lines, axes):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axis, picture in zip(line, part):
            show_picture(axis, picture)
    return figure


def show_picture(axis, picture) -> None:
    """Put a PIL image into axes, its pixels unsmoothed."""
    axis.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
    axis.set(xticks=[], yticks=[])


def draw_concept_graph(graph, feature_visualization, figsize, reference_arguments) -> Figure:
    """Draw a ``ConceptGraph``: layers as columns from low to high, the concept asked for at the right."""
    columns = _columns(graph)
    tallest = max(len(column) for column in columns)
    figure = new_figure(figsize or (2.4 * len(columns) + 0.6, 1.3 * tallest + 0.8))
    axes = figure.add_subplot()
    place = {
        node: (x, (len(column) - 1) / 2 - y)
        for x, column in enumerate(columns) for y, node in enumerate(column)
    }
    strongest = max((abs(edge[2]) for edges in graph.connections.values() for edge in edges), default=1.0) or 1.0
    labelled = dict.fromkeys(place, 0)
    for parent, edges in graph.connections.items():
        for layer, concept, relevance in edges:
            (x0, y0), (x1, y1) = place[layer, concept], place[parent]
            along = 0.15 + 0.22 * (labelled[layer, concept] % 4)  # labels of lines from one node must not meet
            labelled[layer, concept] += 1
            axes.plot(
                [x0 + 0.2, x1 - 0.2], [y0, y1], linewidth=0.5 + 6 * abs(relevance) / strongest, alpha=0.6, zorder=1,
                color=POSITIVE if relevance >= 0 else NEGATIVE, solid_capstyle="round",
            )
            axes.text(
                x0 + 0.2 + along * (x1 - x0 - 0.4), y0 + along * (y1 - y0), f"{relevance:.0%}", fontsize=9, zorder=3,
                ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    pictures = _node_pictures(graph, feature_visualization, reference_arguments)
    for node, (x, y) in place.items():
        box = axes.inset_axes([x - 0.19, y - 0.32, 0.38, 0.68], transform=axes.transData, zorder=2)
        box.set(xticks=[], yticks=[])
        if node in pictures:
            show_picture(box, pictures[node])
            box.set_xlabel(f"#{node[1]}", fontsize=9, labelpad=2)
        else:
            box.set_box_aspect(1)
            box.text(0.5, 0.5, f"#{node[1]}", ha="center", va="center", transform=box.transAxes)
        if node == graph.nodes[0]:
            box.spines[:].set(linewidth=2)
    axes.set(
        xlim=(-0.5, len(columns) - 0.5), ylim=(-tallest / 2, tallest / 2), yticks=[], xticks=range(len(columns)),
        xticklabels=[column[0][0] for column in columns],
    )
    axes.tick_params(bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    return figure


def _columns(graph) -> list[list[tuple[str, int]]]:
    """The nodes of each layer, from the layer farthest below the first node to the first node's."""
    depth = {graph.nodes[0][0]: 0}
    for _ in graph.connections:  # the longest way to a layer has no more steps than there are parents
        for (parent_layer, _), edges in graph.connections.items():
            for layer, _, _ in edges:
                depth[layer] = max(depth.get(layer, 0), depth.get(parent_layer, 0) + 1)
    columns: dict[str, list] = {}
    for node in graph.nodes:
        columns.setdefault(node[0], []).append(node)
    return [columns[layer] for layer in sorted(columns, key=lambda layer: -depth[layer])]


def _node_pictures(graph, feature_visualization, reference_arguments) -> dict:
    if feature_visualization is None:
        return {}
    pictures = {}
    by_layer: dict[str, list[int]] = {}
    for layer, concept in graph.nodes:
        by_layer.setdefault(layer, []).append(concept)
    for layer, concepts in by_layer.items():
        arguments = {"r_range": (0, 1), **reference_arguments}
        references = feature_visualization.get_max_reference(concepts, layer, **arguments)
        for concept, found in references.items():
            pictures[layer, concept] = (found[0] if isinstance(found, tuple) else found)[0]
    return pictures


def draw_audit(audit, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw the relevance that is left after each operation, from the output to the input.

    Parameters
    ----------
    audit : crp.audit.Audit
    figsize : tuple of float, optional
        In inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    operations, faults = audit.operations[::-1], {id(fault) for fault in audit.faults}
    left = 1 + np.cumsum([0., *(operation.imbalance - operation.sunk for operation in operations)])
    places = [i for i, operation in enumerate(operations, 1) if id(operation) in faults]
    figure = new_figure(figsize or (9, 3.6))
    axis = figure.subplots()
    axis.axhline(1, color="#999999", linewidth=0.8, linestyle="--", label="conserved")
    axis.step(range(len(left)), left, where="post", color="#222222", linewidth=1.2)
    axis.plot(places, left[places], "o", color=POSITIVE, label="creates or loses relevance")
    for place in sorted(places, key=lambda i: -abs(operations[i - 1].imbalance))[:8]:
        operation = operations[place - 1]
        axis.annotate(
            f"{operation.operation}\n{operation.module}", (place, left[place]), xytext=(-4, 4),
            textcoords="offset points", ha="right", va="bottom", fontsize=7,
        )
    if left.min() > 0 and left.max() > 10 * left.min():
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.set_ylim(min(0, left.min()) - 0.05, left.max() * 1.25)
    axis.set(xlabel="operations, from the output (left) to the input", ylabel="relevance that is left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="best")
    return figure
