"""A residual network whose channels are tied to glyphs."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crp.demo.digits import accuracy
from crp.model.reproducible import fit, reproducible
from crp.truth.glyphs import GLYPHS, NAMES, GlyphScenes, glyph_scenes
from crp.truth.guarantees import Guarantee, Guaranteed
from crp.truth.scores import auroc, mass_accuracy, purity, rank_accuracy

LAYER = "concepts"
_PER_GLYPH, _FREE = 4, 8
_TIED = len(GLYPHS) * _PER_GLYPH
_HELD_OUT = 500
_TIE = 10.
Method: TypeAlias = Callable[[Tensor, Tensor, list[int]], Any]
"""Images, labels and channels -> heatmaps."""


class Residual(nn.Module):
    """Two convolutions beside a convolution of single pixels."""

    def __init__(self, taken: int, given: int):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(given, given, 3, padding=1), nn.BatchNorm2d(given)
        self.shortcut = nn.Conv2d(taken, given, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, taken, H, W] to [B, given, H, W], without an activation function at the end."""
        return self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x)


def glyph_cnn() -> nn.Sequential:
    """An untrained residual network for images [3, 40, 40] and three classes, with 32 channels in ``concepts``."""
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(3, 16, 5, padding=2)), ("bn", nn.BatchNorm2d(16)), ("relu", nn.ReLU()),
        ("pool", nn.MaxPool2d(2)),
        ("block1", Residual(16, 24)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("block2", Residual(24, _TIED + _FREE)), (LAYER, nn.ReLU()),
        ("strongest", nn.AdaptiveMaxPool2d(1)), ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(_TIED + _FREE, 32)), ("relu3", nn.ReLU()), ("fc2", nn.Linear(32, 3)),
    ]))


class Localisation(NamedTuple):
    """How well heatmaps show where something is.

    Attributes
    ----------
    rank_accuracy, mass : float
        See :func:`crp.truth.rank_accuracy` and :func:`crp.truth.mass_accuracy`.
    chance : float
        What both are for heatmaps at random: the share of the image that it takes.
    """

    rank_accuracy: float
    mass: float
    chance: float


@dataclass(frozen=True, eq=False)
class GlyphNetwork(Guaranteed):
    """A network that has learned glyphs, in channels that are known.

    Attributes
    ----------
    model : torch.nn.Sequential
        In evaluation mode.
    layer : str
        The layer whose channels are tied to glyphs.
    groups : dict
        Name of a glyph -> its channels.
    free : list of int
        Channels of which nothing is known.
    training, held_out : GlyphScenes
    guarantees : tuple of Guarantee
        Accuracy, and for each glyph how well its channels tell by their largest activation whether it is there (AUROC)
        and how much of their activation lies on it.
    """

    model: nn.Sequential = field(repr=False)
    layer: str
    groups: dict[str, list[int]]
    free: list[int]
    training: GlyphScenes
    held_out: GlyphScenes
    guarantees: tuple[Guarantee, ...]

    def localisation(self, method: Method, scenes: int = 20) -> Localisation:
        """How well heatmaps show glyphs that decide the class, in held-out scenes.

        Parameters
        ----------
        method : callable
            ``(images [N, 3, 40, 40], labels [N], channels) -> heatmaps [N, 40, 40]`` of the channels of a glyph.
        scenes : int, default 20
            How many of each glyph.

        Returns
        -------
        Localisation
            Means over scenes and glyphs.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        """
        self.check()
        ranks, masses, areas = [], [], []
        for number, channels in enumerate(self.groups.values()):
            rows = torch.nonzero(self.held_out.decisive[:, number])[:scenes, 0]
            if len(rows):
                masks = self.held_out.masks[rows, number]
                heatmaps = method(self.held_out.images[rows], self.held_out.labels[rows], channels)
                ranks.append(rank_accuracy(heatmaps, masks))
                masses.append(mass_accuracy(heatmaps, masks))
                areas.append(masks.float().mean((1, 2)).numpy())
        return Localisation(*(float(np.concatenate(parts).mean()) for parts in (ranks, masses, areas)))

    def purity(self, samples: Any) -> float:
        """The share of reference samples of tied channels that show the channel's glyph.

        Parameters
        ----------
        samples : array-like
            [k, channels], of the training scenes, as ``store.sorted_rows(layer)`` gives them.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        """
        self.check()
        tied = [channel for channels in self.groups.values() for channel in channels]
        glyph = np.repeat(np.arange(len(self.groups)), [len(channels) for channels in self.groups.values()])
        return float(purity(np.asarray(samples)[:, tied], self.training.present[:, glyph]).mean())


def train_glyph_network(
    rule: str = "presence", *, marked_class: int | None = None, samples: int = 2000, epochs: int = 4,
    random_state: int = 0,
) -> GlyphNetwork:
    """Train a network on scenes of glyphs, four channels tied to each; some fifteen seconds on one core.

    Beside the classes, a loss asks each tied channel to be 1 somewhere on its glyph, and 0 everywhere else.

    Parameters
    ----------
    rule, marked_class
        As for :func:`glyph_scenes`.
    samples, epochs : int
    random_state : int, default 0
        Seeds scenes, weights and their order.

    Returns
    -------
    GlyphNetwork
    """
    training = glyph_scenes(samples, rule, marked_class=marked_class, random_state=2 * random_state)
    held_out = glyph_scenes(_HELD_OUT, rule, marked_class=marked_class, random_state=2 * random_state + 1)
    with reproducible(random_state):
        model = glyph_cnn().to(memory_format=torch.channels_last)  # trains faster
        until_concepts = list(dict(model.named_children())).index(LAYER) + 1
        to_concepts, to_classes = model[:until_concepts], model[until_concepts:]

        def loss_of(batch: Tensor) -> Tensor:
            concepts = to_concepts(training.images[batch])
            tie = _distance_from_glyphs(concepts[:, :_TIED], training.masks[batch])
            sparsity = concepts[:, _TIED:].mean()
            return functional.cross_entropy(to_classes(concepts), training.labels[batch]) + _TIE * tie + .1 * sparsity

        fit(model.parameters(), loss_of, samples, epochs=epochs, learning_rate=1e-2, batch_size=32)
        model.eval()
        groups = {
            name: list(range(number * _PER_GLYPH, (number + 1) * _PER_GLYPH)) for number, name in enumerate(NAMES)
        }
        guarantees = _measured(model, to_concepts, groups, held_out)
    return GlyphNetwork(
        model, LAYER, groups, list(range(_TIED, _TIED + _FREE)), training, held_out, tuple(guarantees)
    )


def _on_the_grid(masks: Tensor, concepts: Tensor) -> Tensor:
    """Masks [B, glyphs, H, W] as the layer sees them: [B, glyphs, h, w] bool."""
    return functional.adaptive_max_pool2d(masks.float(), concepts.shape[-2:]) > 0


def _distance_from_glyphs(concepts: Tensor, masks: Tensor) -> Tensor:
    """How far tied channels are from what they should be."""
    on_glyph = _on_the_grid(masks, concepts).repeat_interleave(_PER_GLYPH, 1)
    strongest = (concepts * on_glyph).amax((2, 3))
    missing = (1 - strongest).relu().square() * on_glyph.any(-1).any(-1)
    wrong = (concepts * ~on_glyph).square()
    return missing.mean() + 4 * wrong.mean()


def _measured(
    model: nn.Module, to_concepts: nn.Module, groups: dict[str, list[int]], scenes: GlyphScenes
) -> list[Guarantee]:
    with torch.no_grad():
        concepts = to_concepts(scenes.images)
    masks = _on_the_grid(scenes.masks, concepts)
    found = [Guarantee("accuracy", accuracy(model, scenes.dataset), .95)]
    for number, (name, channels) in enumerate(groups.items()):
        strongest, own = concepts[:, channels].amax((2, 3)), concepts[:, channels]
        selectivity = min(auroc(values, scenes.present[:, number]) for values in strongest.T)
        on_glyph = float((own * masks[:, number, None]).sum() / own.sum())
        found += [Guarantee(f"selectivity of {name}", selectivity, .95), Guarantee(f"{name} in place", on_glyph, .8)]
    return found
