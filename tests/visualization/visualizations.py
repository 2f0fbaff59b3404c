"""A small sweep and its restatement."""
import functools
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization

SAMPLES, CLASSES, CHANNELS = 23, 3, 5
MODES = ["relevance", "activation"]


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, CHANNELS, 3)), ("relu", nn.ReLU()), ("conv2", nn.Conv2d(CHANNELS, 4, 3)),
        ("tanh", nn.Tanh()), ("flatten", nn.Flatten()), ("out", nn.Linear(64, CLASSES)),
    ])).double().eval()


def images(count=SAMPLES):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


TARGETS = torch.arange(SAMPLES) * 2 % CLASSES
MULTI_HOT = (torch.rand(SAMPLES, CLASSES, generator=torch.Generator().manual_seed(3)) > 0.5).long()


def visualization(path, model=None, data=None, layer_map=None, kind=FeatureVisualization, **arguments):
    attribution = CondAttribution(model if model is not None else small_model())
    layer_map = layer_map or {"conv": ChannelConcept(), "conv2": ChannelConcept(), "out": ChannelConcept()}
    return kind(attribution, data or TensorDataset(images(), TARGETS), layer_map, path=path, **arguments)


def swept(path, **arguments):
    fv = visualization(path, **arguments)
    fv.run(EpsilonPlusFlat(), 0, len(fv.dataset), batch_size=7)
    return fv


def restate(model, inputs, targets, layer, mode, axis=1):
    """[rows, concepts, positions] of a layer, and the (sample, target) of each row, sample by sample."""
    attribution, rows, pairs = CondAttribution(model), [], []
    for sample, wanted in enumerate(targets):
        for target in wanted if mode == "relevance" else wanted[:1]:
            result = attribution(
                inputs[sample][None], [{"y": [target]}], EpsilonPlusFlat(), [layer], exclude_parallel=False
            )
            tensor = (result.relevances if mode == "relevance" else result.activations)[layer]
            rows.append(tensor.movedim(axis, 1)[0].flatten(1) if tensor.ndim > 2 else tensor[0][:, None])
            pairs.append((sample, target))
    return torch.stack(rows).numpy(), pairs


@functools.cache
def strengths(layer, mode, several=False):
    """The same for the small model and the images."""
    return restate(small_model(), images(), multiple() if several else single(), layer, mode)


def ranking(strength, pairs, concept, max_target="sum", abs_norm=True, target=None):
    """Samples, values and positions in descending order, restated."""
    values = strength.sum(2) if max_target == "sum" else strength.max(2)
    if abs_norm:
        values = values / np.abs(values).sum(1, keepdims=True)
    rows = [row for row in range(len(values)) if target is None or pairs[row][1] == target]
    rows.sort(key=lambda row: (-values[row, concept], row))
    return [pairs[row][0] for row in rows], values[rows, concept], strength[rows, concept].argmax(1)


def single(targets=TARGETS):
    return [[int(target)] for target in targets]


def multiple(targets=MULTI_HOT):
    return [torch.nonzero(bits)[:, 0].tolist() for bits in targets]


def heatmap_of(fv, sample, layer, concept, position=None, targets=None):
    """Heatmap of one sample and concept, restated with a call of its own."""
    concept_of_layer = fv.layer_map[layer]
    condition = {layer: [concept] if position is None else {concept: [position]}}
    if targets is not None:
        condition["y"] = targets
    return fv.attribution(
        fv.get_data_sample(sample)[0], [condition], EpsilonPlusFlat(),
        mask_map=concept_of_layer.mask if position is None else concept_of_layer.mask_rf,
        start_layer=None if targets is not None else layer, exclude_parallel=False,
    ).heatmap[0]


def hooks_of(model):
    return [
        hook for module in model.modules() for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        ) for hook in hooks.values()
    ]


class CountSamples:
    """Counts the samples that a model is run on, within a context."""

    def __init__(self, model):
        self.model, self.total = model, 0

    def __enter__(self):
        self.handle = register_module_forward_pre_hook(self.add)
        return self

    def __exit__(self, *exception):
        self.handle.remove()

    def add(self, module, args):
        self.total += len(args[0]) if module is self.model else 0


# Classes

def restate_stats(strength, pairs, targets, concept, mean_n, max_target="sum", abs_norm=True):
    """Classes by the mean of their best values, the best class first."""
    values = strength.sum(2) if max_target == "sum" else strength.max(2)
    if abs_norm:
        values = values / np.abs(values).sum(1, keepdims=True)
    of_class = {}
    is_relevance = len(pairs) != len(targets) or all(len(wanted) == 1 for wanted in targets)
    for row, (sample, target) in enumerate(pairs):
        for label in [target] if is_relevance else targets[sample]:
            of_class.setdefault(label, []).append(values[row, concept])
    means = {label: np.mean(sorted(found)[::-1][:mean_n]) for label, found in of_class.items()}
    order = sorted(means, key=lambda label: (-means[label], label))
    return order, np.array([means[label] for label in order])


class Absolute(CondAttribution):
    def heatmap_modifier(self, data, on_device=None):
        return super().heatmap_modifier(data, on_device).abs()


class Counting(nn.Sequential):
    """Counts its passes, and makes a buffer in the first."""

    calls = 0

    def forward(self, data):
        self.calls += 1
        if not hasattr(self, "shape"):
            self.register_buffer("shape", torch.tensor(data.shape[1:]), persistent=False)
        return super().forward(data)


def counting_model():
    return Counting(OrderedDict(small_model()._modules)).eval()
