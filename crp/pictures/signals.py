"""Pictures of signals with their heatmaps."""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from crp.pictures.heatmaps import check_threshold, divide_by_maximum, get_crop_range, in_pairs, scale_limits
from crp.pictures.small_figures import draw_small, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

_COLUMNS = 300  # about as many as such a picture has pixels


def vis_signal(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, crop_th: float = 0.1, *,
    common_scale: bool = False,
) -> list[Image.Image]:
    """Draw signals with their relevance: red for positive, blue for negative.

    Signals of up to 600 values are lines over the colours. Of longer ones a picture has too few pixels: it shows the
    range of values of each stretch, in the colour of its mean relevance, and grey where there is none.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, T], or [N, C, T]; each channel is a line.
    heatmaps : torch.Tensor
        [N, T]
    rf : bool, default False
        Crop to where the absolute relevance exceeds ``crop_th`` of its maximum.
    crop_th : float, default 0.1
    common_scale : bool, default False
        Give colours one meaning in all pictures, instead of the strongest to the strongest relevance of each.

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    ValueError
        If data and heatmaps have other axes, or ``crop_th`` is not from 0 to below 1.
    """
    check_threshold("crop_th", crop_th)
    check_signals(data_batch, heatmaps)
    stretches = [_Stretches(*pair, crop_th if rf else None) for pair in in_pairs(data_batch, heatmaps)]
    limits = scale_limits([torch.from_numpy(part.relevance) for part in stretches], common_scale)
    return [draw_small(_draw, part, limit) for part, limit in zip(stretches, limits)]


def check_signals(data_batch: Iterable[torch.Tensor], heatmaps: Iterable[torch.Tensor]) -> None:
    """Raise a ValueError for what is no signal [T] or [C, T] with a heatmap [T]."""
    for signal in data_batch:
        if signal.ndim not in (1, 2):
            raise ValueError(f"signals are [N, T] or [N, C, T]: one of them is {tuple(signal.shape)}")
    for heatmap in heatmaps:
        if heatmap.ndim == 0:
            raise ValueError("heatmaps of signals are [N, T], not [N]: keep the axis of time with "
                             "CondAttribution(model, heatmap_axis=None)")
        if heatmap.ndim > 1:
            raise ValueError(f"heatmaps of signals are [N, T]; one of them is {tuple(heatmap.shape)}: sum over the "
                             "channels")


class _Stretches:
    """A signal and its relevance, value by value, or, where there are too many, stretch by stretch.

    Attributes
    ----------
    edges : numpy.ndarray
        [S + 1] where stretches begin and end.
    low, high : numpy.ndarray
        [C, S] the range of values.
    relevance : numpy.ndarray
        [S] mean over each stretch.
    """

    def __init__(self, signal: torch.Tensor, heatmap: torch.Tensor, crop_th: float | None):
        first, stop = 0, len(heatmap)
        if crop_th is not None:
            _, _, first, stop = get_crop_range(divide_by_maximum(heatmap.abs())[None], crop_th)
        values, relevance = plain(torch.atleast_2d(signal)[:, first:stop]).numpy(), plain(heatmap[first:stop]).numpy()
        self.is_dense = len(relevance) > 2 * _COLUMNS
        starts = np.linspace(0, len(relevance), (_COLUMNS if self.is_dense else len(relevance)) + 1).astype(int)
        self.edges = first + starts
        self.low = np.minimum.reduceat(values, starts[:-1], axis=1)
        self.high = np.maximum.reduceat(values, starts[:-1], axis=1)
        self.relevance = np.add.reduceat(relevance, starts[:-1]) / np.diff(starts)


def _draw(axes: Axes, part: _Stretches, limit: float) -> None:
    low, high = float(part.low.min()), float(part.high.max())
    margin = 0.05 * (high - low) or 0.5
    extent = (part.edges[0] - 0.5, part.edges[-1] - 0.5, low - margin, high + margin)
    colours: dict[str, Any] = {
        "vmin": -limit, "vmax": limit, "aspect": "auto", "extent": extent, "interpolation": "nearest",
    }
    axes.imshow(part.relevance[None], cmap="bwr", alpha=0.3 if part.is_dense else 0.6, **colours)
    if not part.is_dense:
        axes.plot(part.edges[:-1], part.low.T, color="black", linewidth=1)
    else:
        middles = (part.edges[:-1] + part.edges[1:] - 1) / 2
        for lowest, highest in zip(part.low, part.high):
            band = axes.fill_between(middles, lowest, highest, facecolor="none", edgecolor="black", linewidth=0.4)
            image = axes.imshow(part.relevance[None], cmap=_on_grey(), **colours)
            image.set_clip_path(band.get_paths()[0], axes.transData)
    axes.axis(extent)


def _on_grey() -> Colormap:
    """From blue over grey to red: no relevance can be seen on white."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("relevance", ["blue", "#b4b4b4", "red"])
