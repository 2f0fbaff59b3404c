"""A sweep of a small network with a parallel branch (5 layers, 5,000 images of 28 px), over bare zennit passes.

By default, network and images are random; ``--images`` and ``--weights`` take .npz files with images [N, 28, 28] and
labels, and with the weights of the network.
"""
import argparse

import numpy as np
import torch
from common import sweep_row
from torch import nn
from torch.utils.data import TensorDataset
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.layer import Sum

LAYERS = ["parallel.0", "conv1", "conv2", "linear1", "linear2"]


class Network(nn.Module):
    """Two branches of convolutions that are summed, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.parallel = nn.Sequential(nn.Conv2d(1, 16, 5, 2, bias=False), nn.BatchNorm2d(16))
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 2), nn.BatchNorm2d(16)
        self.sum, self.relu2, self.pool, self.flatten = Sum(), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        self.linear1, self.relu3, self.linear2 = nn.Linear(576, 120), nn.ReLU(), nn.Linear(120, 10)

    def forward(self, x):
        """Outputs [B, 10] of images [B, 1, 28, 28]."""
        main = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        both = self.sum(torch.stack([self.parallel(x), main], -1))
        return self.linear2(self.relu3(self.linear1(self.flatten(self.pool(self.relu2(both))))))


def main() -> None:
    """Measure and print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images")
    parser.add_argument("--weights")
    options = parser.parse_args()
    torch.manual_seed(0)
    model, dataset = Network(), TensorDataset(torch.rand(5000, 1, 28, 28), torch.arange(5000) % 10)
    if options.weights:
        with np.load(options.weights) as weights:
            model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
    if options.images:
        with np.load(options.images) as data:
            images, labels = (torch.from_numpy(data[name]) for name in ("images", "labels"))
            dataset = TensorDataset(images[:, None].float() / 255, labels)
    model.eval().requires_grad_(False)
    work = "sweep of a small network, 5,000 images"
    sweep_row(
        work, model, dataset, LAYERS, batch_size=32, reach=.75, repeats=5, canonizers=[SequentialMergeBatchNorm()]
    ).print()


main()
