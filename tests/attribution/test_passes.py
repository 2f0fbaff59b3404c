"""The data of the caller."""
import pytest
import torch
from networks_by_hand import close, conv_net, images, mixed_conditions
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution


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


def test_layers_of_conditions_and_the_start_layer_are_recorded():
    net, data, composite = conv_net(), images(), EpsilonPlusFlat()
    attribution = CondAttribution(net)
    conditions = [{"conv2": [1], "conv1": [0], "y": [1]}, {"conv1": [1], "y": [0]}, {"y": [0]}]
    expected = attribution(data, conditions, composite, ["conv2", "conv1", "relu1"], record_conditions=False)
    found = attribution(data, conditions, composite, ["relu1"])
    assert list(found.relevances) == list(found.activations) == ["relu1", "conv2", "conv1"]
    for layer in found.relevances:
        close(found.activations[layer], expected.activations[layer])
        close(found.relevances[layer], expected.relevances[layer])
    assert found.relevances["conv2"][:, [0, 2]].any()  # it is there before masking
    generated = list(attribution.generate(data[:1], conditions, composite, batch_size=2, verbose=False))
    assert all(list(result.relevances) == ["conv2", "conv1"] for result in generated)
    close(generated[0].relevances["conv1"][0], found.relevances["conv1"][0])

    started = attribution(data, [{"conv1": [0]}], composite, start_layer="conv2")
    assert list(started.relevances) == ["conv1", "conv2"]
    close(started.relevances["conv2"], started.prediction)


def test_only_what_is_asked_for_is_recorded_where_it_is_to_save_memory():
    attribution, data, conditions = CondAttribution(conv_net()), images()[:1], [{"conv2": [1], "y": [1]}]
    read = []

    def record(tensor, layer):
        read.append(layer)
        return tensor.sum(1)

    for options in ({"record_fn": record}, {"record_conditions": False}):
        for result in (
            attribution(data, conditions, None, ["conv1"], **options),
            next(attribution.generate(data, conditions, None, ["conv1"], verbose=False, **options)),
        ):
            assert list(result.relevances) == list(result.activations) == ["conv1"]
    result, = attribution.attribute_rounds(data, [conditions], None, ["conv1"])
    assert set(read) == set(result.relevances) == {"conv1"}


def test_recorded_layers_are_those_of_conditions_that_broadcast_gives():
    class Own(CondAttribution):
        def broadcast(self, data, conditions):
            return super().broadcast(data, [{"conv1": [0], **condition} for condition in conditions])

    assert list(Own(conv_net())(images(), [{"y": [0]}]).relevances) == ["conv1"]
