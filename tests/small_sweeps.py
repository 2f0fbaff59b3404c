"""Small sweeps, and the rows of their matrices restated sample by sample."""
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

SAMPLES, CLASSES = 13, 3
LAYERS = {"conv": ChannelConcept(), "fc": ChannelConcept()}
QUANTITIES = ["relevance", "activation"]


def small_model(classes=CLASSES):
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 4)),
        ("tanh", nn.Tanh()), ("out", nn.Linear(4, classes)),
    ])).double().eval()


def images(count=SAMPLES):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def single_targets(count=SAMPLES):
    return torch.arange(count) * 2 % CLASSES


def dataset(count=SAMPLES):
    return TensorDataset(images(count), single_targets(count))


class Breakable:
    """A dataset that fails at one sample until it is repaired."""

    def __init__(self, at):
        self.items, self.at = dataset(), at

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if index == self.at:
            raise RuntimeError("cannot read this file")
        return self.items[index]


def visualization(path, data=None, model=None, layer_map=LAYERS, kind=FeatureVisualization, **arguments):
    attribution = CondAttribution(small_model() if model is None else model)
    return kind(attribution, dataset() if data is None else data, layer_map, path=path, **arguments)


def sweep(path, *, batch_size=4, checkpoint=2, composite=None, num_workers=0, overwrite=False, **arguments):
    fv = visualization(path, **arguments)
    return fv.run(composite or EpsilonPlusFlat(), 0, len(fv.dataset), batch_size, checkpoint, num_workers=num_workers,
                  overwrite=overwrite)


def restate_rows(model, inputs, targets, layers=LAYERS, max_target="sum"):
    """Per layer and quantity: (sample, target, values, strength of each position) of every row, sample by sample."""
    attribution, found = CondAttribution(model), {}
    for sample, wanted in enumerate(targets):
        for first, target in enumerate(wanted or [None]):
            condition = {"y": [] if target is None else [target]}
            row = inputs[sample]
            row = row[None] if isinstance(row, torch.Tensor) else tuple(part[None] for part in row)
            result = attribution(row, [condition], EpsilonPlusFlat(), list(layers), exclude_parallel=False)
            for quantity, tensors in (("relevance", result.relevances), ("activation", result.activations)):
                if quantity == "relevance" and target is None or quantity == "activation" and first > 0:
                    continue
                for layer, concept in layers.items():
                    per_position = tensors[layer][0].movedim(concept.axis - (concept.axis > 0), 0).flatten(1).numpy() \
                        if tensors[layer].ndim > 2 else tensors[layer][0][:, None].numpy()
                    value = per_position.sum(1) if max_target == "sum" else per_position.max(1)
                    label = target if quantity == "relevance" else -1
                    prediction = int(result.prediction.argmax())
                    found.setdefault((layer, quantity), []).append((sample, label, prediction, value, per_position))
    return found


@functools.cache
def restated(max_target="sum"):
    return restate_rows(small_model(), images(), [[int(t)] for t in single_targets()], max_target=max_target)


def check_store(store, expected, statistic="sum"):
    for (layer, quantity), entries in expected.items():
        rows = store.rows(quantity)
        assert [(row["sample"], row["target"], row["prediction"]) for row in rows] == [entry[:3] for entry in entries]
        values = np.array([entry[3] for entry in entries])
        np.testing.assert_allclose(store.values(layer, quantity, statistic=statistic)[:], values, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            store.values(layer, quantity, statistic=statistic, normalised=True)[:],
            values / np.abs(values).sum(1, keepdims=True), rtol=1e-4, atol=1e-7,
        )
        strength = np.array([entry[4] for entry in entries])
        at_position = np.take_along_axis(strength, store.positions(layer, quantity)[:][..., None], 2)[..., 0]
        np.testing.assert_allclose(at_position, strength.max(2), rtol=1e-9, atol=1e-12)


def hooks_of(model):
    return [
        hook for module in model.modules() for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        ) for hook in hooks.values()
    ]


PROBES = 7
"""Samples that are run to learn about layers: what they give for one; for one, another and both, where these are; and
for one twice, to learn what the model answers."""


def count_forwarded(model):
    """A list that grows by the number of samples of each forward pass."""
    counts = []

    def count(module, args):
        if module is model:
            counts.append(len(args[0]))

    register_module_forward_pre_hook(count)
    return counts


MULTI_HOT = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]])


class Items(list):
    pass


def changed_model():
    model = small_model()
    with torch.no_grad():
        model.out.bias[0] += 1e-3
    return model


# Several parts

def run_parts(path, parts, **arguments):
    return [name for first, stop in parts for name in visualization(path, **arguments).run_distributed(
        EpsilonPlusFlat(), first, stop, batch_size=2, checkpoint=1)]
