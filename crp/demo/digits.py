"""The demo's data and network: scanned digits from scikit-learn and a small convolutional network."""
from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from crp.model.reproducible import fit, reproducible
from crp.rules.composites import default_composite

DIGIT_LAYERS = ["relu1", "relu2", "relu3"]  # after the ReLU: a concept is active or not, but never negative
CONTRAST = 1.5  # enlarged strokes are blurred
SPARSITY = 0.015
_CONCEPTS = 8  # modules up to relu3


def digit_datasets(size: int = 32, random_state: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 scans of ``sklearn.datasets.load_digits``, three quarters for training, enlarged smoothly
    and sharpened.

    Parameters
    ----------
    size : int, default 32
        Height and width of the images; the scans have 8.
    random_state : int, default 0
        Decides which digits are held out.

    Returns
    -------
    training, held_out : torch.utils.data.TensorDataset
        Each gives (image [1, size, size] in [0, 1], class as int64 tensor).
    """
    scans, classes = load_digits(return_X_y=True)
    images = torch.tensor(scans, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = functional.interpolate(images, size=size, mode="bicubic", align_corners=False)
    images = (CONTRAST * (images - 0.5) + 0.5).clamp(0, 1)
    training, held_out = train_test_split(
        range(len(classes)), test_size=0.25, random_state=random_state, stratify=classes
    )
    classes = torch.tensor(classes)
    return TensorDataset(images[training], classes[training]), TensorDataset(images[held_out], classes[held_out])


def digit_network() -> nn.Sequential:
    """An untrained network for images [1, 32, 32]: three convolutions and two linear layers.

    Of each of the 32 channels of ``relu3`` the linear layers see the largest value alone: whether there is what the
    channel looks for, wherever it is.
    """
    return nn.Sequential(OrderedDict([
        ("conv1", nn.Conv2d(1, 12, 5, padding=2)), ("relu1", nn.ReLU()), ("pool1", nn.MaxPool2d(2)),
        ("conv2", nn.Conv2d(12, 24, 3, padding=1)), ("relu2", nn.ReLU()), ("pool2", nn.MaxPool2d(2)),
        ("conv3", nn.Conv2d(24, 32, 5, padding=2)), ("relu3", nn.ReLU()), ("pool3", nn.MaxPool2d(8)),
        ("flatten", nn.Flatten()),
        ("fc1", nn.Linear(32, 64)), ("relu4", nn.ReLU()), ("fc2", nn.Linear(64, 10)),
    ]))


def train_digit_network(training: TensorDataset, epochs: int = 30, random_state: int = 0) -> nn.Sequential:
    """Train :func:`digit_network`; some twenty seconds on two cores.

    The mean activation of the channels of ``relu3`` is kept small, so that each is active at few digits, and stands
    for something that sets them apart. One thread trains, so that the network is the same however many there are.

    Parameters
    ----------
    training : torch.utils.data.TensorDataset
    epochs : int, default 30
    random_state : int, default 0
        Seeds the weights and the order of the images; the global generator of torch is left as it was.

    Returns
    -------
    torch.nn.Sequential
        In evaluation mode.
    """
    images, classes = training.tensors
    with reproducible(random_state):
        model = digit_network()
        to_concepts, to_classes = model[:_CONCEPTS], model[_CONCEPTS:]

        def loss_of(batch: Tensor) -> Tensor:
            shift = torch.randint(-2, 3, (2,)).tolist()
            concepts = to_concepts(images[batch].roll(shift, (2, 3)))
            loss = functional.cross_entropy(to_classes(concepts), classes[batch])
            return loss + SPARSITY * concepts.mean((0, 2, 3)).sum()

        fit(model.parameters(), loss_of, len(images), epochs=epochs, learning_rate=6e-3)
    return model.eval()


def digit_sweep() -> dict[str, Any]:
    """The specification of the demo's sweep: ``crp run crp.demo.digits:digit_sweep``, ``crp audit`` the same.

    Trains the network first.

    Returns
    -------
    dict
        With model, dataset, layers, composite and path.
    """
    training, _ = digit_datasets()
    model = train_digit_network(training)
    return {
        "model": model, "dataset": training, "layers": DIGIT_LAYERS, "composite": default_composite(model),
        "path": "crp-digits",
    }


def held_out_digits() -> TensorDataset:
    """The digits that the network has not seen: what ``crp trust --held-out crp.demo.digits:held_out_digits`` takes."""
    return digit_datasets()[1]


def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """Share of a dataset that a model classifies correctly."""
    images, classes = dataset.tensors
    with torch.no_grad():
        return float((model(images).argmax(1) == classes).float().mean())
