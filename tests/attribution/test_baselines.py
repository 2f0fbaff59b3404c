import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.attribution.baselines import attention_rollout, grad_cam, gradient_x_input, integrated_gradients


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    ).double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 8, 8, dtype=torch.double)


TARGETS = [2, 0, 1]
CONDITIONS = [{"y": [target]} for target in TARGETS]


def gradient_of(model, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model(x)[range(3), TARGETS].sum(), x)[0]


def test_gradients(model, images):
    attribution = CondAttribution(model)
    gradient = gradient_of(model, images)
    result = gradient_x_input(attribution, images, CONDITIONS)
    torch.testing.assert_close(result.heatmap, (gradient * images).sum(1))
    torch.testing.assert_close(result.prediction, model(images))
    found = gradient_x_input(attribution, images, CONDITIONS, absolute_gradient=True).heatmap
    torch.testing.assert_close(found, gradient.abs().sum(1))
    found = gradient_x_input(CondAttribution(model, heatmap_axis=None), images, CONDITIONS).heatmap
    torch.testing.assert_close(found, gradient * images)


def test_integrated_gradients_step_by_step_and_in_sum(model, images):
    attribution, baseline = CondAttribution(model), torch.full((2, 8, 8), .3).double()
    found = integrated_gradients(attribution, images, CONDITIONS, baseline=baseline, steps=4)
    way = images - baseline
    points, weights = np.polynomial.legendre.leggauss(4)   # for the interval from -1 to 1
    expected = way * sum(
        weight / 2 * gradient_of(model, baseline + way * (1 + point) / 2) for point, weight in zip(points, weights)
    )
    torch.testing.assert_close(found.heatmap, expected.sum(1))
    fine = integrated_gradients(attribution, images, CONDITIONS, steps=300).heatmap
    difference = (model(images) - model(torch.zeros_like(images)))[range(3), TARGETS]
    torch.testing.assert_close(fine.sum((1, 2)), difference, rtol=1e-2, atol=1e-3)
    with pytest.raises(ValueError, match="at least 1"):
        integrated_gradients(attribution, images, CONDITIONS, steps=0)


def test_inputs_in_a_dict():
    class Two(nn.Module):
        def forward(self, a, b):
            return (a * b).sum(1, keepdim=True)

    a, b = torch.randn(2, 4), torch.randn(2, 4)
    attribution = CondAttribution(Two(), heatmap_axis=None)
    result = gradient_x_input(attribution, {"a": a, "b": b}, [{"y": [0]}] * 2)
    torch.testing.assert_close(result.heatmap["a"], a * b)
    result = integrated_gradients(attribution, {"a": a, "b": b}, [{"y": [0]}] * 2, steps=3)
    torch.testing.assert_close(result.heatmap["a"], a * b / 2)


def test_every_sample_under_every_condition_and_other_inputs(model):
    class Masked(nn.Module):
        def forward(self, x, is_kept):
            return {"scores": (x * is_kept)[:, :2] ** 2, "else": x}

    class Scalar(nn.Module):
        def forward(self, x, weight):  # begins by writing, ignores an input, and has one output
            return x.add_(1).prod(1)

    x, is_kept = torch.randn(2, 3), torch.tensor([[1, 1, 0], [0, 1, 1]])
    attribution = CondAttribution(Masked().eval(), output="scores", heatmap_axis=None)
    conditions = [{"y": [0]}, {"y": [0, 1]}, {"y": [1]}]
    expected = torch.zeros(2, 3, 3)
    for sample in range(2):
        for row, outputs in enumerate([[0], [0, 1], [1]]):
            expected[sample, row, outputs] = (x[sample] * is_kept[sample] * x[sample])[outputs]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        product = gradient_x_input(attribution, (x, is_kept), conditions)
        # the mean gradient of the square, from -x to x, is zero
        path = integrated_gradients(attribution, (x, is_kept), conditions, steps=2)
        symmetric = integrated_gradients(attribution, (x, is_kept), conditions, baseline=-x, steps=2)
    torch.testing.assert_close(product.heatmap[0], 2 * expected.flatten(0, 1))
    torch.testing.assert_close(path.heatmap[0], expected.flatten(0, 1))
    torch.testing.assert_close(symmetric.heatmap[0], torch.zeros(6, 3))
    assert product.heatmap[1] is None and path.heatmap[1] is None
    assert product.prediction.shape == (6, 2)
    pairs = {"x": x, "weight": torch.randn(2, 4)}
    with torch.inference_mode():
        product = gradient_x_input(CondAttribution(Scalar().eval(), heatmap_axis=None), pairs, [{"y": [()]}] * 2)
    torch.testing.assert_close(product.heatmap["x"], x * torch.stack([
        (x[:, [1, 2]] + 1).prod(1), (x[:, [0, 2]] + 1).prod(1), (x[:, [0, 1]] + 1).prod(1)], 1))
    assert not product.heatmap["weight"].any()


def test_baselines_in_the_structure_of_the_inputs(model):
    class Lookup(nn.Module):
        def forward(self, embedded, mask, shift):
            return (embedded.square().sum(-1) * mask).sum(1, keepdim=True) + shift

    data = {"embedded": torch.randn(2, 3, 4), "mask": torch.tensor([[1, 1, 0], [1, 1, 1]]), "shift": torch.randn(2, 1)}
    attribution = CondAttribution(Lookup().eval(), heatmap_axis=None)
    pad = torch.randn(4)
    for baseline in ({"embedded": pad, "mask": None, "shift": torch.zeros(1)}, (pad, torch.zeros(1))):
        found = integrated_gradients(attribution, data, [{"y": [0]}], baseline=baseline, steps=2).heatmap
        expected = (data["embedded"].square() - pad.square()) * data["mask"][..., None]
        torch.testing.assert_close(found["embedded"], expected)
        torch.testing.assert_close(found["shift"], data["shift"])
    for baseline, message in ((pad, "2 floating-point inputs, but 1"), ((pad, torch.zeros(3)), "do not fit")):
        with pytest.raises(ValueError, match=message):
            integrated_gradients(attribution, data, [{"y": [0]}], baseline=baseline)


def test_train_mode_is_told_and_leaves_no_trace(model_state):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = model_state(net)
    with pytest.warns(UserWarning, match="train mode"):
        gradient_x_input(CondAttribution(net, heatmap_axis=None), torch.randn(5, 3), [{"y": [1]}])
    assert model_state(net) == before


def test_messages(model, images, monkeypatch):
    attribution = CondAttribution(model)
    with pytest.raises(ValueError, match="no masks"):
        gradient_x_input(attribution, images, [{"0": [1], "y": [1]}] * 3)
    with pytest.raises(IndexError, match="3"):
        gradient_x_input(attribution, images, [{"y": [3]}] * 3)
    with pytest.raises(TypeError, match="inputs_embeds"):
        gradient_x_input(CondAttribution(nn.Embedding(3, 4)), torch.tensor([[1]]), [{"y": [0]}])
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match=r"crp-concepts\[captum\]"):
        gradient_x_input(attribution, images, CONDITIONS)


def test_grad_cam_by_hand(model, images):
    result = grad_cam(CondAttribution(model), images, CONDITIONS, "2")
    activation = model[:3](images).detach().requires_grad_()
    gradient, = torch.autograd.grad(model[3:](activation)[range(3), TARGETS].sum(), activation)
    expected = functional.relu(sum(
        gradient[:, c].mean((1, 2))[:, None, None] * activation[:, c] for c in range(3)
    ))
    torch.testing.assert_close(result.heatmap, expected)
    with pytest.raises(ValueError, match="B, C, H, W"):
        grad_cam(CondAttribution(model), images, CONDITIONS, "5")
    with pytest.raises(ValueError, match="no tensor there"):
        grad_cam(CondAttribution(model), images, CONDITIONS, "2:1")


def test_rollout_of_two_tokens_by_hand():
    first = torch.tensor([[[[1., 0.], [.5, .5]]]])
    second = torch.tensor([[[[.5, .5], [0., 1.]], [[.5, .5], [1., 0.]]]])
    # half of each token stays: [[1, 0], [1/4, 3/4]], then [[3/4, 1/4], [1/4, 3/4]]
    expected = torch.tensor([[[.75 + .0625, .1875], [.25 + .1875, .5625]]])
    torch.testing.assert_close(attention_rollout([first, second]), expected)
    with pytest.raises(ValueError, match="one layer"):
        attention_rollout([])
    with pytest.raises(ValueError, match="heads, T, T"):
        attention_rollout([second.mean(1)])


def test_nothing_stays(model, images, model_state):
    before = model_state(model)
    integrated_gradients(CondAttribution(model), images, CONDITIONS, steps=2)
    grad_cam(CondAttribution(model), images, CONDITIONS, "0")
    assert model_state(model) == before
