"""A store is read with what it was made with."""
import platform
import random
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from visualizations import (
    CLASSES,
    MODES,
    SAMPLES,
    TARGETS,
    Absolute,
    CountSamples,
    counting_model,
    images,
    small_model,
    swept,
    visualization,
)
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.store import StoreError

pytestmark = pytest.mark.usefixtures("quick")


def edited_model(edit):
    model = small_model()
    edit(model)
    return model


class Tempered(nn.Sequential):
    def forward(self, data):
        return super().forward(data) / 2


READ_WITH = {
    "weights": ({"model": small_model(seed=7)}, "model.weights is .* there and .* here"),
    "one weight": ({"model": edited_model(lambda m: m.conv.weight.data[1, 0, 2].neg_())}, "model.weights"),
    "precision": ({"model": small_model().float()}, "model.weights"),
    "code": ({"model": Tempered(OrderedDict(small_model()._modules)).eval()}, "model.class .*Tempered"),
    "attribute": ({"model": edited_model(lambda m: setattr(m.conv, "padding_mode", "reflect"))}, "model.attributes"),
    "training mode": ({"model": small_model().train()}, "model.modules in training mode is 0 there and 7 here"),
    "fewer samples": ({"data": TensorDataset(images()[:5], TARGETS[:5])}, "dataset.length is 23 there and 5 here"),
    "samples": ({"data": TensorDataset(images() ** 2, TARGETS)}, "dataset.samples"),
    "targets": ({"data": TensorDataset(images(), (TARGETS + 1) % CLASSES)}, "dataset.targets"),
    "preprocessing": ({"preprocess_fn": lambda data: data / 2}, "dataset.samples"),
    "concept": ({"layer_map": {"conv": ChannelConcept(axis=-1)}}, "layers.conv.concept"),
    "hook": ({"model": edited_model(lambda m: m.relu.register_forward_hook(lambda module, args, output: output * 0))},
             "model.hooks.relu is absent there"),
    "list": ({"model": edited_model(lambda m: setattr(m.conv, "extra", [1, 2]))}, "model.attributes.conv"),
    "function": ({"model": edited_model(lambda m: setattr(m.tanh, "act", torch.relu))}, "model.attributes.tanh"),
    "free tensor": ({"model": edited_model(lambda m: setattr(m, "mean", torch.ones(2)))}, "model.attributes.itself"),
}
READERS = {
    "max": lambda fv, mode, composite: fv.get_max_reference(0, "conv", mode, composite=composite),
    "stats": lambda fv, mode, composite: fv.get_stats_reference(0, "conv", 1, mode, composite=composite),
    "compute": lambda fv, mode, composite: fv.compute_stats(0, "conv", mode),
    "patterns": lambda fv, mode, composite: fv.find_patterns("conv", mode, min_pattern_size=2, min_samples=2),
    "pattern": lambda fv, mode, composite: fv.get_pattern_reference(0, "conv", mode, composite=composite),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", READ_WITH)
def test_a_store_is_not_read_with_what_it_was_not_made_with(single_path, what, reader):
    arguments, difference = READ_WITH[what]
    other = visualization(single_path, **arguments)
    with CountSamples(other.attribution.model) as counted:
        for mode in MODES:
            with pytest.raises(StoreError, match=f"{difference}.*overwrite=True"):
                READERS[reader](other, mode, EpsilonPlusFlat())
    assert counted.total <= len(MODES)  # a sample each, for models that make something in their first pass


@pytest.mark.parametrize("reader", ["max", "stats"])
@pytest.mark.parametrize("composite, difference", [
    (EpsilonPlusFlat(epsilon=1e-2), "composite.rules.out"), (EpsilonGammaBox(-1., 1.), "composite.class"),
    (EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]), "composite.canonizers"),
])
def test_relevance_is_not_mixed_with_heatmaps_of_another_composite(single_path, reader, composite, difference):
    fv = visualization(single_path)
    with pytest.raises(StoreError, match=difference):
        READERS[reader](fv, "relevance", composite)
    READERS[reader](fv, "activation", composite)
    READERS[reader](fv, "relevance", None)


@pytest.mark.parametrize("reader", ["max", "stats", "compute", "patterns"])
@pytest.mark.parametrize("make, difference", [
    (lambda model: CondAttribution(model, functional=False), "attribution.functional is 'attnlrp' there and False"),
    (lambda model: CondAttribution(model, functional="cp-lrp"), "attribution.functional"),
    (lambda model: CondAttribution(model, accelerate=False), "attribution.accelerate"),
    (lambda model: CondAttribution(model, output=lambda output: output * 2), "attribution.output"),
    (Absolute, "attribution.class is 'CondAttribution' there and 'Absolute' here"),
])
def test_relevance_is_not_read_with_another_attribution(single_path, reader, make, difference):
    fv = visualization(single_path)
    fv.attribution = make(fv.attribution.model)
    with pytest.raises(StoreError, match=difference):
        READERS[reader](fv, "relevance", EpsilonPlusFlat())
    READERS[reader](fv, "activation", EpsilonPlusFlat())


def test_weights_that_change_between_two_readings_are_noticed(single_path):
    fv = visualization(single_path)
    weight = fv.attribution.model.conv2.weight
    before = weight.detach().clone()
    fv.compute_stats(0, "conv")
    for edit in (
        lambda: weight.data.neg_(), lambda: weight.detach().copy_(before.flip(0)),
        lambda: setattr(weight, "data", before.flip(0)), lambda: nn.init.zeros_(weight),
    ):
        edit()
        with pytest.raises(StoreError, match="model.weights"):
            fv.compute_stats(0, "conv")
        weight.data.copy_(before)
        fv.compute_stats(0, "conv")


def test_code_is_not_compared_between_versions_of_python(tmp_path, monkeypatch):
    class Own(nn.Sequential):
        def forward(self, data):
            return super().forward(data) * 2

    fv = swept(tmp_path, model=Own(OrderedDict(small_model()._modules)).eval())
    Own.forward = lambda self, data: 2 * nn.Sequential.forward(self, data)
    with pytest.raises(StoreError, match="model.code"):
        fv.compute_stats(0, "conv")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    fv.compute_stats(0, "conv")
    fv.attribution.model.conv.weight.data.zero_()
    with pytest.raises(StoreError, match="model.weights.*made with Python 3.*, and this is 3.99.1"):
        fv.compute_stats(0, "conv")


@pytest.mark.parametrize("has_run", [False, True])
def test_what_passes_change_by_themselves_makes_no_other_model(tmp_path, has_run):
    model = counting_model()
    if has_run:
        model(images(1))
    fv = swept(tmp_path, model=model)
    fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
    fv.compute_stats(0, "conv")
    fresh = visualization(tmp_path, model=counting_model())
    fresh.compute_stats(0, "conv")
    fresh.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
    fresh.compute_stats(0, "conv")
    model.shape += 1
    if has_run:
        with pytest.raises(StoreError, match="model.weights"):
            fv.compute_stats(0, "conv")


class LateLayer(nn.Sequential):
    """Makes a layer in its first pass, and remembers the size of the last input."""

    def forward(self, data):
        self.size = data.shape[-1]
        if not hasattr(self, "late"):
            self.add_module("late", nn.Identity().eval())
        return super().forward(data)


def test_what_the_first_pass_makes_is_made_before_a_store_is_refused(tmp_path):
    def make():
        return LateLayer(OrderedDict(small_model()._modules)).eval()

    model = make()
    model(images(1))
    swept(tmp_path, model=model)
    assert visualization(tmp_path, model=make()).get_max_reference(0, "conv", plot_fn=None)


class Random(TensorDataset):
    """Another sample each time, with the same target."""

    def __getitem__(self, index):
        data, target = super().__getitem__(index)
        return self.distort(data), target


class RandomFlips(Random):
    def distort(self, data):
        return data.flip(-1) if torch.rand(()) < .1 and np.random.random() < .9 and random.random() < .9 else data


class OwnNumbers(Random):
    def distort(self, data):
        self.generator = getattr(self, "generator", None) or torch.Generator()
        return data + torch.rand(data.shape, generator=self.generator)


@pytest.mark.parametrize("kind", [RandomFlips, OwnNumbers])
def test_datasets_that_give_other_samples_each_time(tmp_path, kind):
    fv = visualization(tmp_path, data=kind(images(), TARGETS))
    sweep = fv.sweep(EpsilonPlusFlat())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sweep.settings["dataset"]["length"] == SAMPLES
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert kind is RandomFlips or any("other samples each time" in str(one.message) for one in caught)
    for _ in range(10):
        fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
        assert len(fv.get_max_reference(0, "conv", plot_fn=None)[0]) == 8
    other = visualization(tmp_path, data=kind(images(), (TARGETS + 1) % CLASSES))
    with pytest.raises(StoreError, match="dataset.targets"):
        other.get_max_reference(0, "conv")
    if kind is RandomFlips:
        with pytest.raises(StoreError, match="dataset.samples"):
            visualization(tmp_path, data=kind(images() ** 2, TARGETS)).get_max_reference(0, "conv")


def test_an_attribution_is_known_by_what_it_was_made_with(tmp_path):
    class Powered(CondAttribution):
        def __init__(self, model, power):
            super().__init__(model)
            self.power = power

        def relevance_init(self, prediction, target_list, init_rel):
            return self.power * super().relevance_init(prediction, target_list, init_rel)

    fv = visualization(tmp_path)
    fv.attribution = Powered(fv.attribution.model, 1)
    fv.run(EpsilonPlusFlat(), 0, SAMPLES)
    fv.attribution = Powered(fv.attribution.model, 1)
    fv.compute_stats(0, "conv")
    fv.attribution = Powered(fv.attribution.model, 1000)
    for ask in (lambda: fv.compute_stats(0, "conv"), lambda: fv.run(EpsilonPlusFlat(), 0, SAMPLES)):
        with pytest.raises(StoreError, match="attribution.attributes"):
            ask()
    Powered.relevance_init = lambda self, prediction, target_list, init_rel: prediction * 0
    fv.attribution = Powered(fv.attribution.model, 1)
    with pytest.raises(StoreError, match="attribution.code"):
        fv.compute_stats(0, "conv")
