"""Heatmaps as numbers: their scale, their smoothing, the part of them to show."""
from __future__ import annotations

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
    """Absolute heatmap [H, W], blurred by a Gaussian of this width in pixels and divided by its maximum."""
    sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8
    blurred = gaussian_filter(
        heatmap.detach().abs().cpu().float().numpy(), sigma, mode="mirror", radius=kernel_size // 2
    )
    return divide_by_maximum(torch.from_numpy(blurred)).to(heatmap.device)
