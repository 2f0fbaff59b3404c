"""Accelerated rules in half precision and other layouts of memory."""
import pytest
import torch
from rule_cases import COMPOSITES, deviation, everywhere, randomise_statistics, relevance_of
from torch import nn
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus

from crp.attribution import CondAttribution
from crp.composites import LanguageModel
from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")


def mixed_precision_run(net, data, dtype, composite):
    x = data.requires_grad_()
    with composite.context(net), torch.autocast("cpu", dtype=dtype):
        output = net(x)
        return output.dtype, torch.autograd.grad(output, x, torch.eye(4)[:2].to(output.dtype))[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", COMPOSITES)
def test_autocast(net, dtype, name):
    composite, data = accelerate(COMPOSITES[name]()), torch.randn(2, 3, 10, 10)
    net = randomise_statistics(net).float()
    output_dtype, relevance = mixed_precision_run(net, data, dtype, composite)
    expected = relevance_of(composite, net, data, lambda output: torch.eye(4)[:2])
    assert output_dtype == relevance.dtype == torch.float32 and relevance.isfinite().all()
    assert 0 < deviation(relevance.sum(1), expected.sum(1)) < .03


@pytest.mark.parametrize("rule", [ZPlus(), AlphaBeta(), Flat(), Gamma(), WSquare(), ZBox(-1e3, 1e3)])
def test_denominators_do_not_overflow_in_half_precision(rule):
    module = nn.Conv2d(64, 2, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.ones(2, 64, 3, 3) * torch.tensor([1., -1.] * 32).view(1, 64, 1, 1))
    x = torch.full((1, 64, 5, 5), 1000., requires_grad=True)
    for scope in (torch.autocast("cpu", dtype=torch.float16), torch.autocast("cpu", enabled=False)):
        with accelerate(everywhere(rule)).context(module), scope:
            relevance, = torch.autograd.grad(module(x), x, torch.ones(1, 2, 3, 3))
        assert relevance.dtype == torch.float32 and relevance.isfinite().all()
    torch.testing.assert_close(relevance, relevance_of(everywhere(rule), module, x, torch.ones_like))


def test_epsilon_is_not_lost_in_half_precision():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1., -1.]]))
    x = torch.ones(1, 2, requires_grad=True)
    with accelerate(everywhere(Epsilon(1e-9))).context(module), torch.autocast("cpu", dtype=torch.float16):
        relevance, = torch.autograd.grad(module(x), x, torch.full((1, 1), 1e-9))
    torch.testing.assert_close(relevance, torch.tensor([[1., -1.]]))


@pytest.mark.parametrize("name", COMPOSITES)
def test_models_in_half_precision(net, name):
    composite, data = accelerate(COMPOSITES[name]()), torch.randn(2, 3, 10, 10).bfloat16()
    net = randomise_statistics(net).bfloat16()


    def heatmap(composite, net, data):
        relevance = relevance_of(composite, net, data, lambda output: torch.eye(4)[:2].to(output.dtype))
        assert relevance.dtype == data.dtype
        return relevance.float().sum(1)

    of_zennit, own = heatmap(COMPOSITES[name](), net, data), heatmap(composite, net, data)
    expected = heatmap(composite, net.float(), data.float())
    assert deviation(own, expected) <= max(.05, 1.5 * deviation(of_zennit, expected))


@pytest.mark.parametrize("name", COMPOSITES)
def test_channels_last(net, name):
    composite, data = COMPOSITES[name](), torch.randn(2, 3, 10, 10, dtype=torch.float64)
    expected, last = relevance_of(composite, net, data), data.to(memory_format=torch.channels_last)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert deviation(relevance_of(accelerate(composite), net, last), expected) < 1e-12
    net.to(memory_format=torch.channels_last)
    for x in (data, last):
        assert deviation(relevance_of(accelerate(composite), net, x), expected) < 1e-12


@pytest.mark.parametrize("add", [
    lambda a, b: a + b, torch.add, lambda a, b: (a * 1).add_(b), lambda a, b: a - -b, lambda a, b: torch.rsub(-a, b),
], ids=["+", "torch.add", "add_", "-", "rsub"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_summands_that_rounding_cancels_keep_their_contributions(add, dtype):
    class Residual(nn.Module):
        def forward(self, x):
            return add(x[:, 0] * 1, x[:, 1] * 1) @ torch.tensor([2., 3], dtype=x.dtype)

    x = torch.tensor([[[0.1, 0.25], [-0.1, 0.5]]]).to(dtype)
    heatmap = CondAttribution(Residual(), heatmap_axis=None)(
        x, [{}], LanguageModel(1e-9), init_rel=lambda y: y
    ).heatmap
    expected = torch.tensor([[[0.2, 0.75], [-0.2, 1.5]]]).to(dtype)
    torch.testing.assert_close(heatmap, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_equal_numbers_cancel_out_in_float32_as_in_float64():
    class Decay(nn.Module):
        def forward(self, x):
            sums = x.cumsum(1)
            return (sums[:, -1:] - sums).exp().sum(1, keepdim=True)

    x = torch.linspace(-3, -1, 64, dtype=torch.double)[None]
    exact, rounded = (CondAttribution(Decay().eval()).audit(data, LanguageModel()) for data in (x, x.float()))
    assert rounded.total == pytest.approx(exact.total, abs=1e-4) and exact.accounted == pytest.approx(1, abs=1e-4)
    assert exact.sinks["empty"] == pytest.approx(rounded.sinks["empty"], abs=1e-4)
