"""Accelerated rules are their formulas."""
import pytest
import torch
from rule_cases import (
    SIGNS,
    deviation,
    everywhere,
    make_module,
    negative,
    output_and_relevance,
    positive,
    some_relevance,
)
from torch.func import jacrev
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus

from crp.rules.acceleration import accelerate
from crp.rules.fast_rules import FastRule

pytestmark = pytest.mark.usefixtures("quick")


def share(contributions, relevance, z):
    """Divide the relevance of outputs [K] by contributions [K, J] of inputs, which sum up to z [K]."""
    return (contributions * (relevance / torch.where(z >= 0, z + 1e-6, z - 1e-6))[:, None]).sum(0)


def gamma_by_hand(x, weight, bias, relevance, gamma=.25):
    result = torch.zeros_like(x)
    for k, output in enumerate(weight @ x + bias):
        part = positive if output > 0 else negative
        favoured = weight[k] * x + gamma * part(weight[k] * x)
        z = favoured.sum() + bias[k] + gamma * part(bias[k])
        result += share(favoured[None], relevance[k:k + 1], z[None])
    return result


def alpha_beta_by_hand(x, weight, bias, relevance, alpha=2, beta=1):
    shares = [
        share(part(weight * x), relevance, part(weight * x).sum(1) + part(bias)) for part in (positive, negative)
    ]
    return alpha * shares[0] - beta * shares[1]


def box_by_hand(x, weight, bias, relevance, low=-2., high=3.):
    contributions = weight * x - positive(weight) * low - negative(weight) * high
    return share(contributions, relevance, contributions.sum(1) + bias - positive(bias) - negative(bias))


BY_HAND = {
    "epsilon": (Epsilon(), lambda x, weight, bias, relevance: share(weight * x, relevance, weight @ x + bias)),
    "z+": (ZPlus(), lambda *args: alpha_beta_by_hand(*args, 1, 0)),
    "alpha 2": (AlphaBeta(2, 1), alpha_beta_by_hand),
    "alpha 3": (AlphaBeta(3, 2), lambda *args: alpha_beta_by_hand(*args, 3, 2)),
    "gamma": (Gamma(), gamma_by_hand),
    "gamma 3": (Gamma(3.), lambda *args: gamma_by_hand(*args, 3.)),
    "box": (ZBox(-2., 3.), box_by_hand),
    "w square": (WSquare(), lambda x, weight, bias, r: share(weight ** 2, r, (weight ** 2).sum(1) + bias ** 2)),
    "flat": (Flat(), lambda x, weight, bias, r: share((weight != 0).to(x), r, (weight != 0).to(x).sum(1))),
    "norm": (Norm(), lambda x, weight, bias, relevance: share(weight * x, relevance, weight @ x + bias)),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", ["linear", "linear without bias", "conv2d", "conv2d in groups", "transposed conv2d"])
@pytest.mark.parametrize("rule", BY_HAND)
def test_rules_are_their_formulas(rule, name, sign):
    module, x = make_module(name)
    x, (zennit_rule, formula) = SIGNS[sign](x), BY_HAND[rule]
    output, relevance = output_and_relevance(accelerate(everywhere(zennit_rule)), module, x)
    zeros = torch.zeros_like(x[:1])
    weight, bias = jacrev(module)(zeros).view(-1, zeros.numel()), module(zeros).detach().flatten()
    assert isinstance(accelerate(everywhere(zennit_rule)).module_map({}, "", module), FastRule)
    for row, start, own in zip(x, some_relevance(output), relevance):
        expected = formula(row.flatten(), weight.detach(), bias, start.flatten()).view(row.shape)
        assert expected.any() and deviation(own, expected) < 1e-10
