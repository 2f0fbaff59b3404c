"""Nothing is computed twice."""
import pytest
import torch
from rule_cases import CONVOLUTION, CONVOLUTION_BACKWARD, SIGNS, Calls, assert_equals_zennit, everywhere, relevance_of
from torch import nn
from zennit.composites import EpsilonPlus
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus

from crp.attribution import CondAttribution
from crp.rules.acceleration import accelerate

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("rule, sign, expected", [
    (ZPlus(), "positive", (2, 1)), (ZPlus(), "half zeros", (2, 1)), (ZPlus(), "negative", (2, 1)),
    (ZPlus(), "mixed", (3, 2)), (Epsilon(), "mixed", (1, 1)), (Norm(), "mixed", (1, 1)),
    (Epsilon(zero_params="bias"), "mixed", (2, 1)), (AlphaBeta(), "positive", (3, 2)), (AlphaBeta(), "mixed", (5, 4)),
    (AlphaBeta(1, 0), "mixed", (3, 2)), (Gamma(), "positive", (2, 2)), (Gamma(), "mixed", (2, 2)),
    (WSquare(), "mixed", (2, 1)), (Flat(), "mixed", (2, 1)), (ZBox(-1., 2.), "mixed", (4, 3)),
    (ZBox(0., 2.), "positive", (3, 2)),
])
def test_nothing_is_computed_twice(conv, image, rule, sign, expected):
    with Calls() as calls:
        relevance_of(accelerate(everywhere(rule)), conv, SIGNS[sign](image))
    assert calls.convolutions == expected


def test_what_is_equal_for_all_samples_is_computed_for_one(conv, image):
    for rule in (Flat(), WSquare()):
        with Calls() as calls:
            relevance_of(accelerate(everywhere(rule)), conv, image)
        assert [shapes[0][0] for shapes in calls.shapes[CONVOLUTION]] == [2, 1]
    with Calls() as calls:
        relevance_of(accelerate(everywhere(ZBox(-1., 2.))), conv.float(), image.float())
    assert [shapes[0][0] for shapes in calls.shapes[CONVOLUTION]] == [2, 2, 1, 1]


def test_equal_weights_need_one_channel(conv, image):
    with Calls() as calls:
        relevance_of(accelerate(everywhere(Flat())), conv, image)
    (start, _, weight), = calls.shapes[CONVOLUTION_BACKWARD]
    assert start[1] == 1 and weight[:2] == (1, 1)


class ChangedInPlace(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return torch.relu_(self.module(x))


@pytest.mark.parametrize("rule, expected", [
    (Epsilon(), (2, 1)), (Norm(), (2, 1)), (Gamma(), (3, 2)), (Gamma(2., zero_params="bias"), (6, 4)),
])
def test_an_output_that_was_changed_in_place_is_computed_again(conv, image, rule, expected):
    model = ChangedInPlace(conv)
    composite = Composite(lambda context, name, module: rule if module is conv else None)
    assert_equals_zennit(composite, model, image)
    with Calls() as calls:
        relevance_of(accelerate(composite), model, image)
    assert calls.convolutions == expected


def test_a_module_that_is_called_twice_keeps_both_calls():
    class Twice(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))
            self.first, self.second = first, second

        def forward(self, x):
            hidden = self.first(torch.stack([self.a(x), self.b(x)], -1))
            return self.second(torch.stack([hidden, self.c(hidden)], -1))

    def heatmap(model, **options):
        attribution = CondAttribution(model.double().eval(), functional=False, heatmap_axis=None, **options)
        return attribution(torch.arange(6.).double()[None] / 6, [{"y": [1]}], EpsilonPlus()).heatmap

    shared = Sum()
    expected = heatmap(Twice(Sum(), Sum()), accelerate=False)
    torch.testing.assert_close(heatmap(Twice(shared, shared)), expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(heatmap(Twice(shared, shared), accelerate=False), expected)  # as zennit's rules do
