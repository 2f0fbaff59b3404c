"""What the benchmarks share: timing in pairs, comparison of results, a network, images and zennit's own passes."""
from __future__ import annotations

import gc
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torchvision
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import TensorDataset
from zennit.canonizers import Canonizer
from zennit.composites import EpsilonPlusFlat
from zennit.core import Composite

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.rules import accelerate
from crp.visualization import FeatureVisualization


@dataclass
class Row:
    """A line of the table.

    Attributes
    ----------
    work, over : str
        What was done, and what it is compared with; empty for what is no ratio.
    measured : float
    reach : float
        What it should not exceed.
    spread : tuple of float
        The smallest and the largest single measurement.
    unit : str
        Empty for ratios.
    deviation : float
        Largest difference from the expected result, as a part of its maximum.
    """

    work: str
    over: str
    measured: float
    reach: float
    spread: tuple[float, float]
    unit: str = ""
    deviation: float = 0.

    def print(self) -> None:
        """Print the row for a reader and, as JSON, for ``run_all.py``."""
        unit = self.unit and f" {self.unit}"
        low, high = self.spread
        over = self.over and f" over {self.over}"
        print(f"{self.work}{over}: {self.measured:.3f}{unit} ({low:.3f} to {high:.3f}); "
              f"to reach: {self.reach}{unit}; deviation of results: {self.deviation:.1e}")
        print(json.dumps(asdict(self)))


def time_in_turn(work: Callable, *baselines: Callable, repeats: int = 5) -> tuple[list[float], ...]:
    """Run functions in turn, so that a change of the machine's speed meets all of them.

    They are warm from the comparison of their results, which comes first.

    Returns
    -------
    tuple of list
        For each baseline, the ratios of each turn: seconds of ``work`` over those of the baseline.
    """
    ratios: tuple[list[float], ...] = tuple([] for _ in baselines)
    for _ in range(repeats):
        own, *others = (_seconds(function) for function in (work, *baselines))
        for found, other in zip(ratios, others):
            found.append(own / other)
    return ratios


def _seconds(function: Callable) -> float:
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def ratio_row(work: str, over: str, reach: float, ratios: list[float], deviation: float) -> Row:
    """A row with the median of ratios."""
    return Row(work, over, statistics.median(ratios), reach, (min(ratios), max(ratios)), deviation=deviation)


def deviation(actual: torch.Tensor, expected: torch.Tensor, bound: float = 1e-4) -> float:
    """Largest difference, as a part of the expected maximum.

    Raises
    ------
    AssertionError
        If it is above the bound.
    """
    actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    found = float((actual - expected).abs().max() / expected.abs().max())
    assert found <= bound, f"results differ by {found:.1e} of their maximum"
    return found


def vgg16() -> nn.Module:
    """VGG16 with random weights, which are not trained and need no gradients."""
    torch.manual_seed(0)
    return torchvision.models.vgg16().eval().requires_grad_(False)


def photographs(count: int, size: int = 224) -> TensorDataset:
    """Sections of scikit-learn's two photographs, normalised, in two classes."""
    random = np.random.default_rng(0)
    sections = []
    for i in range(count):
        image = load_sample_images().images[i % 2]
        top, left = (random.integers(0, extent - size + 1) for extent in image.shape[:2])
        section = image[top:top + size, left:left + size]
        sections.append(section[:, ::random.choice([-1, 1])] * random.uniform(.5, 1))
    images = torch.tensor(np.stack(sections), dtype=torch.float32).permute(0, 3, 1, 2).contiguous()
    return TensorDataset((images / 255 - .45) / .225, torch.arange(count) % 2)


def zennit_pass(
    model: nn.Module, composite: Composite, images: torch.Tensor, targets: Iterable[int], layers: Iterable[str] = ()
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A bare pass of zennit's: relevance of the images, and of the outputs of layers."""
    relevances = {}
    modules = dict(model.named_modules())
    images = images.detach().requires_grad_()
    with composite.context(model):
        handles = [
            modules[layer].register_forward_hook(
                lambda module, args, output, layer=layer: output.register_hook(
                    lambda relevance: relevances.__setitem__(layer, relevance)
                ) and None
            ) for layer in layers
        ]
        try:
            output = model(images)
            heatmap, = torch.autograd.grad(output, images, at_targets(output, targets))
        finally:
            for handle in handles:
                handle.remove()
    return heatmap, relevances


def at_targets(output: torch.Tensor, targets: Iterable[int]) -> torch.Tensor:
    """The outputs at the targets; zero elsewhere."""
    targets = torch.as_tensor(list(targets))[:, None]
    return torch.zeros_like(output).scatter(1, targets, output.detach().gather(1, targets))


def sweep_row(
    work: str, model: nn.Module, dataset: TensorDataset, layers: list[str], *, batch_size: int, reach: float,
    repeats: int, accelerated: bool = False, canonizers: list[Canonizer] | None = None,
) -> Row:
    """Time a sweep against bare passes through the same images, by zennit's rules or by ours."""
    composite = EpsilonPlusFlat(canonizers=canonizers)
    attribution = CondAttribution(model)
    images, targets = dataset.tensors
    concept = ChannelConcept()

    def sweep(folder):
        visualization = FeatureVisualization(attribution, dataset, {layer: concept for layer in layers}, path=folder)
        return visualization.run(composite, 0, len(dataset), batch_size=batch_size)

    def ours():
        with tempfile.TemporaryDirectory() as folder:
            sweep(folder)

    def passes():
        for first in range(0, len(dataset), batch_size):
            part = slice(first, first + batch_size)
            zennit_pass(model, accelerate(composite) if accelerated else composite, images[part], targets[part])

    with tempfile.TemporaryDirectory() as folder:
        store = sweep(folder)
        _, relevances = zennit_pass(model, composite, images[:batch_size], targets[:batch_size], layers)
        error = max(
            deviation(store.values(layer)[:batch_size], concept.read(relevance).value)
            for layer, relevance in relevances.items()
        )
    assert set(relevances) == set(layers)
    ratios, = time_in_turn(ours, passes, repeats=repeats)
    return ratio_row(work, "its LRP passes" if accelerated else "zennit's passes", reach, ratios, error)
