"""Grids of pictures, with labels and captions."""
from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from crp.pictures.plotting import new_figure, show_picture

# in inches
_GAP, _MARGIN, _LEAST_HEIGHT = 0.04, 0.06, 0.5
_LABEL_LETTER, _CAPTION_LETTER, _TITLE_LETTER, _CAPTION_LINE, _TITLE_LINE = 0.08, 0.06, 0.08, 0.115, 0.19
_LABEL_SIZE, _CAPTION_SIZE, _TITLE_SIZE = 9, 7, 9  # in points
_LABEL_LETTERS, _LABEL_LINES = 16, 4


@dataclass(frozen=True)
class GridRow:
    """A row of a grid.

    Attributes
    ----------
    label : str
        Stands beside it.
    parts : list of list of PIL.Image.Image
        Each part is a line of pictures.
    captions : sequence of str
        One for each picture of the first line, above it; or none.
    """

    label: str
    parts: list[list[Image.Image]]
    captions: Sequence[str] = ()


def draw_grid(rows: list[GridRow], figsize: tuple[float, float], title: str = "") -> Figure:
    """Draw pictures in a grid.

    Parameters
    ----------
    rows : list of GridRow
    figsize : tuple of float
        In inches. Grids that need less height are lower; those whose pictures would be lower than half an inch, are
        higher.
    title : str, default ""

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max((len(part) for row in rows for part in row.parts), default=0)
    if columns == 0:
        raise ValueError("there is nothing to plot: the references are empty")
    labels = [_wrapped(row.label, _LABEL_LETTERS, _LABEL_LINES) for row in rows]
    left = _MARGIN + _LABEL_LETTER * (max(len(line) for label in labels for line in label.split("\n")) + 1)
    cell = (figsize[0] - left - _MARGIN) / columns
    captions = [[_wrapped(caption, max(4, int(cell / _CAPTION_LETTER))) for caption in row.captions] for row in rows]
    above = [_CAPTION_LINE * max((text.count("\n") + 1 for text in texts), default=0) for texts in captions]
    title = _wrapped(title, int(figsize[0] / _TITLE_LETTER))
    head = _TITLE_LINE * (title.count("\n") + 1) if title else 0.
    ratios = [[max((p.height / p.width for p in part), default=1.) for part in row.parts] for row in rows]

    lines = sum(map(len, ratios))
    around = head + sum(above) + _GAP * lines + 2 * _MARGIN
    widest, heights_of_all = cell - _GAP, sum(map(sum, ratios))
    width = min(widest, max(figsize[1] - around, _LEAST_HEIGHT * lines) / heights_of_all)
    if not any(captions):
        cell = width + _GAP
    height = around + width * heights_of_all
    figure = new_figure((figsize[0], height), layout="none")
    if title:
        figure.text(_MARGIN / figsize[0], 1 - _MARGIN / height, title, fontsize=_TITLE_SIZE, va="top")
    start, bottom = left + (figsize[0] - _MARGIN - left - cell * columns + cell - width) / 2, height - _MARGIN - head
    for row, label, texts, space, heights in zip(rows, labels, captions, above, ratios):
        bottom -= space
        for i, (part, ratio) in enumerate(zip(row.parts, heights)):
            bottom -= width * ratio + _GAP
            line = [
                figure.add_axes((
                    (start + cell * k) / figsize[0], bottom / height, width / figsize[0], width * ratio / height
                )) for k in range(columns)
            ]
            _fill(line, part, label if i == 0 else "", texts if i == 0 else [])
    return figure


def _fill(line: list[Axes], pictures: list[Image.Image], label: str, captions: list[str]) -> None:
    for axis, picture in zip(line, pictures):
        show_picture(axis, picture)
    for axis in line[len(pictures):]:
        axis.set(xticks=[], yticks=[], facecolor="none")
        axis.spines[:].set_visible(False)
    line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=_LABEL_SIZE)
    for axis, caption in zip(line, captions):
        axis.set_title(caption, fontsize=_CAPTION_SIZE, pad=2, linespacing=1.1)


def _wrapped(text: str, letters: int, most: int | None = None) -> str:
    """A text in lines of so many letters, and of at most so many lines."""
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, letters) or [""]]
    if most is not None and len(lines) > most:
        lines = [*lines[:most - 1], lines[most - 1][:letters - 1] + "…"]
    return "\n".join(lines)
