"""Figures that notebooks show once, on a ground that can be read."""
from __future__ import annotations

from typing import Literal

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from PIL import Image

from crp.pictures.squares import unpadded

POSITIVE, NEGATIVE = "#c03028", "#3050b0"
_FRAME = "#a0a0a0"


class NotebookFigure(Figure):
    """A pyplot figure that a notebook shows once, whether or not it is the value of a cell."""

    def _ipython_display_(self) -> None:
        if "inline" not in plt.get_backend():
            raise NotImplementedError  # tells IPython to print the figure as it prints any object
        from IPython.core.pylabtools import print_figure
        from IPython.display import display

        display({"image/png": print_figure(self, base64=True)}, raw=True)
        plt.close(self)  # at the end of the cell the backend shows what is still open


def new_figure(figsize: tuple[float, float], layout: Literal["compressed", "none"] = "compressed") -> Figure:
    """An empty :class:`NotebookFigure`; ``figsize`` in inches.

    Its ground is that of the user's style, unless that is transparent: then it is one on which the style's letters can
    be read, whatever lies behind.
    """
    ground = plt.rcParams["figure.facecolor"]
    if to_rgba(ground)[3] < 1:
        ground = ink_on(plt.rcParams["text.color"])
    return plt.figure(FigureClass=NotebookFigure, figsize=figsize, layout=layout, facecolor=ground)


def ink_on(colour: ColorType) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def show_picture(axis: Axes, picture: Image.Image) -> None:
    """Put a PIL image into axes: pixels unsmoothed in a thin frame, or smoothed without, if it has letters."""
    has_letters = "dpi" in picture.info
    pixels = np.asarray(unpadded(picture).convert("RGB"))
    axis.imshow(pixels, interpolation="hanning" if has_letters else "nearest")
    axis.set(xticks=[], yticks=[], facecolor="none")
    axis.spines[:].set(visible=not has_letters, color=_FRAME, linewidth=0.6)
