"""Conditional attribution, against the rules written out by hand."""
import pytest
import torch
from networks_by_hand import (
    CONCEPT,
    assert_rows,
    assert_same_results,
    by_hand,
    close,
    conv_net,
    images,
    keep_channels,
    linear_epsilon,
    linear_flat,
    lively,
    masked,
    mixed_conditions,
    mlp,
    names_of,
    rule_by_hand,
    vectors,
)
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.hooks import MaskHook


def gradient_by_hand(module, is_first, x, relevance):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(module(x), x, relevance)[0]


NETS = {"conv": (conv_net, images), "mlp": (mlp, vectors)}
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
    assert prediction is positional.prediction and set(activations) == set(relevances) == {"conv1", "conv2"}
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
