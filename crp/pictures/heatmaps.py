"""Heatmaps as numbers: their scale, their smoothing, the part of them to show."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from scipy.ndimage import gaussian_filter


def max_norm(rel: torch.Tensor, stabilize: float = 1e-10) -> torch.Tensor:
    """Divide by the largest value, as zennit-crp does; a negative one turns all signs.

    Parameters
    ----------
    rel : torch.Tensor
    stabilize : float, default 1e-10
        Added to the largest value.
    """
    return rel / (rel.max() + stabilize)


def divide_by_maximum(rel: torch.Tensor) -> torch.Tensor:
    """Divide by the largest value, if that is positive."""
    largest = rel.max()
    return rel / torch.where(largest > 0, largest, torch.ones_like(largest))


def get_crop_range(heatmap: torch.Tensor, crop_th: float) -> tuple[int, int, int, int]:
    """The smallest rectangle with everything above a threshold.

    Parameters
    ----------
    heatmap : torch.Tensor
        [H, W]
    crop_th : float

    Returns
    -------
    row1, row2, col1, col2 : int
        ``heatmap[row1:row2, col1:col2]`` is the rectangle; the whole heatmap if nothing lies above the threshold.
    """
    rows, columns = torch.where(heatmap > crop_th)
    if len(rows) == 0:
        return 0, heatmap.shape[0], 0, heatmap.shape[1]
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


def smooth(heatmap: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Absolute heatmap [H, W], blurred by a Gaussian of this odd width in pixels and divided by its maximum."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is an odd number of pixels, not {kernel_size}")
    sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8
    blurred = gaussian_filter(
        heatmap.detach().abs().cpu().float().numpy(), sigma, mode="mirror", radius=kernel_size // 2
    )
    return divide_by_maximum(torch.from_numpy(blurred)).to(heatmap.device)


def check_threshold(name: str, value: float) -> None:
    """Raise a ValueError for what is no share of the largest relevance that something can exceed."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a share of the largest relevance, from 0 to below 1, not {value}")


def scale_limits(heatmaps: Iterable[torch.Tensor], common_scale: bool) -> list[float]:
    """Value of the strongest colour of each heatmap: its largest absolute value, or with a common scale that of all.

    It is 1 where there is no relevance; NaN and infinity do not count.
    """
    limits = [float(heatmap.nan_to_num(0, 0, 0).abs().max()) if heatmap.numel() else 0. for heatmap in heatmaps]
    if common_scale and limits:
        limits = [max(limits)] * len(limits)
    return [limit or 1. for limit in limits]


def in_pairs(data_batch: torch.Tensor, heatmaps: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Samples [C, ...] and their heatmaps [...].

    Raises
    ------
    ValueError
        If they differ in number or size.
    """
    if len(data_batch) != len(heatmaps):
        raise ValueError(f"there are {len(data_batch)} samples and {len(heatmaps)} heatmaps")
    for sample, heatmap in zip(data_batch, heatmaps):
        if sample.shape[-heatmap.ndim:] != heatmap.shape:
            raise ValueError(f"sample {tuple(sample.shape)} and heatmap {tuple(heatmap.shape)} differ in size")
        yield sample, heatmap
