"""Figures of reports on trust."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crp.pictures.plotting import NEGATIVE, POSITIVE, new_figure

_MARKS = {True: "holds", False: "does not hold", None: ""}


def draw_trust(
    layer: str, checks: Sequence[tuple[str, bool | None, float]], curves: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray], figsize: tuple[float, float] | None,
) -> Figure:
    """Draw three panels: what holds of a layer; answers as concepts go and return; share and effect of each concept."""
    figure = new_figure(figsize or (11, 3.2))
    verdicts, answers, concepts = figure.subplots(1, 3, width_ratios=(1, 1.3, 1.3))
    _draw_checks(verdicts, checks)
    _draw_answers(answers, curves)
    _draw_concepts(concepts, columns)
    for axes in (verdicts, answers, concepts):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Can {layer} be trusted?", fontsize=10)
    return figure


def _draw_checks(axes: Axes, checks: Sequence[tuple[str, bool | None, float]]) -> None:
    place = np.arange(len(checks))
    scores = np.nan_to_num([score for _, _, score in checks])
    colours = [{True: NEGATIVE, False: POSITIVE, None: "gray"}[holds] for _, holds, _ in checks]
    axes.barh(place, scores, color=colours, height=.6)
    for y, (_, holds, score) in enumerate(checks):
        words = "not measured" if np.isnan(score) else f"{score:.2f} {_MARKS[holds]}"
        inside = not np.isnan(score) and score > .55
        axes.text(.03 if inside else np.nan_to_num(score) + .03, y, words, fontsize=8, va="center",
                  color="white" if inside else None)
    axes.set_yticks(place, [name for name, _, _ in checks], fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05))
    axes.set_xlabel("score, from 0 to 1", fontsize=8)
    axes.set_title("the layer", fontsize=9)


def _draw_answers(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    fractions, random = curves["fraction"], curves["random"]
    if len(random):
        axes.fill_between(fractions, random.min(0), random.max(0), color="gray", alpha=.25, linewidth=0,
                          label="removed at random")
    for order, colour in (("relevance", POSITIVE), ("activation", "gray")):
        axes.plot(fractions, curves[f"removed_{order}"], color=colour, label=f"removed, by {order}")
        axes.plot(fractions, curves[f"inserted_{order}"], "--", color=colour, label=f"inserted, by {order}")
    axes.set_xlabel("share of the concepts that are gone, or back", fontsize=8)
    axes.set_ylabel("answer, in units of what all concepts change", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.set_title("answers as concepts go and return", fontsize=9)


def _draw_concepts(axes: Axes, columns: Mapping[str, np.ndarray]) -> None:
    share, effect = 100 * columns["share"], columns["effect"]
    known = ~np.isnan(effect)
    axes.axhline(0, color="gray", linewidth=.8)
    axes.vlines(share[known], columns["effect_lower"][known], columns["effect_upper"][known], color=NEGATIVE,
                linewidth=.8)
    axes.plot(share[known], columns["effect_control"][known], ".", color="gray", markersize=4,
              label="another concept instead")
    axes.plot(share[known], effect[known], "o", color=NEGATIVE, markersize=4, label="the concept")
    for i in np.flatnonzero(known)[np.argsort(-share[known], kind="stable")[:5]]:
        axes.annotate(str(int(columns["concept"][i])), (share[i], effect[i]), fontsize=7, xytext=(3, 3),
                      textcoords="offset points")
    axes.set_xlabel("share of the relevance in %", fontsize=8)
    axes.set_ylabel("fall of the answer without it", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    axes.set_title("single concepts", fontsize=9)
