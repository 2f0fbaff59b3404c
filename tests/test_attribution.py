"""CondAttribution against the rules and the masking written out by hand, and what it may not do to model and data."""
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, LayerMapComposite
from zennit.core import Composite
from zennit.rules import Epsilon

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.hooks import MaskHook

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


def gradient_by_hand(module, is_first, x, relevance):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(module(x), x, relevance)[0]


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


NETS = {"conv": (conv_net, images), "mlp": (mlp, vectors)}


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


CONDITIONS = {
    "y only": {"y": [1]},
    "several targets": {"y": [0, 2]},
    "one layer": {"fc1": [2], "y": [1]},
    "several ids": {"fc1": [0, 4], "y": [0]},
    "last layer": {"fc1": [1, 3], "y": [2]},
    "empty ids": {"fc1": [], "y": [0]},
    "empty targets": {"y": []},
}
CONV_CONDITIONS = {
    "conv layer": {"conv2": [2], "y": [1]},
    "two layers": {"conv2": [0, 1], "conv1": [3], "y": [1]},
    "three layers": {"fc1": [1, 2, 3], "conv2": [1], "conv1": [0, 2], "y": [0, 1]},
    "a relu": {"relu2": [1], "y": [1]},
    "first layer": {"conv1": [1], "y": [2]},
    "one layer empty": {"fc1": [1], "conv1": [], "y": [0]},
}


@pytest.mark.parametrize("composite", [True, False], ids=["rules", "gradients"])
@pytest.mark.parametrize("name, condition", [
    *[pytest.param(net, condition, id=f"{net}-{label}") for net in NETS for label, condition in CONDITIONS.items()],
    *[pytest.param("conv", condition, id=f"conv-{label}") for label, condition in CONV_CONDITIONS.items()],
])
def test_heatmap_relevance_and_activation_equal_the_rules_by_hand(name, condition, composite):
    make_net, make_data = NETS[name]
    net, data = make_net(), make_data()
    result = CondAttribution(net)(
        data, [condition], EpsilonPlusFlat() if composite else None, record_layer=names_of(net)
    )
    assert_rows(result, net, data, [condition], rule=rule_by_hand if composite else gradient_by_hand)
    x = data
    for layer, module in net.named_children():
        x = module(x)
        close(result.activations[layer], x)
    assert not result.heatmap.requires_grad and not result.prediction.requires_grad


@pytest.mark.parametrize("name", NETS)
def test_every_channel_of_the_test_networks_carries_relevance(name):
    make_net, make_data = NETS[name]
    net = make_net()
    for samples in (1, 2, 3):
        relevances = CondAttribution(net)(make_data(samples), [{"y": [1]}], EpsilonPlusFlat(), names_of(net)).relevances
        for layer in names_of(net)[:-1]:
            assert relevances[layer].transpose(0, 1).flatten(1).any(1).all()


def test_without_composite_the_heatmap_is_the_gradient_times_the_initial_relevance():
    net, data = conv_net(), images(2).requires_grad_()
    gradient, = torch.autograd.grad(net(data)[:, 1].sum(), data)
    result = CondAttribution(net)(data.detach(), [{"y": [1]}], init_rel=1)
    close(result.heatmap, gradient.sum(1))


INITIAL = {
    "int": (1, torch.ones(1, 3)),
    "float": (-2.5, torch.full((1, 3), -2.5)),
    "tensor": (torch.tensor([[1., -2., 3.]]), torch.tensor([[1., -2., 3.]])),
    "tensor of one row": (torch.tensor([4., 5., 6.]), torch.tensor([[4., 5., 6.]])),
    "callable": (lambda prediction: prediction.sign() * 2, None),
}


@pytest.mark.parametrize("condition", [{"y": [2]}, {"fc1": [1, 2], "y": [0, 1]}, {}, {"fc1": [0, 3]}])
@pytest.mark.parametrize("label", INITIAL)
def test_init_rel_in_all_forms_with_and_without_y(label, condition):
    net, data = conv_net(), images()
    init_rel, expected = INITIAL[label]
    if expected is None:
        expected = net(data).detach().sign() * 2
    result = CondAttribution(net)(data, [condition], EpsilonPlusFlat(), names_of(net), init_rel=init_rel)
    assert_rows(result, net, data, [condition], init=expected.double())


def test_init_rel_tensor_has_a_row_per_condition_also_when_layers_are_mixed():
    net, data = conv_net(), images()
    conditions = [{"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}, {"conv1": [2]}]
    init_rel = torch.arange(9.).view(3, 3).double() + 1
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), init_rel=init_rel)
    for row, condition in enumerate(conditions):
        close(result.heatmap[row], by_hand(net, data, condition, init_rel[row:row + 1])[0][0])


@pytest.mark.parametrize("exclude_parallel", [True, False])
@pytest.mark.parametrize("condition", [
    {}, {"y": [0]}, {"conv2": [1]}, {"conv2": [1], "conv1": [2, 3]}, {"conv1": [0], "y": [1]}, {"conv2": []},
])
def test_start_layer_starts_with_its_activation_and_ignores_y(condition, exclude_parallel):
    net, data = conv_net(), images()
    result = CondAttribution(net)(
        data, [condition], EpsilonPlusFlat(), ["conv1", "relu1", "conv2"], start_layer="conv2",
        exclude_parallel=exclude_parallel,
    )
    assert_rows(result, net, data, [condition], start="conv2")
    close(result.prediction, net.conv2(net.relu1(net.conv1(data))))


@pytest.mark.parametrize("init_rel", [1, lambda activation: activation.abs()], ids=["int", "callable"])
def test_start_layer_with_init_rel(init_rel):
    net, data = conv_net(), images()
    activation = net.conv2(net.relu1(net.conv1(data))).detach()
    init = torch.ones_like(activation) if init_rel == 1 else activation.abs()
    result = CondAttribution(net)(
        data, [{"conv2": [0]}], EpsilonPlusFlat(), ["conv1", "conv2"], start_layer="conv2", init_rel=init_rel
    )
    assert_rows(result, net, data, [{"conv2": [0]}], init=init, start="conv2")


def test_layers_above_the_start_layer_receive_no_relevance():
    net, data = conv_net(), images()
    result = CondAttribution(net)(data, [{}], EpsilonPlusFlat(), ["fc1", "conv1"], start_layer="conv2")
    assert not result.relevances["fc1"].any() and result.relevances["conv1"].any()


def keep_channels(batch_id, concept_ids, layer_name=None):
    def mask(relevance):
        kept = torch.zeros_like(relevance[batch_id])
        kept[list(concept_ids)] = relevance[batch_id][list(concept_ids)]
        relevance[batch_id] = kept
        return relevance

    return mask


CONCEPT = ChannelConcept()


@pytest.mark.parametrize("mask_map", [
    keep_channels, ChannelConcept.mask, CONCEPT.mask, CONCEPT, {"conv1": keep_channels, "conv2": ChannelConcept.mask},
    {"conv1": CONCEPT, "conv2": CONCEPT}, {("conv1", CONCEPT), ("conv2", CONCEPT)},
    [("conv1", CONCEPT), ("conv2", CONCEPT)],
], ids=["function", "class method", "bound method", "concept", "dict of functions", "layer_map dict", "layer_map set",
        "layer_map list"])
def test_mask_map_as_function_dict_or_layer_map(mask_map):
    net, data = conv_net(), images()
    conditions = [{"conv2": [0], "conv1": [1, 2], "y": [1]}, {"conv1": [3], "y": [0]}]
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), names_of(net), mask_map)
    assert_rows(result, net, data.expand(2, -1, -1, -1), conditions)


def test_mask_map_is_called_with_row_ids_and_layer():
    net, seen = conv_net(), []

    def spy(batch_id, concept_ids, layer_name):
        seen.append((batch_id, concept_ids, layer_name))
        return lambda relevance: relevance

    CondAttribution(net)(images(2), [{"conv2": [0], "y": [0]}, {"conv2": ["any", "thing"], "y": [0]}], mask_map=spy)
    assert (0, [0], "conv2") in seen and (1, ["any", "thing"], "conv2") in seen


@pytest.mark.parametrize("ids", [2, [2], (2,), torch.tensor(2), torch.tensor([2]), torch.tensor([2]).numpy()])
def test_ids_as_int_list_array_or_tensor(ids):
    net, data = conv_net(), images()
    result = CondAttribution(net)(data, [{"conv1": ids, "y": ids}], EpsilonPlusFlat(), ["conv1"])
    assert_rows(result, net, data, [{"conv1": [2], "y": [2]}])


def test_recorded_relevance_is_before_masking():
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    conditioned = attribution(data, [{"conv2": [1], "y": [1]}], EpsilonPlusFlat(), ["conv2"])
    free = attribution(data, [{"y": [1]}], EpsilonPlusFlat(), ["conv2"])
    close(conditioned.relevances["conv2"], free.relevances["conv2"])
    assert free.relevances["conv2"][0, 0].any()


def mixed_conditions():
    return [
        {"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}, {"conv1": [2], "y": [2]}, {"y": [1]},
        {"conv2": [0], "conv1": [1], "y": [0]},
    ]


@pytest.mark.parametrize("exclude_parallel", [True, False])
def test_known_bug_conditions_over_mixed_layers_came_back_in_another_order(exclude_parallel):
    net, data = conv_net(), images()
    conditions = mixed_conditions()
    result = CondAttribution(net)(
        data, conditions, EpsilonPlusFlat(), names_of(net), exclude_parallel=exclude_parallel
    )
    assert_rows(result, net, data.expand(len(conditions), -1, -1, -1), conditions)


def test_known_bug_two_samples_with_two_mixed_conditions_gave_four_outputs():
    net, data = conv_net(), images(2)
    conditions = [{"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}]
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), names_of(net))
    assert result.heatmap.shape == (2, 6, 6)
    assert_rows(result, net, data, conditions)


@pytest.mark.parametrize("conditions", [
    [{"conv1": [0], "y": [0]}, {"conv1": [1]}, {"conv1": [2], "y": [2]}],
    [{"conv1": [0]}, {"conv2": [1], "y": [1]}, {}],
])
def test_known_bug_conditions_with_y_in_only_some_entries_misaligned(conditions):
    net, data = conv_net(), images()
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), names_of(net), init_rel=1)
    assert_rows(result, net, data.expand(3, -1, -1, -1), conditions, init=torch.ones(1, 3).double())


@pytest.mark.parametrize("samples, count", [(2, 3), (3, 2), (2, 1), (3, 5)])
def test_cross_product_is_sample_by_sample(samples, count):
    net, data = conv_net(), images(samples)
    conditions = mixed_conditions()[:count]
    result = CondAttribution(net)(data, conditions, EpsilonPlusFlat(), ["conv1", "fc1"])
    assert_rows(result, net, data.repeat_interleave(count, 0), conditions * samples)


condition_strategy = st.fixed_dictionaries(
    {"y": st.lists(st.integers(0, 2), max_size=3, unique=True)},
    optional={
        "fc1": st.lists(st.integers(0, 4), max_size=3, unique=True),
        "conv2": st.lists(st.integers(0, 2), max_size=3, unique=True),
        "conv1": st.lists(st.integers(0, 3), max_size=3, unique=True),
    },
)


@settings(deadline=None, max_examples=25)
@given(st.lists(condition_strategy, min_size=1, max_size=4), st.integers(1, 3), st.booleans())
def test_any_conditions_and_samples_equal_the_rules_by_hand(conditions, samples, exclude_parallel):
    conditions = [
        {layer: condition[layer] for layer in ("fc1", "conv2", "conv1", "y") if layer in condition}
        for condition in conditions
    ]
    net, data = conv_net(), images(samples)
    result = CondAttribution(net)(
        data, conditions, EpsilonPlusFlat(), ["conv1", "conv2", "fc1"], exclude_parallel=exclude_parallel
    )
    if samples == len(conditions):
        assert_rows(result, net, data, conditions)
    else:
        assert_rows(result, net, data.repeat_interleave(len(conditions), 0), conditions * samples)


def assert_same_results(parts, whole):
    close(torch.cat([part.heatmap for part in parts]), whole.heatmap)
    close(torch.cat([part.prediction for part in parts]), whole.prediction)
    for field in ("activations", "relevances"):
        assert set(getattr(parts[0], field)) == set(getattr(whole, field))
        for layer, tensor in getattr(whole, field).items():
            close(torch.cat([getattr(part, field)[layer] for part in parts]), tensor)


@pytest.mark.parametrize("exclude_parallel", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5, 10])
def test_generate_equals_call_for_any_batch_size(batch_size, exclude_parallel):
    net, data, attribution = conv_net(), images(), CondAttribution(conv_net())
    conditions = mixed_conditions()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=names_of(net), exclude_parallel=exclude_parallel)
    parts = list(attribution.generate(data, conditions, batch_size=batch_size, verbose=False, **arguments))
    assert [len(part.heatmap) for part in parts] == [
        min(batch_size, len(conditions) - first) for first in range(0, len(conditions), batch_size)
    ]
    assert_same_results(parts, attribution(data, conditions, **arguments))


@settings(deadline=None, max_examples=15)
@given(st.lists(condition_strategy, min_size=1, max_size=5), st.integers(1, 6))
def test_generate_equals_call_for_any_conditions(conditions, batch_size):
    attribution, data = CondAttribution(conv_net()), images()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=["conv1", "fc1"], exclude_parallel=False)
    parts = list(attribution.generate(data, conditions, batch_size=batch_size, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, conditions, **arguments))


@pytest.mark.parametrize("init_rel", [
    1, lambda prediction: prediction ** 2, torch.arange(15.).view(5, 3).double(), torch.tensor([1., 2., 3.]).double(),
], ids=["int", "callable", "row per condition", "one row"])
@pytest.mark.parametrize("batch_size", [2, 5])
def test_generate_with_init_rel_equals_call(init_rel, batch_size):
    attribution, data = CondAttribution(conv_net()), images()
    arguments = dict(composite=EpsilonPlusFlat(), record_layer=["conv2"], init_rel=init_rel)
    parts = list(attribution.generate(data, mixed_conditions(), batch_size=batch_size, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, mixed_conditions(), **arguments))


def test_generate_with_start_layer_and_mask_map_equals_call():
    attribution, data = CondAttribution(conv_net()), images()
    conditions = [{"conv2": [0]}, {"conv2": [1], "conv1": [0]}, {"conv1": [2]}]
    arguments = dict(
        composite=EpsilonPlusFlat(), record_layer=["conv2", "conv1"], start_layer="conv2",
        mask_map={"conv1": keep_channels, "conv2": CONCEPT},
    )
    parts = list(attribution.generate(data, conditions, batch_size=2, verbose=False, **arguments))
    assert_same_results(parts, attribution(data, conditions, **arguments))


def test_generate_runs_the_model_once():
    net, calls = conv_net(), []
    net.conv1.register_forward_hook(lambda *args: calls.append(1))
    parts = list(CondAttribution(net).generate(
        images(), [{"y": [i % 3]} for i in range(6)], batch_size=2, verbose=False
    ))
    assert len(parts) == 3 and len(calls) == 1


def test_generate_refuses_several_samples_and_empty_batches():
    attribution = CondAttribution(conv_net())
    with pytest.raises(ValueError, match="one sample.* 2"):
        attribution.generate(images(2), [{"y": [0]}])
    with pytest.raises(ValueError, match="batch_size"):
        attribution.generate(images(), [{"y": [0]}], batch_size=0)


@pytest.mark.parametrize("exclude_parallel", [True, False])
def test_attribute_rounds_equals_call(exclude_parallel):
    attribution, data = CondAttribution(conv_net()), images(3)
    a, b, c, d, e = mixed_conditions()
    rounds = [[a, b, c], [None, d, None], [e, None, a]]
    arguments = dict(
        composite=EpsilonPlusFlat(), record_layer=["conv1", "conv2"], exclude_parallel=exclude_parallel
    )
    results = list(attribution.attribute_rounds(data, rounds, **arguments))
    for conditions, result in zip(rounds, results, strict=True):
        rows = [row for row, condition in enumerate(conditions) if condition is not None]
        assert_same_results([result], attribution(data[rows], [conditions[row] for row in rows], **arguments))


class Residual(nn.Module):
    """a = l1(x), b = l2(relu(a)), y = l3(relu(a + b))"""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.l1, self.relu1, self.l2 = nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5)
        self.relu2, self.l3 = nn.ReLU(), nn.Linear(5, 3)

    def forward(self, x):
        a = self.l1(x)
        return self.l3(self.relu2(a + self.l2(self.relu1(a))))


def residual_by_hand(net, x, condition, exclude_parallel):
    a = net.l1(x)
    b = net.l2(a.relu())
    c = (a + b).relu()
    y = net.l3(c)
    relevances = {"l3": masked(y, condition["y"])}
    at_c = linear_epsilon(c, net.l3, relevances["l3"])
    relevances["l2"] = at_c
    at_b = masked(at_c, condition["l2"]) if "l2" in condition else at_c
    at_a = linear_epsilon(a.relu(), net.l2, at_b)
    if not (exclude_parallel and "l2" in condition):
        at_a = at_a + at_c
    relevances["l1"] = at_a
    at_a = masked(at_a, condition["l1"]) if "l1" in condition else at_a
    return linear_flat(x, net.l1, at_a).sum(1), relevances


@pytest.mark.parametrize("exclude_parallel", [True, False])
@pytest.mark.parametrize("conditions", [
    [{"y": [1]}], [{"l2": [0, 3], "y": [1]}], [{"l2": [2], "l1": [1, 2], "y": [0]}], [{"l1": [4], "y": [2]}],
    [{"l2": [], "y": [0]}], [{"l2": [1], "y": [0]}, {"l1": [1], "y": [0]}, {"l2": [3], "y": [2]}, {"y": [1]}],
])
def test_exclude_parallel_on_a_residual_network_by_hand(conditions, exclude_parallel):
    net = lively(Residual())
    x = torch.randn(1, 4, dtype=torch.float64)
    result = CondAttribution(net, functional=False)(
        x, conditions, EpsilonPlusFlat(), ["l1", "l2", "l3"], exclude_parallel=exclude_parallel
    )
    for row, condition in enumerate(conditions):
        heatmap, relevances = residual_by_hand(net, x, condition, exclude_parallel)
        close(result.heatmap[row:row + 1], heatmap)
        for layer, relevance in relevances.items():
            close(result.relevances[layer][row:row + 1], relevance)


def test_exclude_parallel_makes_a_difference_on_a_residual_network():
    net, x = lively(Residual()), torch.randn(1, 4, dtype=torch.float64)
    first, second = (
        CondAttribution(net)(x, [{"l2": [0], "y": [1]}], EpsilonPlusFlat(), exclude_parallel=flag).heatmap
        for flag in (True, False)
    )
    assert not torch.allclose(first, second)


def test_relevance_is_conserved_without_biases():
    net, data = conv_net(bias=False), images(3)
    tiny = EpsilonPlusFlat(epsilon=1e-14, stabilizer=1e-14)
    result = CondAttribution(net)(data, [{"y": [1]}], tiny, names_of(net))
    output = net(data)[:, 1].detach()
    torch.testing.assert_close(result.heatmap.sum((1, 2)), output)
    for relevance in result.relevances.values():
        torch.testing.assert_close(relevance.flatten(1).sum(1), output)


@pytest.mark.parametrize("layer, channels", [("conv1", 4), ("conv2", 3), ("fc1", 5)])
def test_heatmaps_of_single_channels_add_up_to_the_unconditional_one(layer, channels):
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    parts = attribution(data, [{layer: [c], "y": [0]} for c in range(channels)], EpsilonPlusFlat()).heatmap
    whole = attribution(data, [{"y": [0]}], EpsilonPlusFlat()).heatmap
    close(parts.sum(0, keepdim=True), whole)
    assert parts.flatten(1).any(1).all()


@pytest.mark.parametrize("composite", [True, False], ids=["rules", "gradients"])
@pytest.mark.parametrize("condition", [*CONDITIONS.values(), *CONV_CONDITIONS.values()])
def test_models_with_in_place_relu(condition, composite):
    data = images()
    rules = EpsilonPlusFlat() if composite else None
    inplace = CondAttribution(conv_net(inplace=True))(data, [condition], rules, names_of(conv_net()))
    plain = CondAttribution(conv_net())(data, [condition], rules, names_of(conv_net()))
    assert_same_results([inplace], plain)


def test_start_layer_before_an_in_place_relu():
    data = images()
    inplace, plain = (
        CondAttribution(conv_net(inplace=flag))(data, [{"conv2": [0]}], EpsilonPlusFlat(), ["conv2", "conv1"],
                                                start_layer="conv2")
        for flag in (True, False)
    )
    assert_same_results([inplace], plain)


def test_masking_by_hand_with_mask_hook_equals_a_condition():
    net, data = conv_net(), images().requires_grad_()
    expected = by_hand(net, data.detach(), {"conv2": [1], "y": [1]})[0]
    with EpsilonPlusFlat().context(net) as modified:
        handles = MaskHook([ChannelConcept.mask(0, [1])]).register(net.conv2)
        output = modified(data)
        gradient, = torch.autograd.grad(output, data, masked(output, [1]))
        handles.remove()
    close(gradient.sum(1), expected)
    assert expected.any() and not net.conv2._forward_hooks


# The caller's data

def test_overwrite_data_grad_replaces_the_gradient():
    net, data = conv_net(), images().requires_grad_()
    attribution = CondAttribution(net)
    data.grad = torch.full_like(data, 7.)
    for target in (0, 1):
        heatmap = attribution(data, [{"y": [target]}], EpsilonPlusFlat()).heatmap
        close(data.grad.sum(1), heatmap)


def test_without_overwrite_data_grad_gradients_add_up():
    net, data = conv_net(), images().requires_grad_()
    attribution = CondAttribution(net, overwrite_data_grad=False)
    total = sum(attribution(data, [{"y": [target]}], EpsilonPlusFlat()).heatmap for target in (0, 1))
    close(data.grad.sum(1), total)


def test_gradient_of_data_under_several_conditions_is_their_sum():
    net, data = conv_net(), images(2).requires_grad_()
    heatmap = CondAttribution(net)(data, mixed_conditions(), EpsilonPlusFlat()).heatmap
    close(data.grad.sum(1), heatmap.view(2, 5, 6, 6).sum(1))


@pytest.mark.parametrize("generate", [True, False])
def test_data_without_requires_grad_stays_untouched(generate):
    net, data = conv_net(), images()
    before = data.clone()
    attribution = CondAttribution(net)
    if generate:
        list(attribution.generate(data, mixed_conditions(), EpsilonPlusFlat(), verbose=False))
    else:
        attribution(data, mixed_conditions(), EpsilonPlusFlat())
    assert not data.requires_grad and data.grad is None and torch.equal(data, before)


@pytest.mark.parametrize("composite", [EpsilonPlusFlat(), None], ids=["rules", "gradients"])
@pytest.mark.parametrize("requires_grad", [True, False])
def test_a_model_that_writes_to_its_input_does_not_change_the_data(requires_grad, composite):
    net = nn.Sequential(nn.ReLU(inplace=True), conv_net()).eval()
    data = images().requires_grad_(requires_grad)
    before = data.detach().clone()
    result = CondAttribution(net)(data, [{"y": [0]}], composite)
    assert torch.equal(data, before) and result.heatmap.any()


def test_data_with_history_passes_the_gradient_on():
    net, weight = conv_net(), torch.ones(2, 1, 1, dtype=torch.float64, requires_grad=True)
    image = images()
    heatmap = CondAttribution(net, heatmap_axis=None)(image * weight, [{"y": [0]}], EpsilonPlusFlat()).heatmap
    close(weight.grad, (heatmap[0] * image[0]).sum((1, 2), keepdim=True))


def test_generate_leaves_the_gradient_of_the_data_alone():
    data = images().requires_grad_()
    data.grad = torch.full_like(data, 7.)
    list(CondAttribution(conv_net()).generate(data, mixed_conditions(), EpsilonPlusFlat(), verbose=False))
    assert data.requires_grad and (data.grad == 7).all()


def test_conditions_may_come_from_an_iterator_and_stay_as_they_are():
    attribution, data, conditions = CondAttribution(conv_net()), images(2), mixed_conditions()
    expected = attribution(data, conditions, EpsilonPlusFlat())
    assert conditions == mixed_conditions()
    assert_same_results([attribution(data, tuple(conditions), EpsilonPlusFlat())], expected)
    assert_same_results([attribution(data, iter(conditions), EpsilonPlusFlat())], expected)


def test_negative_ids_count_from_the_end():
    net, data = conv_net(), images()
    result = CondAttribution(net)(data, [{"conv2": [-1], "y": [-2]}], EpsilonPlusFlat(), ["conv1"])
    assert_rows(result, net, data, [{"conv2": [2], "y": [1]}])


def test_results_share_no_memory_with_the_next_call():
    net, data = conv_net(), images().requires_grad_()
    attribution = CondAttribution(net, heatmap_axis=None)
    first = attribution(data, [{"y": [0]}], EpsilonPlusFlat(), ["conv1"])
    kept = first.heatmap.clone(), first.relevances["conv1"].clone(), first.activations["conv1"].clone()
    attribution(data, [{"y": [1]}], EpsilonPlusFlat(), ["conv1"])
    assert torch.equal(first.heatmap, kept[0])
    assert torch.equal(first.relevances["conv1"], kept[1]) and torch.equal(first.activations["conv1"], kept[2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make_data_inside", [True, False])
def test_works_without_grad_mode_and_in_inference_mode(mode, make_data_inside):
    net, data = conv_net(), images()
    expected = CondAttribution(net)(data, mixed_conditions(), EpsilonPlusFlat(), ["conv1"])
    with mode():
        inside = data.clone() if make_data_inside else data
        result = CondAttribution(net)(inside, mixed_conditions(), EpsilonPlusFlat(), ["conv1"])
        parts = list(CondAttribution(net).generate(
            inside, mixed_conditions(), EpsilonPlusFlat(), ["conv1"], batch_size=2, verbose=False
        ))
    assert_same_results([result], expected)
    assert_same_results(parts, expected)


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


@pytest.mark.parametrize("no_param_grad", [True, False])
def test_nothing_stays_on_the_model_after_success(model_state, no_param_grad):
    net = BatchNormNet().eval()
    before = model_state(net)
    attribution = CondAttribution(net, no_param_grad=no_param_grad)
    result = attribution(images().float(), [{"conv1": [0], "y": [0]}, {"y": [1]}], canonized(), ["bn", "conv2"])
    assert result.heatmap.any()
    after = model_state(net)
    assert after[0] == before[0] and after[2] == before[2]
    if no_param_grad:
        assert after == before
    else:
        assert [p.requires_grad for p in net.parameters()] == [entry[1] for entry in before[1].values()]
        assert all(parameter is original for parameter, original in zip(net.parameters(), list(net.parameters())))


@pytest.mark.parametrize("no_param_grad", [True, False])
def test_parameters_are_frozen_only_if_asked(no_param_grad):
    net = BatchNormNet().eval()
    seen = []
    net.fc.register_forward_hook(lambda module, *args: seen.append(module.weight.requires_grad))
    CondAttribution(net, no_param_grad=no_param_grad)(images().float(), [{"y": [0]}])
    assert seen == [not no_param_grad] and net.fc.weight.requires_grad
    assert (net.fc.weight.grad is None) == no_param_grad
    assert not net.conv2.bias.requires_grad


def test_parameters_that_canonizers_make_are_frozen_too():
    net, seen = BatchNormNet().eval(), []
    net.fc.register_forward_hook(lambda *args: seen.extend(p.requires_grad for p in net.parameters()))
    CondAttribution(net)(images().float(), [{"y": [0]}], canonized())
    assert seen and not any(seen)


def image_with_nan():
    data = images().float()
    data[0, 0, 0, 0] = float("nan")
    return data


def failing_mask(batch_id, ids, layer):
    def mask(relevance):
        raise RuntimeError("a mask fails")

    return mask


def failing_init(prediction):
    raise RuntimeError("init_rel fails")


ERRORS = {
    "unknown layer in a condition": (dict(conditions=[{"conv3": [0], "y": [0]}]), ValueError, "'conv3'.*'conv"),
    "unknown layer to record": (dict(record_layer=["fcc"]), ValueError, "'fcc'; did you mean 'fc'"),
    "unknown start layer": (dict(start_layer="con2"), ValueError, "'con2'; did you mean 'conv2'"),
    "layer that is not used": (dict(record_layer=["unused"]), ValueError, "'unused' is not used"),
    "unknown part of a layer": (dict(record_layer=["conv1:out"]), ValueError, "conv1:out.*'in'"),
    "no such output": (dict(record_layer=["conv1:1"]), ValueError, "conv1:1.*no tensor"),
    "concept too large": (dict(conditions=[{"conv1": [0, 4], "y": [0]}]), IndexError, "4 .*'conv1'.* 0 to 3"),
    "concept too small": (dict(conditions=[{"conv1": [-5], "y": [0]}]), IndexError, "-5 .*'conv1'.* 0 to 3"),
    "concept too large without exclude_parallel": (
        dict(conditions=[{"conv2": [3], "y": [0]}], exclude_parallel=False), IndexError, "3 .*'conv2'.* 0 to 2"),
    "concept that is no integer": (dict(conditions=[{"conv1": [1.5], "y": [0]}]), TypeError, "integers"),
    "target too large": (dict(conditions=[{"y": [3]}]), IndexError, "target 3 .* 0 to 2"),
    "target too small": (dict(conditions=[{"y": [-4]}]), IndexError, "target -4 .* 0 to 2"),
    "target with too many indices": (dict(conditions=[{"y": [(0, 1)]}]), IndexError, r"\(0, 1\)"),
    "target that is no integer": (dict(conditions=[{"y": [0.5]}]), TypeError, "0.5"),
    "wrong order of layers": (
        dict(conditions=[{"conv1": [0], "conv2": [0], "y": [0]}]), ValueError, r"last to first.*'conv2', 'conv1'"),
    "condition above the start layer": (
        dict(conditions=[{"conv2": [0]}], start_layer="conv1"), ValueError, "'conv2'.*'conv1'"),
    "no conditions": (dict(conditions=[]), ValueError, "empty"),
    "conditions are one dict": (dict(conditions={"y": [0]}), TypeError, "list of dicts"),
    "conditions are a number": (dict(conditions=3), TypeError, "list of dicts"),
    "a condition is no dict": (dict(conditions=[("y", 0)]), TypeError, "a condition is a dict"),
    "a condition without start": (dict(conditions=[{"conv1": [0]}]), ValueError, "where relevance starts"),
    "record_layer is a string": (dict(record_layer="conv1"), TypeError, r"\['conv1'\]"),
    "init_rel of another shape": (dict(init_rel=torch.ones(1, 7)), ValueError, "init_rel.*7"),
    "init_rel fails": (dict(init_rel=failing_init), RuntimeError, "init_rel fails"),
    "a mask fails": (
        dict(conditions=[{"conv1": [0], "y": [0]}], mask_map=failing_mask), RuntimeError, "a mask fails"),
    "mask_map without the layer": (
        dict(conditions=[{"conv1": [0], "y": [0]}], mask_map={"conv2": CONCEPT}), ValueError, "mask_map.*conv1"),
    "data of another shape": (dict(data=torch.ones(1, 2, 9, 9)), RuntimeError, None),
    "data without samples": (dict(data=torch.ones(0, 2, 6, 6)), ValueError, "no sample"),
    "data of another type": (dict(data="image"), TypeError, "data is a tensor"),
    "NaN in the data": (dict(data=image_with_nan()), FloatingPointError, "the data hold NaN"),
}


@pytest.mark.parametrize("generate", [False, True], ids=["call", "generate"])
@pytest.mark.parametrize("label", ERRORS)
def test_known_bug_an_error_left_hooks_on_the_model(label, generate, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    changes, error, message = ERRORS[label]
    composite = canonized()
    arguments = dict(data=images().float(), conditions=[{"y": [0]}], composite=composite) | changes
    attribution = CondAttribution(net)
    with pytest.raises(error, match=message):
        if generate:
            list(attribution.generate(verbose=False, **arguments))
        else:
            attribution(**arguments)
    assert model_state(net) == before
    assert not composite.handles
    assert attribution(images().float(), [{"y": [0]}], composite).heatmap.any()


@pytest.mark.parametrize("conditions", [
    [{"conv1": [9], "y": [0]}], [{"y": [9]}], [{"conv1": [0], "conv2": [0], "y": [0]}],
    [{"conv1": [0], "y": [0]}, {"conv2": [9], "y": [0]}], [{"conv1": [0], "y": [0]}, {"conv2": [0], "y": [9]}],
    [{"conv1": [0], "y": [0]}, {"conv1": [0], "conv2": [0], "y": [0]}],
])
@pytest.mark.parametrize("generate", [False, True])
def test_errors_in_any_condition_come_before_relevance_flows(conditions, generate):
    flows = []

    class Counting(CondAttribution):
        def backward(self, *args, **kwargs):
            flows.append(1)
            super().backward(*args, **kwargs)

    attribution = Counting(conv_net())
    with pytest.raises((IndexError, ValueError)):
        if generate:
            list(attribution.generate(images(), conditions, batch_size=1, verbose=False))
        else:
            attribution(images(), conditions)
    assert not flows


class BrokenCanonizer(Canonizer):
    def apply(self, root_module):
        raise RuntimeError("a canonizer fails")

    register = remove = copy = apply


def broken_module_map(ctx, name, module):
    if name == "fc":
        raise RuntimeError("a module map fails")
    return Epsilon() if isinstance(module, (nn.Conv2d, nn.Linear)) else None


@pytest.mark.parametrize("composite", [
    EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm(), BrokenCanonizer()]),
    Composite(broken_module_map, canonizers=[SequentialMergeBatchNorm()]),
], ids=["canonizer", "module map"])
def test_a_composite_that_fails_to_register_leaves_nothing_on_the_model(composite, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    with pytest.raises(RuntimeError, match="fails"):
        CondAttribution(net)(images().float(), [{"y": [0]}], composite)
    assert model_state(net) == before


def test_canonizers_act_during_the_call():
    net, data = BatchNormNet().double().eval(), images()
    result = CondAttribution(net)(data, [{"y": [0]}], canonized(), ["conv1", "bn"])
    torch.testing.assert_close(result.activations["conv1"], net.bn(net.conv1(data)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.activations["bn"], result.activations["conv1"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(result.prediction, net(data), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(result.activations["conv1"], net.conv1(data))


def test_an_infinite_output_that_no_relevance_starts_at_is_no_error():
    class Forbidden(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.tensor([False, False, True]), -float("inf"))

    net, data = nn.Sequential(mlp(), Forbidden()).eval(), vectors()
    result = CondAttribution(net)(data, [{"y": [0]}])
    close(result.heatmap, CondAttribution(mlp())(data, [{"y": [0]}]).heatmap)


@pytest.mark.parametrize("broken", ["conv1", "conv2", "fc"])
def test_nan_in_activations_names_the_module_where_it_begins(broken, model_state):
    net = BatchNormNet().eval()
    getattr(net, broken).weight.data.flatten()[0] = float("inf")
    before = model_state(net)
    with pytest.raises(FloatingPointError, match=f"'{broken}'"):
        CondAttribution(net)(images().float(), [{"y": [0]}], canonized())
    assert model_state(net) == before


@pytest.mark.parametrize("generate", [False, True])
def test_nan_in_relevance_names_the_module_where_it_begins(generate, model_state):
    net = mlp()
    net.fc2.weight.data.zero_()
    net.fc2.bias.data.zero_()
    rules = LayerMapComposite([(nn.Linear, Epsilon(lambda output: output))])
    attribution, before = CondAttribution(net, accelerate=False), model_state(net)
    with pytest.raises(FloatingPointError, match="rule of 'fc2'"):
        if generate:
            list(attribution.generate(vectors(), [{"y": [0]}], rules, verbose=False))
        else:
            attribution(vectors(), [{"y": [0]}], rules)
    assert model_state(net) == before


@pytest.mark.parametrize("how", ["close", "delete", "break", "raise"])
@pytest.mark.parametrize("verbose", [True, False])
def test_nothing_stays_on_the_model_after_an_abandoned_generate(how, verbose, model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    results = CondAttribution(net).generate(
        images().float(), [{"conv1": [i], "y": [0]} for i in range(4)], canonized(), ["bn"], batch_size=2,
        verbose=verbose,
    )
    if how == "break":
        for _ in results:
            break
        del results
    elif how == "raise":
        with pytest.raises(KeyboardInterrupt):
            for _ in results:
                raise KeyboardInterrupt
        del results
    else:
        next(results)
        assert model_state(net) != before
        if how == "close":
            results.close()
        else:
            del results
    assert model_state(net) == before


def test_a_generate_that_is_never_started_attaches_nothing(model_state):
    net = BatchNormNet().eval()
    before = model_state(net)
    results = CondAttribution(net).generate(images().float(), [{"y": [0]}], canonized(), verbose=False)
    assert model_state(net) == before
    assert next(results).heatmap.any()


@pytest.mark.parametrize("method", ["backward", "relevance_init", "heatmap_modifier", "broadcast"])
def test_nothing_stays_on_the_model_after_an_error_in_an_overridden_method(method, model_state):
    def fail(self, *args, **kwargs):
        raise KeyError("overridden")

    net = BatchNormNet().eval()
    before, composite = model_state(net), canonized()
    attribution = type("Own", (CondAttribution,), {method: fail})(net)
    with pytest.raises(KeyError, match="overridden"):
        attribution(images().float(), [{"conv1": [0], "y": [0]}], composite, ["conv2"])
    assert model_state(net) == before and not composite.handles


def test_train_mode_warns_at_the_line_of_the_caller():
    net = conv_net().train()
    with pytest.warns(UserWarning, match="train mode") as caught:
        CondAttribution(net)(images(), [{"y": [0]}])
    assert caught[0].filename == __file__


def test_eval_mode_does_not_warn(recwarn):
    CondAttribution(conv_net())(images(), [{"y": [0]}], EpsilonPlusFlat())
    assert not [warning for warning in recwarn if "train mode" in str(warning.message)]


def test_a_composite_still_registered_is_refused(model_state):
    net, composite = conv_net(), EpsilonPlusFlat()
    attribution = CondAttribution(net)
    with composite.context(net):
        before = model_state(net)
        for rules in (composite, EpsilonPlusFlat(), None):
            with pytest.raises(ValueError, match="still registered"):
                attribution(images(), [{"y": [0]}], rules)
        assert model_state(net) == before
    assert attribution(images(), [{"y": [0]}], composite).heatmap.any()


def test_a_composite_registered_on_another_model_is_refused():
    composite = EpsilonPlusFlat()
    with composite.context(conv_net()), pytest.raises(ValueError, match="still registered on another model"):
        CondAttribution(conv_net())(images(), [{"y": [0]}], composite)


def test_a_call_during_generate_is_refused():
    attribution = CondAttribution(conv_net())
    results = attribution.generate(images(), mixed_conditions(), EpsilonPlusFlat(), batch_size=2, verbose=False)
    next(results)
    with pytest.raises(ValueError, match="still registered"):
        attribution(images(), [{"y": [0]}], EpsilonPlusFlat())
    assert sum(len(result.heatmap) for result in results) == 3


def test_exclude_parallel_names_layers_that_are_not_on_one_path():
    class TwoBranches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.left(x) + self.right(x)

    attribution = CondAttribution(TwoBranches().eval())
    conditions = [{"right": [0], "left": [0], "y": [0]}]
    with pytest.raises(ValueError, match="no relevance reaches 'left'.*exclude_parallel"):
        attribution(torch.ones(1, 3), conditions)
    assert attribution(torch.ones(1, 3), conditions, exclude_parallel=False, init_rel=1).heatmap.any()


# What users override

def test_an_overridden_backward_gets_the_documented_arguments():
    seen = []

    class Own(CondAttribution):
        def backward(self, pred, grad_mask, partial_backward, layer_names, layer_out, generate=False):
            seen.append((pred.shape, grad_mask.shape, partial_backward, list(layer_names), set(layer_out), generate))
            return super().backward(pred, 2 * grad_mask, partial_backward, layer_names, layer_out, generate)

    net, data = conv_net(), images()
    conditions = [{"conv2": [0], "conv1": [1], "y": [0]}]
    expected = CondAttribution(net)(data, conditions, EpsilonPlusFlat()).heatmap
    close(Own(net)(data, conditions, EpsilonPlusFlat(), ["fc1"]).heatmap, 2 * expected)
    close(next(Own(net).generate(data, conditions, EpsilonPlusFlat(), verbose=False)).heatmap, 2 * expected)
    shape = torch.Size([1, 3])
    assert seen == [
        (shape, shape, True, ["conv2", "conv1"], {"fc1", "conv2", "conv1"}, False),
        (shape, shape, True, ["conv2", "conv1"], {"conv2", "conv1"}, True),
    ]


def test_an_overridden_backward_may_call_autograd_itself():
    class Own(CondAttribution):
        def backward(self, pred, grad_mask, partial_backward, layer_names, layer_out, generate=False):
            pred.backward(grad_mask, retain_graph=True)

    net, data = conv_net(), images()
    result = Own(net)(data, [{"conv2": [0], "y": [0]}], EpsilonPlusFlat(), names_of(net))
    assert_rows(result, net, data, [{"conv2": [0], "y": [0]}])


def test_an_overridden_relevance_init_is_honoured():
    seen = []

    class Own(CondAttribution):
        def relevance_init(self, prediction, target_list, init_rel):
            seen.append((target_list, init_rel))
            return torch.ones_like(prediction)

    net, data = conv_net(), images()
    result = Own(net)(data, [{"y": [0]}, {"y": [1, 2]}], EpsilonPlusFlat(), init_rel=5)
    assert_rows(result, net, data.expand(2, -1, -1, -1), [{}, {}], init=torch.ones(1, 3))
    assert seen == [([[0], [1, 2]], 5)]


def test_an_overridden_heatmap_modifier_is_honoured():
    class Own(CondAttribution):
        def heatmap_modifier(self, data, on_device=None):
            return data.grad.abs().amax(1)

    net, data = conv_net(), images()
    plain = CondAttribution(net, heatmap_axis=None)(data, mixed_conditions(), EpsilonPlusFlat()).heatmap
    close(Own(net)(data, mixed_conditions(), EpsilonPlusFlat()).heatmap, plain.abs().amax(1))


def test_an_overridden_broadcast_is_honoured():
    class AlwaysProduct(CondAttribution):
        def broadcast(self, data, conditions):
            return data.repeat_interleave(len(conditions), 0), conditions * len(data)

    net, data = conv_net(), images(2)
    conditions = [{"conv1": [0], "y": [0]}, {"conv2": [1], "y": [1]}]
    result = AlwaysProduct(net)(data, conditions, EpsilonPlusFlat())
    assert_rows(result, net, data.repeat_interleave(2, 0), conditions * 2)


def test_another_name_of_the_output():
    class Own(CondAttribution):
        MODEL_OUTPUT_NAME = "logits"

    net, data = conv_net(), images()
    result = Own(net)(data, [{"logits": [1]}], EpsilonPlusFlat(), names_of(net))
    assert_rows(result, net, data, [{"y": [1]}])


@pytest.mark.parametrize("axis, reduce", [
    (1, lambda r: r.sum(1)), (2, lambda r: r.sum(2)), (-1, lambda r: r.sum(-1)), ((1, 2), lambda r: r.sum((1, 2))),
    (None, lambda r: r),
])
def test_known_bug_the_heatmap_always_summed_axis_1(axis, reduce):
    net, data = conv_net(), images().requires_grad_()
    heatmap = CondAttribution(net, heatmap_axis=axis)(data, [{"y": [1]}], EpsilonPlusFlat()).heatmap
    close(heatmap, reduce(data.grad))


def test_arguments_keep_their_order():
    net, data = conv_net(), images()
    conditions = [{"conv1": [1]}]
    positional = CondAttribution(net, "cpu", True, True)(
        data, conditions, EpsilonPlusFlat(), ["conv1"], ChannelConcept.mask, "conv2", 1, "cpu", True
    )
    generated = next(CondAttribution(net).generate(
        data, conditions, EpsilonPlusFlat(), ["conv1"], ChannelConcept.mask, "conv2", 1, 10, "cpu", True, False
    ))
    heatmap, activations, relevances, prediction = positional
    close(heatmap, by_hand(net, data, {"conv1": [1]}, torch.ones(1).double(), "conv2")[0])
    assert prediction is positional.prediction and set(activations) == set(relevances) == {"conv1"}
    assert_same_results([generated], positional)


def test_a_model_without_parameters_and_a_model_that_is_no_module():
    result = CondAttribution(nn.Flatten().eval())(torch.ones(1, 1, 2), [{"y": [1]}])
    assert result.heatmap.tolist() == [[0., 1.]]
    with pytest.raises(TypeError, match="torch.nn.Module"):
        CondAttribution(lambda x: x)


def test_a_module_called_twice_is_masked_at_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return self.mix(self.mix(x))

    net = Twice().double().eval()
    x, weight = torch.randn(1, 3, dtype=torch.float64), net.mix.weight.detach()
    result = CondAttribution(net, heatmap_axis=None)(
        x, [{"mix": [0, 2], "y": [0, 1, 2]}], record_layer=["mix"], exclude_parallel=False, init_rel=1
    )
    kept = torch.diag(torch.tensor([1., 0., 1.], dtype=torch.float64))
    close(result.heatmap, torch.ones(1, 3).double() @ kept @ weight @ kept @ weight)
    close(result.activations["mix"], x @ weight.T @ weight.T)
    close(result.relevances["mix"], torch.ones(1, 3).double())


def test_a_model_serves_one_attribution_at_a_time():
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    results = attribution.generate(data[:1], [{"conv1": [i], "y": [0]} for i in range(3)], batch_size=1, verbose=False)
    next(results)
    with pytest.raises(RuntimeError, match="another attribution is using this model"):
        attribution(data, [{"y": [0]}])
    results.close()
    assert attribution(data, [{"y": [0]}]).heatmap.any()


def test_threads_get_right_results_or_an_error():
    net, data = conv_net(), images()
    attribution = CondAttribution(net)
    conditions = [[{"conv1": [channel], "y": [0]}] for channel in (0, 1, 2)] * 10
    expected = [attribution(data, condition).heatmap for condition in conditions]

    def attribute(condition):
        try:
            return attribution(data, condition).heatmap
        except RuntimeError as error:
            assert "using this model" in str(error)
            return None

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(attribute, conditions))
    for heatmap, right in zip(found, expected):
        if heatmap is not None:
            close(heatmap, right)
    assert any(heatmap is not None for heatmap in found)


def test_train_mode_leaves_running_statistics_as_they_were():
    net = BatchNormNet().train()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with pytest.warns(UserWarning, match="train mode"):
        CondAttribution(net)(images().float(), [{"y": [0]}])
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_conditions_changed_while_generating_do_not_matter():
    net, data = conv_net(), images()[:1]
    conditions = [{"conv1": [i], "y": [0]} for i in range(3)]
    expected = CondAttribution(net)(data, conditions).heatmap
    results = CondAttribution(net).generate(data, conditions, batch_size=1, verbose=False)
    first = next(results).heatmap
    conditions[2]["conv1"][0] = 0
    close(torch.cat([first, *(result.heatmap for result in results)]), expected)


@pytest.mark.parametrize("arguments, error, message", [
    ({"composite": EpsilonPlusFlat}, TypeError, r"EpsilonPlusFlat\(\)"),
    ({"mask_map": ChannelConcept}, TypeError, r"ChannelConcept\(\)"),
])
def test_classes_in_place_of_instances_are_refused_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        CondAttribution(conv_net())(images(), [{"conv1": [0], "y": [0]}], **arguments)
    with pytest.raises(TypeError, match="targets are integers"):
        CondAttribution(conv_net())(images(), [{"y": None}])


def test_conditions_changed_between_rounds_do_not_matter():
    net, data = conv_net(), images()[:1]
    attribution = CondAttribution(net)
    rounds = [[{"conv1": [i], "y": [0]}] for i in range(3)]
    expected = attribution(data, [row[0] for row in rounds]).heatmap
    results = attribution.attribute_rounds(data, rounds)
    first = next(results).heatmap
    rounds[2][0]["conv1"][0] = 0
    close(torch.cat([first, *(result.heatmap for result in results)]), expected)
