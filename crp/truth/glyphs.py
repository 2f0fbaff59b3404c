"""Scenes of drawn glyphs, of which it is known where each glyph is and which of them decide the class."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import TensorDataset

SIZE = 40
_CELLS = 3
_FINER = 2  # pixels are drawn at twice their number, and averaged
_STROKE = .19
_MARK = slice(1, 5)

GLYPHS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ring": lambda x, y: ((x ** 2 + y ** 2).sqrt() - .72).abs() < _STROKE,
    "cross": lambda x, y: (torch.minimum((x - y).abs(), (x + y).abs()) < 1.4 * _STROKE) & _within(x, y, .85),
    "square": lambda x, y: (torch.maximum(x.abs(), y.abs()) - .65).abs() < _STROKE,
    "triangle": lambda x, y: (y < .75) & (x.abs() < (y + .9) / 1.7),
    "bars": lambda x, y: ((y.abs() - .5).abs() < 1.1 * _STROKE) & (x.abs() < .85),
    "plus": lambda x, y: (torch.minimum(x.abs(), y.abs()) < _STROKE) & _within(x, y, .9),
}
"""Name -> whether a glyph covers points (x, y) of [-1, 1] x [-1, 1]; y points downwards."""
NAMES = list(GLYPHS)
RULES = ("presence", "absence")


def _within(x: Tensor, y: Tensor, radius: float) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) < radius


@dataclass(frozen=True, eq=False)
class GlyphScenes:
    """Images of glyphs, with what there is to know about them.

    Attributes
    ----------
    images : torch.Tensor
        [N, 3, 40, 40] in [0, 1].
    labels : torch.Tensor
        [N] int64, the classes.
    present : torch.Tensor
        [N, 6] bool, which of :data:`crp.truth.GLYPHS` are in an image, in their order.
    masks : torch.Tensor
        [N, 6, 40, 40] bool, the pixels of each glyph, and those next to them: contours are edges.
    decisive : torch.Tensor
        [N, 6] bool, the glyphs in an image that decide its class: without any of them it would have another one.
    rule : str
    marked : torch.Tensor
        [N] bool, which images have a white mark in the upper left corner.
    """

    images: Tensor
    labels: Tensor
    present: Tensor
    masks: Tensor
    decisive: Tensor
    rule: str
    marked: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"GlyphScenes({len(self)} images, class by {self.rule}, {int(self.marked.sum())} marked)"

    @property
    def dataset(self) -> TensorDataset:
        """The images with their labels."""
        return TensorDataset(self.images, self.labels)


def glyph_scenes(
    n: int, rule: str = "presence", *, marked_class: int | None = None, random_state: int = 0
) -> GlyphScenes:
    """Draw scenes: glyphs in random places, sizes, angles and colours, between strokes that mean nothing.

    Parameters
    ----------
    n : int
        How many.
    rule : {"presence", "absence"}
        "presence": each of three classes has a pair of glyphs, both of which are there; of the other pairs one glyph is
        there at most. "absence": of the first three glyphs two are there, and the class is the one that is missing; the
        others come and go.
    marked_class : int, optional
        Images of this class have a white mark in the corner, and no others have: a shortcut.
    random_state : int, default 0

    Returns
    -------
    GlyphScenes

    Raises
    ------
    ValueError
        If there is no such rule or class.
    """
    if rule not in RULES:
        raise ValueError(f"rule is 'presence' or 'absence', not {rule!r}")
    if n < 1 or marked_class not in (None, 0, 1, 2):
        raise ValueError("there is one scene at least, and marked_class is 0, 1 or 2")
    random = torch.Generator().manual_seed(random_state)
    labels = torch.randint(3, (n,), generator=random)
    present, decisive = _glyphs_of(rule, labels, random)
    images, masks = _draw(present, random)
    marked = labels == marked_class if marked_class is not None else torch.zeros(n, dtype=torch.bool)
    images = torch.where(marked[:, None, None, None], add_mark(images), images)
    return GlyphScenes(images, labels, present, masks, decisive, rule, marked)


def add_mark(images: Tensor) -> Tensor:
    """Images [N, C, H, W] with a white mark of four pixels by four in the upper left corner."""
    result = images.clone()
    result[..., _MARK, _MARK] = 1
    return result


def mark_mask(images: Tensor) -> Tensor:
    """[H, W] bool, the pixels of the mark."""
    mask = torch.zeros(images.shape[-2:], dtype=torch.bool)
    mask[_MARK, _MARK] = True
    return mask


def _glyphs_of(rule: str, labels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which glyphs are in images of these classes, and which of those decide."""
    rows, n = torch.arange(len(labels)), len(labels)
    if rule == "presence":
        one_of_pair = functional.one_hot(torch.randint(3, (n, 3), generator=random), 3)[..., :2].bool()
        one_of_pair[rows, labels] = True
        present = one_of_pair.flatten(1)
        decisive = torch.zeros_like(one_of_pair)
        decisive[rows, labels] = True
        return present, decisive.flatten(1)
    present = torch.rand(n, len(NAMES), generator=random) < .5
    present[:, :3] = True
    present[rows, labels] = False
    decisive = present.clone()
    decisive[:, 3:] = False
    return present, decisive


def _draw(present: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images and masks of scenes with these glyphs, none of which overlap."""
    n, cell = len(present), SIZE / _CELLS

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=random)

    background = uniform(0, .25, 3, 1, 1) + .05 * torch.randn(n, 3, SIZE, SIZE, generator=random)
    images = _with_strokes(background, uniform)
    cells = torch.rand(n, _CELLS ** 2, generator=random).argsort(1)
    masks = torch.zeros(n, len(NAMES), SIZE, SIZE, dtype=torch.bool)
    for number, covers in enumerate(GLYPHS.values()):
        radius = uniform(4.6, 6.2)
        centre = torch.stack([cells[:, number] // _CELLS, cells[:, number] % _CELLS], 1) * cell + cell / 2
        centre = centre + (cell / 2 - radius)[:, None] * uniform(-1, 1, 2)
        x, y = _local_points(centre, radius, uniform(-.26, .26))
        coverage = functional.avg_pool2d(covers(x, y).float()[:, None], _FINER)
        coverage = coverage * present[:, number, None, None, None]
        images = images + coverage * (uniform(.45, 1, 3, 1, 1) - images)
        masks[:, number] = functional.max_pool2d(coverage, 3, 1, 1)[:, 0] > .5
    return images.clamp(0, 1), masks


def _local_points(centre: Tensor, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel, twice as fine, in the coordinates of a glyph: [N, H, W] each."""
    points = (torch.arange(SIZE * _FINER) + .5) / _FINER
    down = (points[None, :, None] - centre[:, 0, None, None]) / radius[:, None, None]
    right = (points[None, None, :] - centre[:, 1, None, None]) / radius[:, None, None]
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cosine * right + sine * down, cosine * down - sine * right


def _with_strokes(images: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """Images with three short strokes each, of any direction and colour."""
    for _ in range(3):
        x, y = _local_points(uniform(2, SIZE - 2, 2), uniform(2, 4), uniform(-3.2, 3.2))
        stroke = functional.avg_pool2d(((x.abs() < 1) & (y.abs() < .3)).float()[:, None], _FINER)
        images = images + stroke * (uniform(.2, .8, 3, 1, 1) - images)
    return images
