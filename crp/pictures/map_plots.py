"""Figures of maps: topographic maps, response maps and projections."""
from __future__ import annotations

from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from crp.pictures.plotting import new_figure

_PLACE = "#606060"
RESPONSE = "mean response\n(0 lowest, 1 highest seen in fit)"


def draw_maps(
    pictures: np.ndarray, places: np.ndarray, names: list[str], limit: float, labels: tuple[str, str], arrange: str,
    figsize: tuple[float, float] | None,
) -> Figure | list[Figure]:
    """Draw pictures [G, H, W] whose first axis points upwards, in a row, in a grid, or each in a figure.

    ``places`` [C, 2] are those of the channels, from 0 to 1. ``labels`` are of the figure and of the colour bar.
    """
    if arrange == "single":
        return [
            _draw_panels(pictures[i:i + 1], places, names[i:i + 1], limit, labels, 1, figsize)
            for i in range(len(pictures))
        ]
    columns = len(pictures) if arrange == "row" else int(np.ceil(np.sqrt(len(pictures))))
    return _draw_panels(pictures, places, names, limit, labels, columns, figsize)


def _draw_panels(
    pictures: np.ndarray, places: np.ndarray, names: list[str], limit: float, labels: tuple[str, str], columns: int,
    figsize: tuple[float, float] | None,
) -> Figure:
    rows = int(np.ceil(len(pictures) / columns))
    figure = new_figure(figsize or (1.5 * columns + 0.7, 1.7 * rows + 0.3))
    axes = figure.subplots(rows, columns, squeeze=False)
    limit = limit or 1.
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, name in zip(axes.flat, pictures, names):
        drawn = axis.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", interpolation="bilinear")
        axis.plot(*(places.T * (np.array(picture.shape)[::-1, None] - 1)), ".", color=_PLACE, markersize=2)
        axis.set_title(fill(name, 20), fontsize=9)
    title, meaning = labels
    figure.suptitle(fill(title, max(20, int(18 * columns))), fontsize=9)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=20)
    bar.set_label(meaning, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def draw_response(picture: np.ndarray, title: str, cmap: str, size: tuple[float, float]) -> Figure:
    """Draw a picture [H, W] of values from 0 to 1, NaN where there are none, with a colour bar instead of axes."""
    figure = new_figure(size)
    axis = figure.subplots()
    drawn = axis.imshow(picture, cmap=cmap, vmin=0, vmax=1, origin="lower")
    axis.set_title(fill(title, max(20, int(10 * size[0]))), fontsize=9)
    axis.set_axis_off()
    bar = figure.colorbar(drawn, ax=axis, location="bottom", shrink=0.8, aspect=30)
    bar.set_label(RESPONSE, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def draw_points(points: np.ndarray, labels: np.ndarray | None, figsize: tuple[float, float] | None) -> Figure:
    """Draw points [N, 2], coloured by labels [N]."""
    figure = new_figure(figsize or (5, 4.2))
    axis = figure.subplots()
    x, y = points.T
    size = float(np.clip(2000 / len(points), 4, 30))
    if labels is not None and labels.dtype.kind == "f":
        drawn = axis.scatter(x, y, c=labels, s=size, cmap="viridis", linewidths=0)
        figure.colorbar(drawn, ax=axis)
    elif labels is not None:
        names, codes = np.unique(labels, return_inverse=True)
        palette = "tab10" if len(names) <= 10 else "tab20" if len(names) <= 20 else "turbo"
        drawn = axis.scatter(x, y, c=codes, s=size, cmap=palette, linewidths=0)
        handles, _ = drawn.legend_elements(num=None)  # type: ignore[arg-type]  # documented, for all; not in its types
        axis.legend(handles, names, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5),
                    ncols=1 + len(names) // 21)
    else:
        axis.scatter(x, y, s=size, color="#3050b0", linewidths=0)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("#cccccc")
    return figure
