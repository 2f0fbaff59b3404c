"""Small networks, and the rules of their layers written out by hand."""
from collections import OrderedDict

import torch
from hypothesis import strategies as st
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat

from crp.concepts import ChannelConcept

EPSILON = 1e-6


def stabilised(z):
    return z + torch.where(z >= 0, EPSILON, -EPSILON)


def linear_epsilon(x, layer, relevance):
    z = torch.einsum("bi,oi->boi", x, layer.weight)
    return torch.einsum("boi,bo->bi", z, relevance / stabilised(z.sum(2) + layer.bias))


def linear_flat(x, layer, relevance):
    return (relevance.sum(1, keepdim=True) / (x.shape[1] + EPSILON)).expand_as(x)


def conv_by_loops(x, layer, relevance, contributions):
    result = torch.zeros_like(x)
    height, width = layer.kernel_size
    for i in range(relevance.shape[2]):
        for j in range(relevance.shape[3]):
            patch = x[:, None, :, i:i + height, j:j + width]
            z, bias = contributions(patch, layer)
            share = z / stabilised(z.sum((2, 3, 4)) + bias)[:, :, None, None, None]
            result[:, :, i:i + height, j:j + width] += (share * relevance[:, :, i, j, None, None, None]).sum(1)
    return result


def conv_zplus(x, layer, relevance):
    def contributions(patch, layer):
        z = patch.clamp(min=0) * layer.weight.clamp(min=0) + patch.clamp(max=0) * layer.weight.clamp(max=0)
        return z, 0 if layer.bias is None else layer.bias.clamp(min=0)

    return conv_by_loops(x, layer, relevance, contributions)


def conv_flat(x, layer, relevance):
    return conv_by_loops(
        x, layer, relevance, lambda patch, layer: (torch.ones_like(patch * layer.weight), 0)
    )


def masked(relevance, ids):
    kept = torch.zeros_like(relevance)
    for i in ids:
        kept[:, i] = relevance[:, i]
    return kept


def rule_by_hand(module, is_first, x, relevance):
    if isinstance(module, nn.Conv2d):
        return (conv_flat if is_first else conv_zplus)(x, module, relevance)
    if isinstance(module, nn.Linear):
        return (linear_flat if is_first else linear_epsilon)(x, module, relevance)
    return relevance.reshape(x.shape)


@torch.no_grad()
def by_hand(net, x, condition, init=None, start=None, rule=rule_by_hand):
    """Heatmap, relevances and start values of one sample [1, ...] in a chain of modules."""
    inputs, steps = {}, []
    for name, module in net.named_children():
        inputs[name] = x
        steps.append((name, module))
        x = module(x)
        if name == start:
            break
    source = x if init is None else init
    relevance = source.expand_as(x).clone()
    if start is None and "y" in condition:
        relevance = masked(relevance, condition["y"])
    relevances = {}
    for name, module in reversed(steps):
        relevances[name] = relevance
        if name in condition:
            relevance = masked(relevance, condition[name])
        with torch.enable_grad():
            relevance = rule(module, name == steps[0][0], inputs[name], relevance).detach()
    return relevance.sum(1), relevances, x


def lively(net):
    """Shift the hidden layers so that every channel is active somewhere, and its conditional relevance not zero."""
    for layer in [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))][:-1]:
        if layer.bias is not None:
            layer.bias.data += 1.5
    return net.double().eval()


def conv_net(inplace=False, bias=True):
    torch.manual_seed(1)
    return lively(nn.Sequential(OrderedDict(
        conv1=nn.Conv2d(2, 4, 3, bias=bias), relu1=nn.ReLU(inplace), conv2=nn.Conv2d(4, 3, 3, bias=bias),
        relu2=nn.ReLU(inplace), flatten=nn.Flatten(), fc1=nn.Linear(12, 5, bias=bias), relu3=nn.ReLU(inplace),
        fc2=nn.Linear(5, 3, bias=bias),
    )))


def mlp():
    torch.manual_seed(2)
    return lively(nn.Sequential(OrderedDict(
        fc1=nn.Linear(6, 5), relu1=nn.ReLU(), fc2=nn.Linear(5, 4), relu2=nn.ReLU(), fc3=nn.Linear(4, 3),
    )))


def images(n=1):
    return torch.randn(n, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def vectors(n=1):
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n))


def names_of(net):
    return [name for name, _ in net.named_children()]


def close(actual, expected):
    torch.testing.assert_close(actual, expected.to(actual), rtol=1e-9, atol=1e-11)


def assert_rows(result, net, samples, conditions, init=None, start=None, rule=rule_by_hand):
    """Row i of a result is sample i under condition i, as computed by hand."""
    assert len(result.heatmap) == len(conditions)
    for row, condition in enumerate(conditions):
        heatmap, relevances, prediction = by_hand(net, samples[row:row + 1], condition, init, start, rule)
        close(result.heatmap[row], heatmap[0])
        close(result.prediction[row], prediction[0])
        for layer, relevance in result.relevances.items():
            expected = relevances.get(layer)
            close(relevance[row], torch.zeros_like(relevance[row]) if expected is None else expected[0])


def keep_channels(batch_id, concept_ids, layer_name=None):
    def mask(relevance):
        kept = torch.zeros_like(relevance[batch_id])
        kept[list(concept_ids)] = relevance[batch_id][list(concept_ids)]
        relevance[batch_id] = kept
        return relevance

    return mask


CONCEPT = ChannelConcept()


def mixed_conditions():
    return [
        {"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}, {"conv1": [2], "y": [2]}, {"y": [1]},
        {"conv2": [0], "conv1": [1], "y": [0]},
    ]


condition_strategy = st.fixed_dictionaries(
    {"y": st.lists(st.integers(0, 2), max_size=3, unique=True)},
    optional={
        "fc1": st.lists(st.integers(0, 4), max_size=3, unique=True),
        "conv2": st.lists(st.integers(0, 2), max_size=3, unique=True),
        "conv1": st.lists(st.integers(0, 3), max_size=3, unique=True),
    },
)


def assert_same_results(parts, whole):
    close(torch.cat([part.heatmap for part in parts]), whole.heatmap)
    close(torch.cat([part.prediction for part in parts]), whole.prediction)
    for field in ("activations", "relevances"):
        assert set(getattr(parts[0], field)) == set(getattr(whole, field))
        for layer, tensor in getattr(whole, field).items():
            close(torch.cat([getattr(part, field)[layer] for part in parts]), tensor)


# The model stays as it was

class BatchNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv1, self.bn, self.relu = nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.fc = nn.Conv2d(4, 3, 3), nn.Linear(12, 3)
        self.unused = nn.Linear(2, 2)
        self.bn.running_mean.uniform_(-1, 1)
        self.conv2.bias.requires_grad_(False)

    def forward(self, x):
        return self.fc(self.conv2(self.relu(self.bn(self.conv1(x)))).flatten(1))


def canonized():
    return EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
