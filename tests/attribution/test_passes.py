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
