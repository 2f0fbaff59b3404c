"""Figures of audits."""
from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from crp.pictures.plotting import POSITIVE, new_figure


def draw_audit(audit: Any, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw the relevance that is left after each operation, from the output to the input.

    Parameters
    ----------
    audit : crp.attribution.Audit
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
    kept = np.cumsum([0., *(operation.sunk for operation in operations)])
    if np.abs(kept).max() > 0.01:
        axis.fill_between(
            range(len(left)), left, left + kept, step="post", color="#dddddd", zorder=0,
            label="in biases and other sinks",
        )
    if places:
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
