"""Rules that users give, functions of torch.autograd.Function, and checkpoints."""
import warnings

import pytest
import torch
from operations_by_contribution import Function, composite, random, send_back
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.rules import register_rule
from crp.rules.operations import registration


@pytest.fixture(autouse=True)
def registered_for_the_test(monkeypatch):
    rules = dict(registration.RULES)
    monkeypatch.setattr(registration, "RULES", rules)
    monkeypatch.setattr("crp.rules.operations.choice.RULES", rules)
    registration.AUTOGRAD_RULES.clear()


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -.5 * gradient, None


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        x, = ctx.saved_tensors
        sigmoid = x.sigmoid()
        return gradient * sigmoid * (1 + x * (1 - sigmoid))


class Root(torch.autograd.Function):
    """A square root with a bounded derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sqrt()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / (4 * ctx.saved_tensors[0]).clip(min=1e-6).sqrt()


class Kernel(torch.autograd.Function):
    """A linear layer as somebody wrote it."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight, None


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(8, 6, bias=False), nn.Linear(6, 4, bias=False), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def net(function):
    torch.manual_seed(0)
    return Net(function).double().eval()


@pytest.mark.parametrize("function, twin", [
    (Swish.apply, functional.silu), (lambda h: Reversal.apply(h, .5), lambda h: h),
    (lambda h: Swish.apply(h).relu(), lambda h: functional.silu(h).relu()),
    (lambda h: Root.apply(h.sigmoid()), lambda h: h.sigmoid().sqrt()),
])
def test_functions_of_single_elements_pass_relevance(function, twin):
    x = random(3, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = (
            CondAttribution(net(f), heatmap_axis=None)(x, [{"y": [1]}], EpsilonPlus()).heatmap for f in (function, twin)
        )
    torch.testing.assert_close(found, expected)
    audit = CondAttribution(net(function)).audit(x, EpsilonPlus())
    assert audit.accounted == pytest.approx(1, abs=1e-3) and not audit.faults and not audit.notes


def test_other_functions_are_named_until_they_have_a_rule():
    torch.manual_seed(0)
    weight, x = random(6, 6), random(3, 8)
    model = net(lambda h: Kernel.apply(h, weight))
    attribution = CondAttribution(model, heatmap_axis=None)
    with pytest.warns(UserWarning, match=r"relevance passes Kernel \(test_registration.py:\d+\) by its gradient.*"
                                         r"register_rule"):
        attribution(x, [{"y": [1]}], EpsilonPlus())
    with pytest.warns(UserWarning, match="Kernel"):
        audit = attribution.audit(x, EpsilonPlus())
    assert "no rule, the gradient passes: Kernel test_registration.py" in str(audit)
    assert any(fault.operation == "Kernel" for fault in audit.faults)

    def epsilon(relevance, saved, output):
        h, weight = saved
        z = h @ weight.T
        return [h * ((relevance / z) @ weight)]

    register_rule(Kernel, epsilon)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = attribution(x, [{"y": [1]}], EpsilonPlus()).heatmap
    expected = CondAttribution(net(lambda h: h @ weight.T), heatmap_axis=None)(x, [{"y": [1]}], EpsilonPlus()).heatmap
    torch.testing.assert_close(found.sum(1), expected.sum(1), rtol=1e-4, atol=1e-6)
    assert not attribution.audit(x, EpsilonPlus()).faults


def test_rules_for_functions_and_custom_operators():
    @torch.library.custom_op("crp_tests::twice", mutates_args=())
    def twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * x + y

    twice.register_autograd(lambda ctx, gradient: (2 * gradient, gradient))
    x, y = random(3, 4), random(3, 4)
    found, output, relevance = send_back(lambda x, y: torch.ops.crp_tests.twice(x, y), [x, y])
    torch.testing.assert_close(found[0] + found[1], relevance * output / (output + .1 * output.sign()))  # linear
    register_rule(torch.ops.crp_tests.twice, lambda relevance, inputs, output: [relevance, torch.zeros_like(relevance)])
    found, output, relevance = send_back(lambda x, y: torch.ops.crp_tests.twice(x, y), [x, y])
    assert torch.equal(found[0], relevance) and not found[1].any()
    register_rule(torch.logsumexp, lambda relevance, inputs, output: [relevance[:, None] * inputs[0].softmax(1)])
    found, output, relevance = send_back(lambda x: torch.logsumexp(x, 1), [x])
    torch.testing.assert_close(found[0], relevance[:, None] * x.softmax(1))
    register_rule(torch.erfinv, "identity")
    found, output, relevance = send_back(lambda x: torch.erfinv(x.tanh()), [x])
    torch.testing.assert_close(found[0], relevance)
    audit = CondAttribution(Function(lambda x: torch.logsumexp(x, 1, keepdim=True)).eval()).audit(x, composite())
    assert audit.accounted == pytest.approx(1)


def test_kernels_without_derivative_and_casts_to_integers_are_named():
    @torch.library.custom_op("crp_tests::opaque", mutates_args=())
    def opaque(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    x = random(3, 8)
    model = net(lambda h: h + torch.ops.crp_tests.opaque(h))
    with pytest.warns(UserWarning, match="relevance ends at opaque.*no derivative.*register_rule"):
        audit = CondAttribution(model).audit(x, EpsilonPlus())
    assert audit.accounted == pytest.approx(1, abs=1e-3)
    assert any("opaque" in name and abs(amount) > 1e-3 for name, amount in audit.sinks.items())
    register_rule(torch.ops.crp_tests.opaque, "identity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CondAttribution(model).audit(x, EpsilonPlus()).total == pytest.approx(1, abs=1e-3)

    table = nn.Embedding(5, 6).double()
    model = net(lambda h: h + table(h[:, 0].long().clamp(0, 4)))
    with pytest.warns(UserWarning, match=r"ends at a cast to torch.int64 \(test_registration.py:\d+\): integers"):
        CondAttribution(model)(x, [{"y": [1]}], EpsilonPlus())


def test_what_is_no_rule_is_refused():
    with pytest.raises(ValueError, match="'identity', not 'epsilon'"):
        register_rule(torch.logsumexp, "epsilon")


class Block(nn.Sequential):
    def __init__(self, reentrant):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.reentrant = reentrant

    def forward(self, x):
        def run(x):
            return x + functional.gelu(super(Block, self).forward(x))

        return run(x) if self.reentrant is None else checkpoint(run, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("condition", [{"y": [1]}, {"y": [1], "0.0": [1, 2]}])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_change_nothing_and_work_as_before_afterwards(condition, reentrant):
    def model(reentrant):
        torch.manual_seed(0)
        return nn.Sequential(Block(reentrant), Block(reentrant), nn.Linear(8, 3)).double().eval()

    x = random(2, 8)
    found, expected = (
        CondAttribution(model(how))(x, [condition], EpsilonPlus(), ["0.2"]) for how in (reentrant, None)
    )
    assert torch.equal(found.heatmap, expected.heatmap) and found.heatmap.any()
    assert torch.equal(found.relevances["0.2"], expected.relevances["0.2"])
    runs = []
    layer = nn.Sequential(Function(lambda x: runs.append(1) or x), nn.Linear(8, 8)).double()
    checkpoint(layer, x.requires_grad_(), use_reentrant=reentrant).sum().backward()
    assert len(runs) == 2
