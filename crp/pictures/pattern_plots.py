"""Figures of patterns: counts per class, boxes per unit, and exemplary images."""
from __future__ import annotations

from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from crp.pictures.image import imgify, plot_grid
from crp.pictures.kinds import vis_inputs
from crp.pictures.plotting import ink_on, new_figure, show_picture

COLOUR, BEHIND = "#3050b0", "#bbbbbb"


def draw_counts(
    classes: np.ndarray, counts: np.ndarray, title: str, figsize: tuple[float, float] | None = None
) -> Figure:
    """Draw counts [P, K] of classes [K] as squares whose area grows with them."""
    _need(len(counts), "there are no patterns to draw")
    figure = new_figure(figsize or (1.8 + 0.42 * len(classes), 1.1 + 0.42 * len(counts)))
    axis = figure.subplots()
    for pattern, column in zip(*np.nonzero(counts)):
        side = 0.9 * np.sqrt(counts[pattern, column] / counts.max())
        axis.add_patch(_square(column, pattern, side))
        text = axis.text(column, pattern, str(counts[pattern, column]), ha="center", va="center", fontsize=7)
        if side > 0.6:
            text.set_color(ink_on(COLOUR))
        else:  # wider than its square
            text.set(position=(column, pattern + 0.02 + side / 2), va="top", fontsize=6)
    axis.set(
        xlim=(-0.6, len(classes) - 0.4), ylim=(len(counts) - 0.4, -0.6), aspect="equal", xlabel="class",
        ylabel="pattern", xticks=range(len(classes)), yticks=range(len(counts)), yticklabels=range(len(counts)),
    )
    longest = max(len(str(name)) for name in classes)
    axis.set_xticklabels([str(name) for name in classes], rotation=90 if longest > 3 else 0)
    axis.set_title(fill(title, max(24, 6 * len(classes))), fontsize=9)
    _plain(axis)
    return figure


def draw_units(
    own: Any, everything: Any, units: np.ndarray, label: str, names: tuple[str, str],
    figsize: tuple[float, float] | None,
) -> Figure:
    """Draw a box per unit from two ``UnitStatistics``: in front those of a pattern, behind them those of all rows."""
    _need(len(units), "there are no units to draw")
    figure = new_figure(figsize or (1.5 + 0.38 * len(units), 3.2))
    axis, ink = figure.subplots(), plt.rcParams["text.color"]
    for statistics, width, colour, order in ((everything, 0.75, BEHIND, 1), (own, 0.4, COLOUR, 2)):
        boxes = [
            {"med": statistics.median[i], "q1": statistics.q1[i], "q3": statistics.q3[i], "whislo": statistics.lower[i],
             "whishi": statistics.upper[i], "mean": statistics.mean[i]} for i in units
        ]
        axis.bxp(
            boxes, positions=range(len(units)), widths=width, showfliers=False, showmeans=True, patch_artist=True,
            zorder=order, boxprops={"facecolor": colour, "edgecolor": "none", "alpha": 0.9},
            medianprops={"color": "white"}, whiskerprops={"color": colour}, capprops={"color": colour},
            meanprops={"marker": "o", "markersize": 3, "markerfacecolor": ink, "markeredgecolor": "none"},
        )
    axis.plot([], [], "s", color=COLOUR, label=label)
    axis.plot([], [], "s", color=BEHIND, label="all rows")
    axis.plot([], [], "o", color=ink, markersize=3, label="mean")
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    axis.set(xticks=range(len(units)), xticklabels=units, xlabel=names[0], ylabel=names[1])
    _plain(axis)
    return figure


def draw_exemplars(
    rows: list[tuple[int, int, Any, list, list]], title: str, figsize: tuple[float, float] | None = None
) -> Figure:
    """Draw a line per pattern, given by number and size: its average, its most stable and its least stable images.

    Where there are no averages, samples are no images, and have a batch axis; then there are two lines for each.
    """
    _need(len(rows), "there are no patterns to draw")
    if rows[0][2] is None:
        return _draw_kinds(rows, title, figsize)
    columns = max(len(stable) for *_, stable, _ in rows)
    figure = new_figure(figsize or (1.1 + 0.75 * (2 * columns + 1), 0.7 + 0.78 * len(rows)))
    gap = 0.35
    axes = figure.subplots(
        len(rows), 2 * columns + 3, squeeze=False,
        width_ratios=[1, gap, *[1] * columns, gap, *[1] * columns],
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (pattern, size, average, stable, unstable) in zip(axes, rows):
        places = [0, *range(2, 2 + len(stable)), *range(2 * columns + 3 - len(unstable), 2 * columns + 3)]
        for place, image in zip(places, [average, *stable, *unstable]):
            line[place].set_axis_on()
            show_picture(line[place], imgify(image, cmap="gray"))
        label = f"pattern {pattern}\n{size} rows"
        line[0].text(-0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    for place, head in ((0, "average"), (2, "most stable"), (columns + 3, "least stable")):
        axes[0][place].set_title(head, fontsize=9, loc="left")
    figure.suptitle(title, fontsize=9)
    return figure


def _draw_kinds(
    rows: list[tuple[int, int, Any, list, list]], title: str, figsize: tuple[float, float] | None
) -> Figure:
    lines = {
        f"{pattern} {kind}": [picture for sample in samples for picture in vis_inputs(sample)]
        for pattern, _, _, *both in rows for kind, samples in zip(("most stable", "least stable"), both)
    }
    columns = max(map(len, lines.values()))
    width = max(picture.width / picture.info.get("dpi", (100,))[0] for line in lines.values() for picture in line)
    return plot_grid(lines, figsize=figsize or (1.5 + width * columns, np.inf), title=title)


def _square(x: float, y: float, side: float) -> Rectangle:
    return Rectangle((x - side / 2, y - side / 2), side, side, color=COLOUR)


def _plain(axis: Axes) -> None:
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=8)


def _need(count: int, message: str) -> None:
    if count == 0:
        raise ValueError(message)
