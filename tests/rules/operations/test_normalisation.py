"""Softmax and norms, against slow restatements of their formulas."""
import pytest
import torch
from operations_by_contribution import Function, by_contributions, composite, random, send_back, stabilize
from torch import nn
from torch.nn import functional
from zennit.core import Composite
from zennit.rules import Epsilon
from zennit.types import Linear

from crp.attribution import CondAttribution


def test_log_softmax_takes_the_normaliser_for_a_constant():
    x = random(3, 4)
    (found,), output, relevance = send_back(lambda x: functional.log_softmax(x, 1), [x])
    torch.testing.assert_close(found, x * relevance / stabilize(x - x.logsumexp(1, keepdim=True)))


WEIGHT, BIAS = random(4), random(4)


def channels(parameter):
    return parameter.view(1, -1, 1)


@pytest.mark.parametrize("function, dims, eps, affine", [
    (lambda x: functional.layer_norm(x, (4,), WEIGHT, BIAS), (-1,), 1e-5, lambda z: z * WEIGHT + BIAS),
    (lambda x: functional.layer_norm(x, (3, 4)), (-2, -1), 1e-5, lambda z: z),
    (lambda x: functional.layer_norm(x, (4,), bias=BIAS, eps=.5), (-1,), .5, lambda z: z + BIAS),
    (lambda x: functional.instance_norm(x, weight=BIAS[:3], bias=WEIGHT[:3]), (-1,), 1e-5,
     lambda z: z * channels(BIAS[:3]) + channels(WEIGHT[:3])),
    (lambda x: functional.group_norm(x, 1, WEIGHT[:3], eps=.2), (1, 2), .2, lambda z: z * channels(WEIGHT[:3])),
    (nn.GroupNorm(3, 3).double().requires_grad_(False), (2,), 1e-5, lambda z: z),
    (nn.LayerNorm(4).double().requires_grad_(False), (-1,), 1e-5, lambda z: z),
])
def test_normalisation_by_a_constant_factor(function, dims, eps, affine):
    x = random(2, 3, 4)
    scale = 1 / torch.sqrt(x.var(dims, correction=0, keepdim=True) + eps)

    def linear(x):
        return affine((x - x.mean(dims, keepdim=True)) * scale)

    (found,), output, relevance = send_back(function, [x])
    torch.testing.assert_close(output, linear(x))
    torch.testing.assert_close(found, by_contributions(linear, [x], relevance)[0])


@pytest.mark.parametrize("function", [
    lambda x: functional.rms_norm(x, (4,), WEIGHT),
    nn.RMSNorm(4).double().requires_grad_(False),
    lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    lambda x: WEIGHT * (x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()),
    lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
    lambda x: x / ((x * x).sum(-1, keepdim=True) ** .5).clamp(min=1e-3),
    lambda x: x / x.norm(dim=-1, keepdim=True),
    lambda x: x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-3).expand_as(x),
    lambda x: functional.normalize(x, dim=-1),
    lambda x: x / x.std(-1, keepdim=True),
])
def test_factors_that_normalise_count_as_constants(function):
    x = random(2, 3, 4)
    (found,), output, relevance = send_back(function, [x])
    torch.testing.assert_close(output, function(x))
    torch.testing.assert_close(found, relevance)


def test_layer_norm_by_hand_is_layer_norm():
    x, relevance = random(2, 3, 4), random(2, 3, 4)

    def by_hand(x):
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * WEIGHT + BIAS

    rules = Composite(lambda context, name, module: Epsilon(1e-12) if isinstance(module, Linear) else None)
    ours, _, _ = send_back(by_hand, [x], relevance, rules=rules)
    module, _, _ = send_back(lambda x: functional.layer_norm(x, (4,), WEIGHT, BIAS), [x], relevance, rules=rules)
    torch.testing.assert_close(ours, module, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("power", [lambda x: x ** -.5, lambda x: 1 / x ** .5, lambda x: torch.pow(x, -.5)])
def test_powers_that_normalise_count_as_constants(power):
    x = random(2, 5)
    found, output, relevance = send_back(lambda x: x * power(x.square().mean(-1, keepdim=True)), [x])
    torch.testing.assert_close(found[0], relevance)
    assert output.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("function, name", [
    (lambda x: torch.batch_norm(x, None, None, None, None, True, .1, .5, False), "batch_norm"),
    (lambda x: torch.instance_norm(x, None, None, None, None, True, .1, .5, False), "instance_norm"),
    (lambda x: functional.grid_sample(x, x[:, :2].movedim(1, -1), align_corners=False), "grid_sample"),
])
def test_what_has_no_rule_of_its_own_sends_its_linear_part_and_keeps_the_remainder(function, name):
    x = torch.randn(2, 3, 4, 4, dtype=torch.double)
    audit = CondAttribution(Function(lambda x: function(x).flatten(1)).eval()).audit(x, composite())
    assert audit.accounted == pytest.approx(1) and not audit.faults
    assert any(name in sink and abs(amount) > 1e-3 for sink, amount in audit.sinks.items())
