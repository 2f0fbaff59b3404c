"""Figures that notebooks show once, and grids of pictures."""
from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

POSITIVE, NEGATIVE = "#c03028", "#3050b0"


class NotebookFigure(Figure):
    """A pyplot figure that a notebook shows once, whether or not it is the value of a cell."""

    def _ipython_display_(self) -> None:
        if "inline" not in plt.get_backend():
            raise NotImplementedError  # tells IPython to print the figure as it prints any object
        from IPython.core.pylabtools import print_figure
        from IPython.display import display

        display({"image/png": print_figure(self, base64=True)}, raw=True)
        plt.close(self)  # at the end of the cell the backend shows what is still open


def new_figure(figsize: tuple[float, float]) -> Figure:
    """An empty :class:`NotebookFigure` with a constrained layout; ``figsize`` in inches."""
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


def show_picture(axis: Axes, picture: Image.Image) -> None:
    """Put a PIL image into axes, its pixels unsmoothed."""
    axis.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
