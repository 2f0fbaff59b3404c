"""Pictures of signals and feature vectors with their heatmaps."""
from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from crp.pictures.heatmaps import check_threshold, divide_by_maximum, get_crop_range, in_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def vis_signal(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, crop_th: float = 0.1
) -> list[Image.Image]:
    """Draw signals as lines over their relevance: red for positive, blue for negative.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, C, T]; each channel is a line.
    heatmaps : torch.Tensor
        [N, T]
    rf : bool, default False
        Crop to where the absolute relevance exceeds ``crop_th`` of its maximum.
    crop_th : float, default 0.1

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    ValueError
        If heatmaps are not [N, T], or ``crop_th`` is not from 0 to below 1.
    """
    check_threshold("crop_th", crop_th)
    if heatmaps.ndim != 2:
        raise ValueError(f"heatmaps of signals are [N, T], not {tuple(heatmaps.shape)}: sum over the channels")

    def draw(axes: Axes, signal: torch.Tensor, relevance: torch.Tensor) -> None:
        first, stop = 0, len(relevance)
        if rf:
            _, _, first, stop = get_crop_range(divide_by_maximum(relevance.abs())[None], crop_th)
        limit = float(relevance.abs().max()) or 1
        times = np.arange(first, stop)
        axes.imshow(
            relevance[None, first:stop].numpy(), cmap="bwr", vmin=-limit, vmax=limit, aspect="auto",
            extent=(first - 0.5, stop - 0.5, 0, 1), transform=axes.get_xaxis_transform(), alpha=0.6,
        )
        axes.plot(times, signal[:, first:stop].T.numpy(), color="black", linewidth=1)
        axes.set_xlim(first - 0.5, stop - 0.5)

    return [_draw_small(draw, *pair) for pair in in_pairs(_plain(data_batch), _plain(heatmaps))]


def vis_features(data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False) -> list[Image.Image]:
    """Draw feature vectors as bars, coloured by their relevance: red for positive, blue for negative.

    The attribution must keep the feature axis: ``CondAttribution(model, heatmap_axis=None)``. Take a composite whose
    rule for the first layer tells features apart: the Flat rule, as in ``EpsilonPlusFlat``, gives all of them the same.

    Parameters
    ----------
    data_batch, heatmaps : torch.Tensor
        [N, F]
    rf : bool
        Has no meaning here.

    Returns
    -------
    list of PIL.Image.Image
    """
    if heatmaps.shape != data_batch.shape:
        raise ValueError(
            f"features {tuple(data_batch.shape)} and heatmaps {tuple(heatmaps.shape)} differ in shape: "
            "keep the feature axis with CondAttribution(model, heatmap_axis=None)"
        )

    def draw(axes: Axes, features: torch.Tensor, relevance: torch.Tensor) -> None:
        from matplotlib import colormaps

        limit = float(relevance.abs().max()) or 1
        axes.bar(
            np.arange(len(features)), features.numpy(), color=colormaps["bwr"](relevance.numpy() / limit / 2 + 0.5),
            edgecolor="black", linewidth=0.4,
        )
        axes.axhline(0, color="black", linewidth=0.6)

    return [_draw_small(draw, *pair) for pair in zip(_plain(data_batch), _plain(heatmaps))]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().float()


def _draw_small(draw: Callable[..., None], *arguments: torch.Tensor) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1.5), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=5)
    draw(axes, *arguments)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, pil_kwargs={"compress_level": 1})
    return Image.open(content).convert("RGB")
