"""Figures of rankings and of experiments with units."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crp.pictures.plotting import NEGATIVE, POSITIVE, new_figure


class Scored(Protocol):
    """A score with an interval."""

    @property
    def score(self) -> float: ...
    @property
    def lower(self) -> float: ...
    @property
    def upper(self) -> float: ...
    @property
    def chance(self) -> float: ...
    @property
    def metric(self) -> str: ...


def draw_ranking(
    names: Sequence[str], scores: np.ndarray, interval: np.ndarray | None, title: str,
    figsize: tuple[float, float] | None, label: str = "score",
) -> Figure:
    """Draw scores [k] as bars from top to bottom, with intervals [k, 2] as lines."""
    figure = new_figure(figsize or (5, 0.8 + 0.22 * max(len(names), 3)))
    axes = figure.subplots()
    place = np.arange(len(names))
    colours = np.where(scores < 0, NEGATIVE, POSITIVE)
    axes.barh(place, scores, color=colours, height=0.7)
    if interval is not None:
        axes.hlines(place, interval[:, 0], interval[:, 1], color="black", linewidth=1, label="95 % interval")
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_yticks(place, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label, fontsize=8)
    axes.set_ylabel("unit", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=9)
    return figure


def draw_match(
    correlations: Sequence[np.ndarray], names: Sequence[str], threshold: float, title: str,
    figsize: tuple[float, float] | None,
) -> Figure:
    """Draw, for units of two models, how many have a partner of at least each absolute correlation."""
    figure = new_figure(figsize or (4.5, 3))
    axes = figure.subplots()
    for found, name, colour in zip(correlations, names, (POSITIVE, NEGATIVE)):
        axes.plot(np.sort(found)[::-1], np.arange(1, len(found) + 1) / len(found), color=colour, label=name)
    axes.axvline(threshold, color="gray", linewidth=1, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_xlabel("absolute correlation with the best partner, at least", fontsize=8)
    axes.set_ylabel("share of the units", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, title="units of", title_fontsize=8)
    axes.set_title(title, fontsize=9)
    return figure


def draw_report(
    counts: Sequence[int], lines: Mapping[str, Sequence[Scored]], everything: Scored, control: Scored,
    figsize: tuple[float, float] | None,
) -> Figure:
    """Draw scores of probes by number of units, with intervals, and as level lines that of all units and controls."""
    figure = new_figure(figsize or (5, 3.2))
    axes = figure.subplots()
    for (name, found), colour in zip(lines.items(), (POSITIVE, "gray", NEGATIVE)):
        axes.plot(counts, [held.score for held in found], "o-", color=colour, label=name, markersize=4)
        axes.fill_between(
            counts, [held.lower for held in found], [held.upper for held in found], color=colour, alpha=.15, linewidth=0
        )
    for held, name, style in ((everything, "all units", "-"), (control, "all units, random labels", "--")):
        axes.axhline(held.score, color="black", linewidth=1, linestyle=style, label=name)
    axes.axhline(everything.chance, color="black", linewidth=1, linestyle=":", label="chance")
    axes.set_xlabel("number of units", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{everything.metric}, held out", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, .5))
    axes.set_title("probes on the first, random and last units", fontsize=9)
    return figure


def draw_curves(
    fractions: np.ndarray, curves: Mapping[str, Mapping[tuple[str, bool], np.ndarray]],
    random: Mapping[str, np.ndarray], metric: str, figsize: tuple[float, float] | None,
) -> Figure:
    """Draw scores by the share of units that are taken away, a panel for each way; (name, most first) -> scores [S].

    Random orders [R, S] are a band from the lowest to the highest, with their mean.
    """
    figure = new_figure(figsize or (3.1 * len(curves) + 1.6, 3))
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True)[0]
    for axes, (way, of_way) in zip(panels, curves.items()):
        if len(random[way]):
            axes.plot(fractions, random[way].mean(0), color="gray", linewidth=1, label="random orders: mean")
            axes.fill_between(
                fractions, random[way].min(0), random[way].max(0), color="gray", alpha=.2, linewidth=0,
                label=f"range of {len(random[way])} random orders",
            )
        names = list(dict.fromkeys(name for name, _ in of_way))
        for (name, most_first), scores in of_way.items():
            colour = f"C{names.index(name)}" if len(names) > 1 else POSITIVE if most_first else NEGATIVE
            label = f"{name}, {'most' if most_first else 'least'} first"
            axes.plot(fractions, scores, "-" if most_first else "--", color=colour, label=label, linewidth=1.5)
        axes.set_title("set to zero" if way == "zero" else "set to the mean" if way == "mean" else "of other samples",
                       fontsize=9)
        axes.set_xlabel("share of units taken away", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(metric, fontsize=8)
    panels[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, .5))
    return figure
