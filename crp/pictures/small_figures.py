"""Pictures that are small plots."""
from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image


def draw_small(draw: Callable[..., None], *arguments: Any, size: tuple[float, float] = (3, 1.5)) -> Image.Image:
    """A picture of what ``draw(axes, *arguments)`` draws, black on white whatever the style of the user's figures.

    Parameters
    ----------
    draw : callable
    *arguments
    size : (float, float), default (3, 1.5)
        Width and height in inches, of 120 pixels each.

    Returns
    -------
    PIL.Image.Image
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with style.context("default"):
        figure = Figure(figsize=size, dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(labelsize=6)
        draw(axes, *arguments)
        FigureCanvasAgg(figure).print_png(content, pil_kwargs={"compress_level": 1})
    return Image.open(content).convert("RGB")


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as numpy takes it: on the CPU, detached, of single precision."""
    return tensor.detach().cpu().float()
