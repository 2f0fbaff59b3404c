"""A small sweep that test files share, and the specification that the command line and workers find here."""
import hashlib
import time
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.store.legacy import is_results_name
from crp.visualization import FeatureVisualization

SAMPLES = 40


class Images(Dataset):
    """Fixed images in three classes; some of them cannot be read."""

    def __init__(self, broken=(), length=SAMPLES):
        self.broken, self.length = set(broken), length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"image{index}.png is truncated")
        return torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(index)), index % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 4)),
        ("out", nn.Linear(4, 3)),
    ])).eval()


def visualization(path, dataset=None, model=None, **options):
    layers = {"conv": ChannelConcept(), "fc": ChannelConcept()}
    attribution = CondAttribution(network() if model is None else model)
    return FeatureVisualization(attribution, Images() if dataset is None else dataset, layers, path=path, **options)


def run(path, dataset=None, batch_size=4, checkpoint=2, composite=None, visualization_options=None, **options):
    fv = visualization(path, dataset, **visualization_options or {})
    return fv.run(composite or EpsilonPlusFlat(), 0, len(fv.dataset), batch_size, checkpoint, **options)


def specification():
    return {
        "model": network(), "dataset": Images(), "layers": ["conv", "fc"], "composite": EpsilonPlusFlat(),
        "path": "specified",
    }


class SlowImages(Images):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)


def slow_specification():
    return {**specification(), "dataset": SlowImages()}


def contents(path):
    """Each file of a store with its hash, without zennit-crp's files that show what it holds."""
    path = Path(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files if not is_results_name(file.relative_to(path).parts[0])
    }
