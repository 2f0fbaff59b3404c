"""Pictures of feature vectors with their heatmaps."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from crp.pictures.heatmaps import in_pairs, scale_limits
from crp.pictures.small_figures import draw_small, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 24


def vis_features(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, *, feature_names: Sequence[str] | None = None,
    most: int = 12, common_scale: bool = False,
) -> list[Image.Image]:
    """Draw the relevance of features as bars, red for positive and blue for negative, with names and values.

    Heatmaps have the axis of features, as of ``CondAttribution(model, heatmap_axis=None)``. Take a composite whose
    rule for the first layer tells features apart: the Flat rule, as in ``EpsilonPlusFlat``, gives all of them the same.

    Parameters
    ----------
    data_batch, heatmaps : torch.Tensor
        [N, F]
    rf : bool
        Has no meaning here.
    feature_names : sequence of str, optional
        [F]; by default x0, x1 and so on. Long ones are shortened.
    most : int, default 12
        Of more features, only those with the strongest relevance have a bar each, the strongest first; of the
        others there are the number and the sum.
    common_scale : bool, default False
        Draw bars of all pictures to one scale, instead of each picture to its own.

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    ValueError
        If data and heatmaps are not [N, F] both, there is not one name for each feature, or ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"most is a number of features, at least 1, not {most}")
    bars = []
    for features, relevance in in_pairs(data_batch, _kept(heatmaps)):
        if features.ndim != 1:
            raise ValueError(f"features are [N, F]: one of them is {tuple(features.shape)}")
        names = [f"x{i}" for i in range(len(features))] if feature_names is None else list(feature_names)
        if len(names) != len(features):
            raise ValueError(f"there are {len(names)} feature_names and {len(features)} features")
        bars.append(_Bars(plain(features), plain(relevance), names, most))
    limits = scale_limits([part.relevance for part in bars], common_scale)
    height = 0.35 + 0.14 * max((len(part.labels) + bool(part.others) for part in bars), default=0)
    return [draw_small(_draw, part, limit, size=(3, height)) for part, limit in zip(bars, limits)]


def _kept(heatmaps: torch.Tensor) -> torch.Tensor:
    if any(heatmap.ndim == 0 for heatmap in heatmaps):
        raise ValueError("heatmaps of features are [N, F], not [N]: keep the axis of features with "
                         "CondAttribution(model, heatmap_axis=None)")
    return heatmaps


class _Bars:
    """What is written beside bars, the relevance that they show, and the sum of that of all other features."""

    def __init__(self, features: torch.Tensor, relevance: torch.Tensor, names: list[str], most: int):
        shown = torch.arange(len(features))
        if len(shown) > most:
            shown = relevance.abs().argsort(descending=True, stable=True)[:most]
        self.labels = [f"{_shortened(names[i])} = {float(features[i]):.3g}" for i in shown.tolist()]
        self.relevance, self.others = relevance[shown], len(features) - len(shown)
        self.sum_of_others = float(relevance.sum() - self.relevance.sum())


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME - 1] + "…"


def _draw(axes: Axes, bars: _Bars, limit: float) -> None:
    places, labels = range(len(bars.labels)), bars.labels
    axes.barh(places, bars.relevance.numpy(), color=["red" if value > 0 else "blue" for value in bars.relevance])
    if bars.others:
        places, labels = range(len(places) + 1), [*labels, f"{bars.others} others"]
        axes.text(0, places[-1], f" {bars.sum_of_others:+.3g} together", fontsize=6, va="center")
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set(xlim=(-1.05 * limit, 1.05 * limit), ylim=(len(labels) - 0.4, -0.6))
    axes.set_yticks(places, labels)
    axes.locator_params(axis="x", nbins=5)
