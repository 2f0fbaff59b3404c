import collections
import copy
import functools
import logging
import math
import operator
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, LayerMapComposite, SpecialFirstLayerMapComposite
from zennit.rules import Epsilon, Gamma, Pass, ZBox, ZPlus
from zennit.types import Activation, Convolution, Linear

from crp.concepts import ChannelConcept
from crp.store.fingerprint import fingerprint
from crp.sweeps.model_fingerprint import model_fingerprint


def closure(number):
    return lambda tensor: tensor + number


def attach(composite):
    """Register and remove a composite, as an attribution does."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    with composite.context(model):
        model(torch.rand(1, 1, 5, 5, requires_grad=True)).sum().backward()
    return composite


BUILDERS = {
    "default": lambda: EpsilonPlusFlat(),
    "epsilon": lambda: EpsilonPlusFlat(epsilon=1e-3),
    "epsilon of another size": lambda: EpsilonPlusFlat(epsilon=1e-2),
    "canonizer": lambda: EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]),
    "layer map": lambda: LayerMapComposite([(Convolution, ZPlus()), (Linear, Epsilon()), (Activation, Pass())]),
    "other order": lambda: LayerMapComposite([(Linear, Epsilon()), (Convolution, ZPlus()), (Activation, Pass())]),
    "other rule": lambda: LayerMapComposite([(Convolution, Gamma()), (Linear, Epsilon()), (Activation, Pass())]),
    "rule parameter": lambda: LayerMapComposite([(Convolution, Gamma(0.5)), (Linear, Epsilon()), (Activation, Pass())]),
    "zbox": lambda: SpecialFirstLayerMapComposite(
        [], [(Convolution, ZBox(low=torch.full((1, 1, 4, 4), -1.0), high=torch.ones(1, 1, 4, 4)))]),
    "zbox low": lambda: SpecialFirstLayerMapComposite(
        [], [(Convolution, ZBox(low=torch.full((1, 1, 4, 4), -2.0), high=torch.ones(1, 1, 4, 4)))]),
    "zbox high": lambda: SpecialFirstLayerMapComposite(
        [], [(Convolution, ZBox(low=torch.full((1, 1, 4, 4), -1.0), high=torch.full((1, 1, 4, 4), 3.0)))]),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_a_composite_built_twice_is_the_same_and_using_it_changes_nothing(name):
    build = BUILDERS[name]
    assert fingerprint(build()) == fingerprint(build())
    if "zbox" not in name:
        assert fingerprint(attach(build())) == fingerprint(build())


def test_composites_that_differ_have_different_fingerprints():
    prints = {name: fingerprint(build()) for name, build in BUILDERS.items()}
    assert len(set(prints.values())) == len(prints)


def test_which_of_two_shared_rules_a_layer_gets_matters():
    epsilon, gamma = Epsilon(), Gamma()
    one = LayerMapComposite([(Convolution, epsilon), (Linear, gamma), (Activation, epsilon)])
    other = LayerMapComposite([(Convolution, epsilon), (Linear, gamma), (Activation, gamma)])
    assert fingerprint(one) != fingerprint(other)


def test_sharing_a_rule_does_not_matter():
    shared = Epsilon()
    together = LayerMapComposite([(Convolution, shared), (Linear, shared)])
    apart = LayerMapComposite([(Convolution, Epsilon()), (Linear, Epsilon())])
    assert fingerprint(together) == fingerprint(apart)


@pytest.mark.parametrize("one, other", [
    (closure(1), closure(2)),
    (closure(torch.ones(3)), closure(torch.zeros(3))),
    (lambda x: x * 2, lambda x: x * 3),
    (lambda x: x.relu(), lambda x: x.tanh()),
    (lambda x, low=0: x, lambda x, low=1: x),
    (lambda x, *, low=0: x, lambda x, *, low=1: x),
    (functools.partial(operator.add, 1), functools.partial(operator.add, 2)),
    (functools.partial(operator.add, 1), functools.partial(operator.mul, 1)),
    (functools.partial(sorted, reverse=True), functools.partial(sorted, reverse=False)),
    (1, 1.0), (True, 1), ("1", 1), ([1, 2], [2, 1]), ([[1], 2], [[1, 2]]), ((1,), [1]), ({"a": 1}, {"a": 2}),
    ({1, 2}, {1, 3}), (None, "None"), (torch.ones(2), torch.ones(2, 1)), (torch.ones(2), torch.ones(2).double()),
    (np.ones(2), np.ones((1, 2))), (nn.ReLU, nn.Tanh), (ChannelConcept(1), ChannelConcept(-1)),
    (range(3), range(4)), (torch.float16, torch.float32), (np.array(["a"], object), np.array(["b"], object)),
])
def test_values_that_differ_have_different_fingerprints(one, other):
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("one, other", [
    (lambda x: x + 1, lambda x: x - 1),
    (lambda x: x > 1, lambda x: x < 1),
    (lambda x, y: x, lambda x, y: y),
])
def test_functions_that_differ_only_in_an_operator_or_argument_have_different_fingerprints(one, other):
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("value", [
    closure(3), {"a": [1, (2.5, None)], "b": {3, 4}}, torch.arange(6.0).view(2, 3), np.arange(3), ChannelConcept(-1),
    torch.ones(2, dtype=torch.bfloat16), torch.tensor(True),
])
def test_equal_values_have_equal_fingerprints(value):
    other = closure(3) if callable(value) else copy.deepcopy(value)
    assert fingerprint(value) == fingerprint(other)


def test_a_tensor_that_is_not_contiguous_is_its_values():
    tensor = torch.arange(6.0).view(2, 3)
    assert fingerprint(tensor.T) == fingerprint(tensor.T.contiguous()) != fingerprint(tensor)


def test_a_structure_that_contains_itself_has_a_fingerprint():
    loop = []
    loop.append(loop)
    assert fingerprint(loop) != fingerprint([])


def test_structures_may_be_deeper_than_the_stack():
    def chain(length):
        return functools.reduce(lambda inner, _: [inner], range(length), [])

    assert fingerprint(chain(9999)) == fingerprint(chain(9999)) != fingerprint(chain(9))


def test_built_in_methods_are_told_apart_by_their_objects():
    assert fingerprint([1].count) == fingerprint([1].count) != fingerprint([2].count)


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_a_model_is_told_apart_by_each_parameter_and_buffer():
    prints = [model_fingerprint(small_model()), model_fingerprint(small_model())]
    for name in small_model().state_dict():
        model = small_model()
        tensor = model.state_dict()[name].view(-1)
        tensor[-1] += 1
        prints.append(model_fingerprint(model))
    assert prints[0] == prints[1]
    assert len({item["weights"] for item in prints}) == len(prints) - 1


def test_models_of_different_classes_are_told_apart():
    class Other(nn.Sequential):
        pass

    assert model_fingerprint(Other()) != model_fingerprint(nn.Sequential())


SCRIPT = """
import torch
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat
from crp.concepts import ChannelConcept
from crp.store.fingerprint import fingerprint
from crp.sweeps.model_fingerprint import model_fingerprint

torch.manual_seed(0)
found = fingerprint([
    EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]), ChannelConcept(-1), {"a", "b", "c", "d", "e"},
    lambda x, low=1: x * 3 + low, torch.arange(3), model_fingerprint(nn.Linear(2, 3)),
])
"""


@pytest.mark.slow
def test_fingerprints_are_the_same_in_every_process():
    here = {"__name__": "__main__"}
    exec(SCRIPT, here)
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT + "print(found)"], env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True, text=True, check=True,
    ).stdout
    assert there.strip() == here["found"]


@pytest.mark.parametrize("dtype", [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.complex64,
])
@pytest.mark.parametrize("shape", [(), (3,), (100,), (200, 97), (16, 1024)])
def test_changes_of_weights_are_noticed_however_they_are_made(dtype, shape):
    model = nn.Module()
    model.register_buffer("weight", (torch.arange(math.prod(shape)).view(shape) % 89 + 1).to(dtype))
    weight, before, first = model.weight, model.weight.clone(), model_fingerprint(model)
    edits = [lambda: weight.data.neg_(), lambda: weight.data.flatten()[-1:].mul_(2), lambda: weight.mul_(3)]
    if len(shape) == 2:
        edits += [
            lambda: weight.data.copy_(before.roll(1, 0)), lambda: weight.data.copy_(before.roll(1, 1)),
            lambda: setattr(weight, "data", before.roll(50, 0)), lambda: weight.data.flatten()[:8192].neg_(),
            lambda: weight.data[:4].copy_(before[:4].roll(1, 0)), lambda: weight.data[:4].copy_(before[:4].roll(1, 1)),
        ]
    for edit in edits:
        edit()
        assert model_fingerprint(model) == model_fingerprint(copy.deepcopy(model)) != first
        weight.data.copy_(before)
        assert model_fingerprint(model) == first


def test_weights_at_odd_places_in_memory_have_fingerprints():
    storage = torch.arange(20001, dtype=torch.float16)
    models = [nn.Module(), nn.Module()]
    models[0].register_buffer("weight", storage[1:])
    models[1].register_buffer("weight", storage[1:].clone())
    assert model_fingerprint(models[0]) == model_fingerprint(models[1])


class Scaled(nn.Module):
    scale = 1.

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x, shift=1.):
        return x * self.scale + shift


def scaled(edit):
    """A class like Scaled, changed."""
    kind = type("Scaled", (Scaled,), {"__module__": __name__, "__qualname__": "Scaled"})
    edit(kind)
    return kind()


def decorated(factor):
    def forward(self, x):
        return x * factor
    return functools.wraps(Scaled.forward)(lambda self, x: forward(self, x))


OTHER_MODELS = {
    "nothing": Scaled, "function": lambda: Scaled(act=torch.tanh), "other function": lambda: Scaled(act=torch.relu),
    "lambda": lambda: Scaled(act=lambda x: x + 1), "other lambda": lambda: Scaled(act=lambda x: x + 2),
    "partial": lambda: Scaled(act=functools.partial(torch.sum, dim=1)),
    "other partial": lambda: Scaled(act=functools.partial(torch.sum, dim=2)),
    "tensor": lambda: Scaled(mean=torch.zeros(2)), "other tensor": lambda: Scaled(mean=torch.ones(2)),
    "array": lambda: Scaled(mean=np.zeros(2)), "list": lambda: Scaled(sizes=[1, 2]),
    "other list": lambda: Scaled(sizes=[2, 1]), "dict": lambda: Scaled(sizes={"a": [1, slice(0, 3)]}),
    "other dict": lambda: Scaled(sizes={"a": [1, slice(1, 5)]}),
    "class attribute": lambda: scaled(lambda kind: setattr(kind, "scale", 7.)),
    "same class attribute": lambda: scaled(lambda kind: setattr(kind, "scale", 1.)),
    "default": lambda: scaled(lambda kind: setattr(kind, "forward", lambda self, x, shift=1.: x)),
    "other default": lambda: scaled(lambda kind: setattr(kind, "forward", lambda self, x, shift=3.: x)),
    "decorated": lambda: scaled(lambda kind: setattr(kind, "forward", decorated(1.))),
    "otherwise decorated": lambda: scaled(lambda kind: setattr(kind, "forward", decorated(2.))),
    "property": lambda: scaled(lambda kind: setattr(kind, "shift", property(lambda self: 1.))),
    "other property": lambda: scaled(lambda kind: setattr(kind, "shift", property(lambda self: 2.))),
}


def test_models_are_told_apart_by_all_that_they_compute_with():
    found = {name: model_fingerprint(make()) for name, make in OTHER_MODELS.items()}
    assert {name: model_fingerprint(make()) for name, make in OTHER_MODELS.items()} == found
    texts = {name: str(value) for name, value in found.items()}
    assert len(set(texts.values())) == len(texts)


@pytest.mark.parametrize("ignored", [
    {"device": torch.device("meta")}, {"logger": logging.getLogger("a")}, {"name_or_path": "b"},
])
def test_models_are_not_told_apart_by_what_does_not_count(ignored):
    name, = ignored
    other = {"device": torch.device("cpu"), "logger": logging.getLogger("b")}.get(name, "a")
    assert model_fingerprint(Scaled(**ignored)) == model_fingerprint(Scaled(**{name: other}))


def test_models_of_transformers_are_the_same_wherever_they_come_from(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
              "vocab_size": 11}
    made = transformers.BertForSequenceClassification(transformers.BertConfig(**config)).eval()
    prints = [model_fingerprint(made)]
    for name in "ab":
        made.save_pretrained(tmp_path / name)
        prints.append(model_fingerprint(transformers.BertForSequenceClassification.from_pretrained(tmp_path / name)))
    assert prints[0] == prints[1] == prints[2]
    made.config.hidden_act = "relu"
    assert model_fingerprint(made) != prints[0]


@pytest.mark.parametrize("make", [
    lambda: slice(0, 3), lambda: pathlib.PurePosixPath("a/b"), lambda: collections.deque([1, 2]),
    lambda: re.compile("a+"), lambda: Slotted(1),
])
def test_objects_without_a_dict_are_told_apart(make):
    others = [slice(1, 5), pathlib.PurePosixPath("a/c"), collections.deque([2, 1]), re.compile("b+"), Slotted(2)]
    assert fingerprint(make()) == fingerprint(make())
    assert fingerprint(make()) not in [fingerprint(other) for other in others]


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __call__(self):
        return self.value


def test_functions_that_close_over_modules_or_nothing():
    def close():
        import torch.nn.functional as F  # noqa: N812
        return lambda x: F.relu(later(x)) if x else absent

    closed = close()
    if closed is None:
        absent = 1
    assert fingerprint(closed) == fingerprint(closed)

    def later(x):
        return x


def test_the_order_of_a_mapping_does_not_count():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 2, "b": 1})


def test_what_a_function_imports_counts_alike_before_and_after_it_has_run(tmp_path, monkeypatch):
    (tmp_path / "imported_later.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)

    def function(x):
        import tomllib  # of the standard library, and not in use here

        import imported_later

        return imported_later.double(x) if tomllib else None

    sys.modules.pop("tomllib", None)
    before = fingerprint(function)
    assert function(1) == 2 and fingerprint(function) == before
    sys.modules["imported_later"].double = abs
    assert fingerprint(function) != before
