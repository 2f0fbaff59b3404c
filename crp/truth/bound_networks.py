"""A transformer and a convolutional network whose units carry the variables of a program."""
from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crp.model.reproducible import reproducible
from crp.truth.glyphs import GLYPHS
from crp.truth.interchange import InterchangeNetwork, interchange_train
from crp.truth.programs import Program

_WIDTH, HEADS, NEURONS = 32, 4, 64
_NUMBERS, _LENGTH = 5, 4
_PAIRED, _HEIGHT = ("ring", "cross", "triangle", "bars"), 12


class Block(nn.Module):
    """Attention and an MLP beside a residual stream; heads are parts of what ``project`` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.qkv, self.project = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.up, self.act, self.down = nn.Linear(_WIDTH, NEURONS), nn.ReLU(), nn.Linear(NEURONS, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, 32] to the same."""
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        heads = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.project(heads.transpose(1, 2).flatten(2))
        return x + self.down(self.act(self.up(self.norm2(x))))


class AdderTransformer(nn.Module):
    """Reads a row of numbers, and answers at a last token of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(_NUMBERS + 1, _WIDTH)
        self.position = nn.Parameter(torch.randn(_LENGTH + 1, _WIDTH))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _NUMBERS)

    def forward(self, numbers: Tensor) -> Tensor:
        """[B, 4] integers to logits [B, 5]."""
        tokens = functional.pad(numbers, (0, 1), value=_NUMBERS)
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, -1])


def adder_transformer(random_state: int = 0, **options: Any) -> InterchangeNetwork:
    """A transformer that adds the first two of four numbers modulo 5: its first two heads fetch them, half of the
    neurons of its first MLP hold the sum, and all else is idle.

    Parameters
    ----------
    random_state : int, default 0
    **options
        As for :func:`interchange_train`.

    Returns
    -------
    InterchangeNetwork
    """
    with reproducible(random_state):
        model = AdderTransformer()
    numbers = torch.cartesian_prod(*[torch.arange(_NUMBERS)] * _LENGTH)
    program = Program(
        first=lambda inputs: inputs[:, 0], second=lambda inputs: inputs[:, 1],
        total=lambda first, second: (first + second) % _NUMBERS, output=lambda total: total,
    )
    size = _WIDTH // HEADS
    binding = {
        "first": {"blocks.0.project:in": range(size)}, "second": {"blocks.0.project:in": range(size, 2 * size)},
        "total": {"blocks.0.down:in": range(NEURONS // 2)},
    }
    idle = ["blocks.1.project:in", "blocks.1.down:in"]
    return interchange_train(
        model, program, binding, numbers, idle=idle, axis=-1, random_state=random_state,
        **{"epochs": 300, "batch_size": 64, **options}
    )


def pair_cnn() -> nn.Sequential:
    """An untrained convolutional network for images [1, 12, 24] and four classes."""
    return nn.Sequential(OrderedDict([
        ("conv1", nn.Conv2d(1, 8, 3, padding=1)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(8, 24, 3, padding=1)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
        ("flatten", nn.Flatten()), ("fc1", nn.Linear(24 * 3 * 6, 32)), ("relu3", nn.ReLU()), ("fc2", nn.Linear(32, 4)),
    ]))


def pair_images(n: int, random_state: int = 0) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 12, 24] with a glyph in each half, and which of four they are, [N, 2]."""
    random = torch.Generator().manual_seed(random_state)
    kinds = torch.randint(len(_PAIRED), (n, 2), generator=random)
    images = .03 * torch.randn(n, 1, _HEIGHT, 2 * _HEIGHT, generator=random).abs()
    points = torch.arange(_HEIGHT) + .5
    for side in range(2):
        down, right = _HEIGHT / 2 + torch.randint(-1, 2, (2, n, 1, 1), generator=random)
        y, x = (points[None, :, None] - down) / 5.5, (points[None, None, :] - right) / 5.5
        covered = torch.stack([GLYPHS[name](x, y) for name in _PAIRED], 1)
        glyph = covered[torch.arange(n), kinds[:, side]] * (.7 + .3 * torch.rand(n, 1, 1, generator=random))
        images[:, 0, :, side * _HEIGHT:(side + 1) * _HEIGHT] += glyph
    return images.clamp(0, 1), kinds


def pair_network(random_state: int = 0, samples: int = 5000, **options: Any) -> InterchangeNetwork:
    """A convolutional network for two glyphs, whose numbers it adds modulo 4: a third of the channels of ``relu2``
    holds the left one, a third the right one, half of the units of ``relu3`` the sum, and all others are idle.

    Parameters
    ----------
    random_state : int, default 0
    samples : int
    **options
        As for :func:`interchange_train`.

    Returns
    -------
    InterchangeNetwork
    """
    with reproducible(random_state):
        model = pair_cnn()
    program = Program(
        left=lambda inputs: inputs[:, 0], right=lambda inputs: inputs[:, 1],
        total=lambda left, right: (left + right) % len(_PAIRED), output=lambda total: total,
    )
    binding = {"left": {"relu2": range(8)}, "right": {"relu2": range(8, 16)}, "total": {"relu3": range(16)}}
    return interchange_train(
        model, program, binding, pair_images(samples, random_state), random_state=random_state,
        **{"batch_size": 256, **options}
    )
