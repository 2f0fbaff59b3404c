"""How sweeps scale with samples, classes, workers and shards: a synthetic model with 4,096 concepts and cheap passes.

Without arguments, a process for each measurement runs this script.
"""
from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import Row, peak_memory, ratio_row
from torch import nn
from torch.utils.data import Dataset
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.store.place import place_of_store
from crp.store.sealing import seal_store
from crp.visualization import FeatureVisualization

CONCEPTS, FEATURES = 4096, 16


class Vectors(Dataset):
    """Random vectors, the same for each index."""

    def __init__(self, length: int, classes: int):
        self.values = torch.randn(1024, FEATURES, generator=torch.Generator().manual_seed(0))
        self.length, self.classes = length, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.values[index % 1024] + index / self.length, index % self.classes


def visualization(path: Path, samples: int, classes: int) -> FeatureVisualization:
    """A sweep of one layer of 4,096 concepts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, CONCEPTS), nn.ReLU(), nn.Linear(CONCEPTS, classes)).eval()
    attribution = CondAttribution(model, heatmap_axis=None)
    return FeatureVisualization(attribution, Vectors(samples, classes), {"1": ChannelConcept()}, path=path)


def measure_sweep(samples: int, classes: int, keep: str) -> None:
    """Print milliseconds per sample of each turn, memory in GB, files and bytes of sweeps in shards of 6,400."""
    with tempfile.TemporaryDirectory() as folder:
        warm = visualization(Path(folder) / "warm", 256, classes)
        warm.run(EpsilonPlus(), 0, 256, 64, keep=keep)
        before = peak_memory()
        milliseconds = []
        for turn in range(5 if samples <= 10_000 else 1):
            path = Path(folder) / f"store{turn}"
            start = time.perf_counter()
            visualization(path, samples, classes).run(EpsilonPlus(), 0, samples, 64, 100, keep=keep)
            milliseconds.append((time.perf_counter() - start) / samples * 1e3)
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        print(json.dumps({
            "times per sample": milliseconds, "memory that it adds": peak_memory() - before,
            "files per shard": len(sizes) / math.ceil(samples / 6400), "size of the store": sum(sizes),
            "bytes per value": sum(sizes) / (2 * samples * CONCEPTS),
        }))


class Slow(nn.Module):
    """Work of one thread, of about a millisecond a sample."""

    def __init__(self):
        super().__init__()
        blocks = ((nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(4))
        self.layers = nn.Sequential(*(layer for block in blocks for layer in block))
        self.head = nn.Linear(16 * 32 * 32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, FEATURES] to [B, 10]."""
        return self.head(self.layers(x[:, :, None, None].expand(-1, -1, 32, 32)).flatten(1))


def measure_workers() -> None:
    """Print seconds with one and with two warm worker processes of one thread each, in turn."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    attribution, found = CondAttribution(Slow().eval(), heatmap_axis=None), {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as one, ProcessPoolExecutor(2, context) as two:
            for turn in range(4):
                for count, pool in ((1, one), (2, two)):
                    dataset, path = Vectors(15_360, 10), f"{folder}/{turn}-{count}"
                    fv = FeatureVisualization(attribution, dataset, {"layers.7": ChannelConcept()}, path=path)
                    start = time.perf_counter()
                    fv.run(EpsilonPlus(), 0, 15_360, 16, 6, executor=pool)
                    if turn:  # in the first, workers start
                        found[count].append(time.perf_counter() - start)
    print(json.dumps([two / one for one, two in zip(found[1], found[2])]))


def measure_merge(keep: str) -> None:
    """Print the seconds that it takes to finish a store of 64 shards of 400 samples."""
    with tempfile.TemporaryDirectory() as folder:
        fv = visualization(Path(folder) / "store", 25_600, 1000)
        fv.sweep(EpsilonPlus(), batch_size=50, checkpoint=8, keep=keep).run_part(0, 25_600)
        start = time.perf_counter()
        seal_store(place_of_store(Path(folder) / "store"))
        print(json.dumps(time.perf_counter() - start))


def main() -> None:
    """Measure in processes of their own and print the rows."""
    def run(*arguments):
        command = [sys.executable, __file__, *map(str, arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])

    def print_value(what, value, reach, unit=""):
        Row(what, "", value, reach, (value, value), unit).print()

    for classes, keep in ((10, "all"), (1_000, "all"), (1_000, "top")):
        found = {samples: run("sweep", samples, classes, keep) for samples in (1_000, 10_000, 100_000)}
        what = f"4,096 concepts, {classes:,} classes, keep={keep!r}"
        for samples, one in found.items():
            print(f"sweep of {samples} samples, {what}: {one}")
        of_ten_thousand = statistics.median(found[10_000]["times per sample"])
        for samples in (1_000, 100_000):
            ratios = [one / of_ten_thousand for one in found[samples]["times per sample"]]
            ratio_row(f"sweep of {samples:,} samples, {what}: time per sample", "of 10,000", 1.2, ratios, 0.).print()
        most = found[100_000]
        print_value(f"sweep of 100,000 samples, {what}: time per sample", most["times per sample"][0], 1.5, "ms")
        print_value(f"sweep of 100,000 samples, {what}: memory that it adds", most["memory that it adds"], 0.25, "GB")
        if keep == "all":
            print_value(f"sweep of 100,000 samples, {what}: files per shard of 6,400", most["files per shard"], 10)
            print_value(f"sweep of 100,000 samples, {what}: bytes per value", most["bytes per value"], 5)
        else:
            print_value(f"sweep of 100,000 samples, {what}: size", most["size of the store"] / 1e9, 0.1, "GB")
    ratio_row("sweep by two worker processes of one thread", "by one", 0.59, run("workers"), 0.).print()
    for keep in ("all", "top"):
        seconds = run("merge", keep)
        Row(f"merge of 64 shards of 400 x 4,096, keep={keep!r}", "", seconds, 60, (seconds, seconds), "s").print()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "sweep":
        measure_sweep(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    elif sys.argv[1] == "workers":
        measure_workers()
    else:
        measure_merge(sys.argv[2])
