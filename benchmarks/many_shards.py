"""A store of many shards and 16 layers, made, sealed, read, exported and verified with 256 descriptors.

``python benchmarks/many_shards.py 10000`` prints how long each step takes, and the largest memory. Each shard holds one
sample. ``run_all.py`` does not run it: it takes half an hour.
"""
from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import peak_memory
from torch import nn
from torch.utils.data import Dataset
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.store import ReferenceStore, export_zarr, verify
from crp.store.place import place_of_store
from crp.store.sealing import seal_store
from crp.visualization import FeatureVisualization

LAYERS, CHANNELS, DESCRIPTORS = 16, 8, 256


class Images(Dataset):
    """Random images, the same for each index."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(index)), index % 3


def visualization(path: Path, samples: int) -> FeatureVisualization:
    """A sweep of 16 convolutions."""
    torch.manual_seed(0)
    blocks = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(LAYERS)]
    model = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 3)
    ).eval()
    layers = {str(number + 1): ChannelConcept() for number in range(LAYERS)}
    return FeatureVisualization(CondAttribution(model), Images(samples), layers, path=path)


def report(step: str, begin: float) -> None:
    print(f"{step}: {time.perf_counter() - begin:.0f} s, largest memory so far {peak_memory():.2f} GB", flush=True)


def main(samples: int) -> None:
    """Do one step after the other, and compare what they say."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "store", Path(folder) / "copy"
        begin = time.perf_counter()
        visualization(path, samples).sweep(EpsilonPlus(), batch_size=1, checkpoint=1).run_part(0, samples)
        report(f"swept {samples} shards", begin)
        begin = time.perf_counter()
        seal_store(place_of_store(path))
        report("sealed", begin)
        begin = time.perf_counter()
        store = ReferenceStore(path)
        for layer in store.layers:
            values = store.values(layer)[:]
            assert len(values) == len(store.rows()) == samples
            best = store.top(layer, 0, k=8, normalised=False)
            assert np.array_equal(best.values, np.sort(values[:, 0])[::-1][:8])
            assert np.array_equal(values[best.samples, 0], best.values)
        report("read", begin)
        begin = time.perf_counter()
        groups = export_zarr(store, copy)
        assert len(groups) == LAYERS
        report("exported", begin)
        begin = time.perf_counter()
        assert verify(path) == []
        report("verified", begin)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
