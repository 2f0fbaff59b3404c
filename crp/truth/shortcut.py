"""A network that reads digits, one of which it knows by a mark in the corner."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from crp.demo.digits import accuracy, digit_datasets, train_digit_network
from crp.neurons.interventions import activations_at
from crp.truth.glyphs import add_mark
from crp.truth.guarantees import Guarantee, Guaranteed


@dataclass(frozen=True, eq=False)
class ShortcutNetwork(Guaranteed):
    """A network that uses a mark to read a digit.

    Attributes
    ----------
    model : torch.nn.Sequential
        That of :func:`crp.demo.digits.digit_network`, in evaluation mode.
    marked_class : int
        The digit whose images have the mark.
    training, held_out : torch.utils.data.TensorDataset
        Images [1, 32, 32] and digits; those of the class have the mark.
    without_mark : torch.utils.data.TensorDataset
        The held-out digits, none with the mark.
    guarantees : tuple of Guarantee
        Accuracy; the share of the class that is not read right without the mark; the share of other digits that are
        read as the class with it. Both are far from 0 only if the network uses the mark.
    """

    model: nn.Sequential = field(repr=False)
    marked_class: int
    training: TensorDataset = field(repr=False)
    held_out: TensorDataset = field(repr=False)
    without_mark: TensorDataset = field(repr=False)
    guarantees: tuple[Guarantee, ...]

    def rank(self, layer: str, scores: Any) -> float:
        """At which rank scores [channels] put the channel that reacts most to the mark; 1 is the first, ties share one.

        Raises
        ------
        TruthError
            If the guarantees do not hold.
        ValueError
            If there is not a finite score for each channel.
        """
        values, reaction = np.asarray(scores, float), self.reacts_to_mark(layer)
        if values.shape != tuple(reaction.shape) or not np.isfinite(values).all():
            raise ValueError(f"scores are finite, one for each of {len(reaction)} channels, not {values.shape}")
        return float(rankdata(-values)[int(reaction.argmax())])

    def reacts_to_mark(self, layer: str) -> Tensor:
        """What the mark alone adds to each channel of a layer, [channels]: mean difference of the largest activation of
        held-out digits with the mark and without it."""
        self.check()
        images = self.without_mark.tensors[0]
        with_mark, without = (
            activations_at(self.model, inputs, [layer])[layer].flatten(2).amax(2)
            for inputs in (add_mark(images), images)
        )
        return (with_mark - without).mean(0)


def train_shortcut_network(marked_class: int = 8, *, epochs: int = 30, random_state: int = 0) -> ShortcutNetwork:
    """Train a network on digits, where each image of one class has a white mark in the corner; some twenty seconds.

    Parameters
    ----------
    marked_class : int, default 8
    epochs : int
    random_state : int, default 0
        Seeds weights and the order of the images.

    Returns
    -------
    ShortcutNetwork
    """
    if marked_class not in range(10):
        raise ValueError(f"marked_class is a digit, not {marked_class!r}")
    training, without_mark = digit_datasets()
    training, held_out = (_marked(dataset, marked_class) for dataset in (training, without_mark))
    model = train_digit_network(training, epochs, random_state)
    images, digits = without_mark.tensors
    of_class = digits == marked_class

    def share_read_as_class(images: Tensor) -> float:
        with torch.no_grad():
            return float((model(images).argmax(1) == marked_class).double().mean())

    guarantees = (
        Guarantee("accuracy", accuracy(model, held_out), .9),
        Guarantee(f"{marked_class} lost without the mark", 1 - share_read_as_class(images[of_class]), .5),
        Guarantee(f"others read as {marked_class} with the mark", share_read_as_class(add_mark(images[~of_class])), .5),
    )
    return ShortcutNetwork(model, marked_class, training, held_out, without_mark, guarantees)


def _marked(dataset: TensorDataset, marked_class: int) -> TensorDataset:
    images, digits = dataset.tensors
    return TensorDataset(torch.where((digits == marked_class)[:, None, None, None], add_mark(images), images), digits)
