"""Composites are known by what they do."""
import functools

import pytest
import torch
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    LayerMapComposite,
    NameMapComposite,
)
from zennit.core import BasicHook, Composite, Hook
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus
from zennit.types import Activation, AvgPool, Convolution, Linear

from crp.sweeps.rule_fingerprint import composite_fingerprint


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 5), nn.GELU(), nn.Linear(5, 3),
    ).eval()


RULES = {
    "epsilon": lambda: Epsilon(), "larger epsilon": lambda: Epsilon(1e-5), "gamma": lambda: Gamma(.25),
    "other gamma": lambda: Gamma(.251), "plus": lambda: ZPlus(), "alpha 2": lambda: AlphaBeta(2, 1),
    "alpha 3": lambda: AlphaBeta(3, 2), "flat": lambda: Flat(), "square": lambda: WSquare(), "pass": lambda: Pass(),
    "box": lambda: ZBox(-1., 1.), "wider box": lambda: ZBox(-2., 1.),
    "without bias": lambda: Epsilon(zero_params="bias"),
    "own": lambda: BasicHook(gradient_mapper=lambda out_grad, outputs: out_grad * 2),
}


def of(rule, model, kinds=Linear):
    return composite_fingerprint(LayerMapComposite([(kinds, rule)]), model)["rules"]


@pytest.mark.parametrize("kind", [pytest.param(Convolution, marks=pytest.mark.slow), nn.Linear])
def test_other_rules_answer_otherwise_and_equal_ones_alike(model, kind):
    found = {name: of(make(), model, kind) for name, make in RULES.items()}
    assert {name: of(make(), model, kind) for name, make in RULES.items()} == found
    answers = [tuple(rules.values()) for rules in found.values()]
    assert len(set(answers)) == len(answers)


def test_the_way_a_composite_is_written_does_not_matter(model):
    first = LayerMapComposite([(Activation, Pass()), (AvgPool, Norm()), (Convolution, ZPlus()), (nn.Linear, Epsilon())])
    names = {nn.Conv2d: ZPlus, nn.Linear: Epsilon, nn.AvgPool2d: Norm, nn.ReLU: Pass, nn.GELU: Pass,
             nn.BatchNorm2d: Pass}
    second = NameMapComposite([
        ([name], names[type(module)]()) for name, module in model.named_modules() if type(module) in names
    ])
    found = [composite_fingerprint(composite, model)["rules"] for composite in (first, second)]
    assert all(found[0][name] == found[1][name] for name in found[0])


def test_zennits_composites_are_told_apart(model):
    made = [EpsilonPlus(), EpsilonPlusFlat(), EpsilonAlpha2Beta1(), EpsilonGammaBox(low=-1., high=1.),
            EpsilonGammaBox(low=-1., high=2.), EpsilonPlus(epsilon=1e-2), Composite()]
    found = [str(composite_fingerprint(composite, model)["rules"]) for composite in made]
    assert len(set(found)) == len(found)
    assert composite_fingerprint(Composite(), model)["rules"] == {}


def test_canonizers_count(model):
    plain, merged = (composite_fingerprint(EpsilonPlus(canonizers=canonizers), model)
                     for canonizers in ([], [SequentialMergeBatchNorm()]))
    assert plain["rules"] == merged["rules"] and plain["canonizers"] != merged["canonizers"]


class Scaled(Hook):
    """A rule of one's own that no shape fits: its way of writing counts."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def copy(self):
        raise RuntimeError("cannot be copied")


def test_rules_that_cannot_answer_are_known_by_how_they_are_written(model):
    assert of(Scaled(1), model) == of(Scaled(1), model) != of(Scaled(2), model)


def test_the_model_is_not_touched(model, model_state):
    before, numbers = model_state(model), torch.get_rng_state()
    composite_fingerprint(EpsilonPlusFlat(), model)
    assert model_state(model) == before and torch.equal(torch.get_rng_state(), numbers)
    assert functools.reduce(lambda a, b: a and not b._forward_hooks, model.modules(), True)


def test_rules_on_modules_of_other_kinds_are_told_apart(model):
    """Such as batch norms, or the layers of GPT-2, which are no nn.Linear."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    found = {name: composite_fingerprint(NameMapComposite([(names, make())]), model)["rules"]
             for name, make in RULES.items()}
    assert len({str(rules) for rules in found.values()}) == len(found)


def test_rules_of_operations_are_told_apart():
    """Which no module of the model has."""
    found = [composite_fingerprint(LayerMapComposite([(kind, rule())]), nn.ReLU())["operations"]
             for kind in (nn.Linear, Convolution) for rule in (Epsilon, ZPlus, lambda: Gamma(10.), Gamma)]
    assert len({str(operations) for operations in found}) == len(found)


def test_bounds_of_colours_are_told_apart_by_their_answer(model, monkeypatch):
    monkeypatch.setattr("crp.sweeps.rule_fingerprint.fingerprint", lambda rule: "written")
    low = torch.tensor([-2.1, -2., -1.8]).view(1, 3, 1, 1)
    answers = [composite_fingerprint(EpsilonGammaBox(low=factor * low, high=-low), model)["rules"]["0"]
               for factor in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2] and "written" not in "".join(answers)
