"""Pictures and names of glyphs in one space: a stand-in for CLIP that knows glyphs only."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from crp.truth.glyphs import GLYPHS

_SIDE = 15
_RADII, _ANGLES = (4.8, 5.4, 6.), (-.2, 0., .2)
_LEAST, _MOST = .6, .8


class GlyphEmbedder:
    """Embeds pictures by how much of each glyph is somewhere in them, and names by the glyph, drawn.

    Coordinates are the best normalised correlations with templates of each glyph, in several sizes and angles.
    """

    def __init__(self) -> None:
        self._templates = torch.stack([
            torch.stack([_drawn(name, radius, angle) for radius in _RADII for angle in _ANGLES]) for name in GLYPHS
        ])

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Pictures [n], about as large as glyph scenes or parts of these -> [n, 6]."""
        return np.stack([self._embedded(np.asarray(picture.convert("RGB"), np.float32)) for picture in pictures])

    def texts(self, names: Sequence[str]) -> np.ndarray:
        """Names of glyphs [n] -> [n, 6]; others are embedded as an empty picture."""
        drawn = [np.zeros((40, 40), np.float32) if name not in GLYPHS else
                 functional.pad(_drawn(name, 5.4, 0.), [12, 13, 12, 13]).numpy() * 255 for name in names]
        return np.stack([self._embedded(np.repeat(picture[..., None], 3, 2)) for picture in drawn])

    def _embedded(self, picture: np.ndarray) -> np.ndarray:
        """[H, W, 3] -> [6]"""
        colours = torch.from_numpy(picture) / 255
        distance = (colours - colours.flatten(0, 1).median(0).values).abs().amax(2)  # from the background
        padded = functional.pad(distance, [_SIDE // 2 + 1] * 4)[None, None]
        templates = self._templates.flatten(0, 1)
        templates = templates - templates.mean((1, 2), keepdim=True)
        templates = templates / templates.flatten(1).norm(dim=1)[:, None, None]
        window = torch.ones(1, 1, _SIDE, _SIDE)
        sums, squares = (functional.conv2d(x, window) for x in (padded, padded ** 2))
        spread = (squares - sums ** 2 / _SIDE ** 2).clamp(min=.5).sqrt()
        found = (functional.conv2d(padded, templates[:, None]) / spread)[0]
        of_glyph = found.unflatten(0, (len(GLYPHS), -1)).amax(1)
        around = functional.max_pool2d(of_glyph.amax(0, keepdim=True), 9, 1, 4)
        is_best = of_glyph == around  # a part of a square is much like a ring, but the whole is more like a square
        best = (of_glyph * is_best).amax((1, 2))
        return (((best - _LEAST) / (_MOST - _LEAST)).clamp(0, 1) + 1e-3).double().numpy()


def _drawn(name: str, radius: float, angle: float) -> Tensor:
    """[15, 15], a glyph in the middle."""
    points = (torch.arange(_SIDE * 2) + .5) / 2 - _SIDE / 2
    down, right = points[:, None] / radius, points[None, :] / radius
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    covered = GLYPHS[name](cosine * right + sine * down, cosine * down - sine * right).float()
    return functional.avg_pool2d(covered[None, None], 2)[0, 0]
