"""Small sweeps to check."""
import torch
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization


def network(seed=0):
    """A small network for images [1, 8, 8] and three classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(),
        nn.Linear(10, 3),
    ).eval()


def dataset(count=60, seed=0):
    torch.manual_seed(seed)
    return TensorDataset(torch.rand(count, 1, 8, 8), torch.arange(count) % 3)


def swept(folder, model=None, concepts=None, data=None, composite=None, **options):
    """A visualization with a finished store, and its composite."""
    composite = composite or EpsilonPlus()
    data = data or dataset()
    layers = concepts or {"1": ChannelConcept(), "5": ChannelConcept()}
    fv = FeatureVisualization(CondAttribution(model or network()), data, layers, path=folder, **options)
    fv.run(composite, 0, len(data))
    return fv, composite
