"""Pictures of videos with their heatmaps."""
from __future__ import annotations

import torch
from PIL import Image, ImageDraw

from crp.pictures.heatmaps import check_threshold, divide_by_maximum, get_crop_range, in_pairs, scale_limits
from crp.pictures.image import imgify

_HEADER, _LEAST_HEIGHT = 12, 64  # pixels: of the number of a frame, and about those of a frame


def vis_frames(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, crop_th: float = 0.1, *, frames: int = 4,
    common_scale: bool = False,
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Show videos as strips of frames, and strips of their heatmaps; the heatmaps of a video share one scale.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, C, T, H, W], 1 or 3 channels.
    heatmaps : torch.Tensor
        [N, T, H, W]
    rf : bool, default False
        Choose among the frames from the first to the last with relevance above ``crop_th`` of the strongest.
    crop_th : float, default 0.1
    frames : int, default 4
        How many are shown, evenly spread from the first to the last; the number of each stands above it.
    common_scale : bool, default False
        Give colours one meaning in all videos, instead of the strongest to the strongest relevance of each.

    Returns
    -------
    videos, heatmaps : list of PIL.Image.Image

    Raises
    ------
    ValueError
        If videos and heatmaps differ in number or size, there are not 1 or 3 channels, ``crop_th`` is not from 0 to
        below 1, or ``frames`` is below 1.
    """
    check_threshold("crop_th", crop_th)
    if frames < 1:
        raise ValueError(f"frames is a number of frames, at least 1, not {frames}")
    videos, maps = [], []
    pairs = list(in_pairs(data_batch, heatmaps))
    for (video, heatmap), limit in zip(pairs, scale_limits(heatmaps, common_scale)):
        if video.ndim != 4 or heatmap.ndim != 3:
            raise ValueError(f"videos are [N, C, T, H, W] and heatmaps [N, T, H, W]: one video is {tuple(video.shape)} "
                             f"with a heatmap {tuple(heatmap.shape)}")
        numbers = _chosen(heatmap, frames, crop_th if rf else None)
        low, high = (None, None) if video.dtype == torch.uint8 else (float(video.min()), float(video.max()))
        shown = [imgify(video[:, i], cmap="gray", vmin=low, vmax=high) for i in numbers]
        videos.append(_strip(shown, numbers))
        maps.append(_strip([imgify(heatmap[i], vmin=-limit, vmax=limit, symmetric=True) for i in numbers], numbers))
    return videos, maps


def _chosen(heatmap: torch.Tensor, count: int, crop_th: float | None) -> list[int]:
    """Numbers of frames, evenly spread over a video or its relevant part."""
    first, stop = 0, len(heatmap)
    if crop_th is not None:
        _, _, first, stop = get_crop_range(divide_by_maximum(heatmap.abs().amax((1, 2)))[None], crop_th)
    return torch.linspace(first, stop - 1, min(count, stop - first)).round().int().tolist()


def _strip(pictures: list[Image.Image], numbers: list[int]) -> Image.Image:
    """Pictures of frames side by side, under their numbers; small ones enlarged."""
    width, height, gap = pictures[0].width, pictures[0].height, 2
    factor = max(1, round(_LEAST_HEIGHT / height))
    width, height = factor * width, factor * height
    strip = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + _HEADER), "white")
    draw = ImageDraw.Draw(strip)
    for place, (picture, number) in enumerate(zip(pictures, numbers)):
        frame = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        strip.paste(frame, (place * (width + gap), _HEADER))
        draw.text((place * (width + gap), 0), str(number), fill="black")
    return strip
