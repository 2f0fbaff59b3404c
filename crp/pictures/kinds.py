"""Which picture suits which kind of input."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

from crp.pictures.features import vis_features
from crp.pictures.image import imgify, vis_img_heatmap
from crp.pictures.signals import vis_signal
from crp.pictures.video import vis_frames

_MOST_FEATURES, _MOST_CHANNELS = 64, 8
_SEVERAL_PARTS = "inputs of several parts have no picture: give a plot_fn, or plot_fn=None for the inputs themselves"


def suiting(plot_fn: Any) -> Any:
    """What to draw references with: the default of ``plot_fn`` stands for the picture that suits the kind of input."""
    return vis_by_kind if plot_fn is vis_img_heatmap else plot_fn


def vis_by_kind(data_batch: Any, heatmaps: Any, rf: bool = False, *, common_scale: bool = False) -> Any:
    """Show inputs and heatmaps as the kind of input asks for; what references look like without a ``plot_fn``.

    ===========================  ==========================================================
    a sample                     is shown by
    ===========================  ==========================================================
    [C, H, W], 1 or 3 channels   ``vis_img_heatmap``; also [H, W] with heatmaps [H, W]
    [C, T] with heatmap [T]      ``vis_signal``; also [T] of more than 64 values
    [F] of up to 64 values       ``vis_features``
    integers [T]                 ``vis_tokens``; also dicts with ``input_ids``
    [C, T, H, W]                 ``vis_frames``
    ===========================  ==========================================================

    Parameters
    ----------
    data_batch : torch.Tensor, list of such, or dict
        [N, ...]
    heatmaps : torch.Tensor, list of such, or dict
        [N, ...]
    rf : bool, default False
        As for the function that shows them.
    common_scale : bool, default False
        Give colours one meaning in all pictures.

    Returns
    -------
    list of PIL.Image.Image, or a tuple of such
        As from the function that shows them.

    Raises
    ------
    TypeError, ValueError
        If the inputs are of none of these kinds.
    """
    plot_fn = _plot_fn_of(data_batch, heatmaps)
    return plot_fn(data_batch, heatmaps, rf, common_scale=common_scale)


def is_image(sample: Any) -> bool:
    """Whether a sample without a batch axis, a tensor or array, is shown as an image."""
    axes = getattr(sample, "ndim", 0)
    return axes == 3 or axes == 2 and len(sample) > _MOST_CHANNELS


def vis_inputs(data_batch: Any) -> list[Image.Image]:
    """Pictures of inputs alone, of the kinds that :func:`vis_by_kind` knows; [C, T] is a signal of up to 8 channels.

    Parameters
    ----------
    data_batch : torch.Tensor, list of such, or dict
        [N, ...]

    Returns
    -------
    list of PIL.Image.Image

    Raises
    ------
    TypeError, ValueError
        If the inputs are of none of these kinds.
    """
    if isinstance(data_batch, Mapping):
        of_ids = {key: torch.zeros(ids.shape) if key == "input_ids" else None for key, ids in data_batch.items()}
        return _plot_fn_of(data_batch, of_ids)(data_batch, of_ids)
    pictures: list[Image.Image] = []
    for sample in data_batch:
        if not isinstance(sample, torch.Tensor):
            raise TypeError(_SEVERAL_PARTS)
        if is_image(sample):
            pictures.append(imgify(sample, cmap="gray", padding=True))
            continue
        nothing = torch.zeros(sample.shape[1:] if sample.ndim in (2, 4) else sample.shape)[None]
        found = _plot_fn_of(sample[None], nothing)(sample[None], nothing)
        pictures += found[0] if isinstance(found, tuple) else found
    return pictures


def _plot_fn_of(data: Any, heatmaps: Any) -> Callable:
    from crp.pictures.text import vis_tokens

    if isinstance(data, Mapping) and "input_ids" in data:
        return vis_tokens
    if isinstance(data, (Mapping, tuple)) or not all(isinstance(sample, torch.Tensor) for sample in data):
        raise TypeError(_SEVERAL_PARTS)
    sample = data[0]
    if sample.ndim == 1 and not sample.is_floating_point():
        return vis_tokens
    if sample.ndim == 1:
        return vis_features if len(sample) <= _MOST_FEATURES else vis_signal
    if sample.ndim == 2:
        return vis_img_heatmap if {heatmap.ndim for heatmap in heatmaps} == {2} else vis_signal
    if sample.ndim == 3 and {sample.shape[0], sample.shape[2]} & {1, 3}:
        return vis_img_heatmap
    if sample.ndim == 4:
        return vis_frames
    raise ValueError(
        f"there is no picture of inputs {tuple(sample.shape)}: give a plot_fn(inputs, heatmaps, rf), or "
        "plot_fn=None for the inputs and heatmaps themselves"
    )
