"""Curves of what is left of a model without its units."""
import itertools
from collections import OrderedDict
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from random_language_models import language_models
from small_sweeps import hooks_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from crp.concepts import ChannelConcept, HeadConcept
from crp.neurons import From, Mean, Scale, ablation_curve, intervene, rank, shift_class
from crp.neurons.curves import ORDERS, WAYS
from crp.neurons.lower_part import LowerPart


class Residual(nn.Module):
    """Two blocks with a path around them; operations between modules and in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 6)
        self.act, self.norm, self.out = nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Linear(6, 3)

    def forward(self, x):
        h = self.stem(x * 2).relu_()
        h = self.norm(self.first(h)) + h
        h += 1
        h = self.second(h.mean((2, 3)))
        return self.out(self.act(h))


def network():
    torch.manual_seed(0)
    return Residual().double().eval()


def data(count=10):
    images = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(3)).double()
    return images, torch.arange(count) % 3


def ranked(units=6, layers=None):
    scores = np.random.default_rng(0).random(units)
    values = {layer: np.random.rand(5, count) for layer, count in (layers or {"act": units}).items()}
    return rank(values, by=lambda values, labels: scores[:values.shape[1]])


def zeroed(model, inputs, units):
    index = torch.tensor(units, dtype=torch.int64)
    handle = model.act.register_forward_hook(lambda m, a, output: output.index_fill(1, index, 0.))
    output = model(inputs)
    handle.remove()
    return output


@pytest.mark.parametrize("form", [
    lambda inputs, targets: (inputs, targets), TensorDataset,
    lambda inputs, targets: DataLoader(TensorDataset(inputs, targets), 4),
    lambda inputs, targets: [(x.numpy(), int(y)) for x, y in zip(inputs, targets)],
])
def test_curves_are_those_of_the_model_without_units(form):
    model, (inputs, targets), ranking = network(), data(), ranked()
    curves = ablation_curve(
        model, form(inputs, targets), ranking, "logit", by="zero", steps=(.2, .5, 1), random=2, batch_size=4,
        verbose=False,
    )
    np.testing.assert_allclose(curves.fractions, [0, 1 / 6, .5, 1])  # one, three and six units
    for order, direction in zip(ORDERS, (1, -1)):
        units = ranking.order[::direction]
        expected = [
            float(zeroed(model, inputs, units[:count].tolist()).gather(1, targets[:, None]).mean())
            for count in (0, 1, 3, 6)
        ]
        np.testing.assert_allclose(curves.curves[ranking.method, "zero", order], expected)
    area = curves.areas()[0]
    most, least = (curves.curves[ranking.method, "zero", order] for order in ORDERS)
    steps = np.diff(curves.fractions)
    by_hand = [float((steps * (curve[1:] + curve[:-1]) / 2).sum()) for curve in (most, least)]
    np.testing.assert_allclose((area.most, area.least, area.difference), (*by_hand, by_hand[1] - by_hand[0]))
    assert area.lower <= area.difference <= area.upper
    faithfulness = (least - least[-1]) / (least[0] - least[-1])
    np.testing.assert_allclose(area.cpr, (steps * (faithfulness[1:] + faithfulness[:-1]) / 2).sum())
    distance = np.abs(1 - faithfulness)
    np.testing.assert_allclose(area.cmd, (steps * (distance[1:] + distance[:-1]) / 2).sum())
    assert curves.random["zero"].shape == (2, 4) and not hooks_of(model)
    assert len(curves.to_frame()) == 4 * 4 and curves.plot().axes


def test_means_and_resampled_values():
    model, (inputs, targets), ranking = network(), data(), ranked()
    curves = ablation_curve(model, (inputs, targets), ranking, "logit", steps=(.5,), random=0, batch_size=3,
                            verbose=False)
    kept = []
    handle = model.act.register_forward_hook(lambda m, a, output: kept.append(output.clone()))
    model(inputs)
    handle.remove()
    units = ranking.top(3)
    mean = kept[0].mean(0)

    def set_mean(module, args, output):
        output = output.clone()
        output[:, units] = mean[units]
        return output

    handle = model.act.register_forward_hook(set_mean)
    expected = float(model(inputs).gather(1, targets[:, None]).mean())
    handle.remove()
    assert curves.curves[ranking.method, "mean", ORDERS[0]][1] == pytest.approx(expected, abs=1e-6)
    resampled = curves.curves[ranking.method, "resample", ORDERS[0]]
    assert resampled[0] == pytest.approx(curves.curves[ranking.method, "zero", ORDERS[0]][0])
    assert resampled[1] != resampled[0]
    again = ablation_curve(model, (inputs, targets), ranking, "logit", steps=(.5,), random=0, batch_size=3,
                           verbose=False)
    assert np.array_equal(again.curves[ranking.method, "resample", ORDERS[0]], resampled)


def test_several_layers_rankings_and_heads():
    model, (inputs, targets) = network(), data()
    rankings = {"a": ranked(10, {"first": 4, "act": 6}), "b": rank(
        {"first": np.random.rand(9, 4), "act": np.random.rand(9, 6)}, by="variance"
    )}
    curves = ablation_curve(model, (inputs, targets), rankings, by=["zero", "mean"], steps=(.5,), random=1,
                            verbose=False)
    assert {key[:2] for key in curves.curves} == set(itertools.product("ab", ("zero", "mean")))
    assert 0 <= curves.areas()[0].most <= 1

    language, _ = language_models()["gpt2"]
    tokens = torch.randint(1, 50, (4, 5))
    layer = "transformer.h.0.attn.c_proj:in"
    of_heads = rank({layer: np.random.rand(5, 4)}, by="variance")
    curves = ablation_curve(
        language.eval(), (tokens, tokens[:, 0]), of_heads, "logit", steps=(.5,), random=1, verbose=False,
        concepts=HeadConcept(4), output=lambda output: output.logits[:, -1],
    )
    assert np.isfinite(list(curves.curves.values())).all()
    of_features = rank({"transformer.h.0": np.random.rand(5, 16)}, by="variance")
    ablation_curve(
        language, (tokens, tokens[:, 0]), of_features, "logit", by=WAYS, steps=(.5,), random=0, verbose=False,
        concepts={"transformer.h.0": ChannelConcept(-1)}, output=lambda output: output.logits[:, -1],
    )


class Collected:
    """As torchmetrics has them."""

    def reset(self):
        self.values = []

    def update(self, output, targets):
        self.values += (output.argmax(1) == targets).tolist()

    def compute(self):
        return torch.tensor(self.values, dtype=torch.float64).mean()


def test_metrics_of_any_kind():
    model, (inputs, targets), ranking = network(), data(), ranked()
    options = {"by": "zero", "steps": (.3,), "random": 1, "batch_size": 4, "verbose": False}
    expected = ablation_curve(model, (inputs, targets), ranking, **options)
    for metric in (
        Collected(), lambda output, targets: (output.argmax(1) == targets).double(),
        lambda output, targets: (output.argmax(1) == targets).double().mean(),
        lambda output, targets: float((output.argmax(1) == targets).double().mean()),
    ):
        found = ablation_curve(model, (inputs, targets), ranking, metric, **options)
        for key, curve in expected.curves.items():
            np.testing.assert_allclose(found.curves[key], curve, atol=1e-6)
    assert np.isnan(found.areas()[0].lower)
    for name in ("probability", "cross_entropy"):
        found = ablation_curve(model, (inputs, targets), ranking, name, **options)
        probability = model(inputs).softmax(1).gather(1, targets[:, None])
        value = probability.mean() if name == "probability" else probability.log().mean()
        assert found.curves[ranking.method, "zero", ORDERS[0]][0] == pytest.approx(float(value))


def test_what_lies_below_runs_once_for_a_batch():
    model, (inputs, targets) = network(), data()
    calls = {"stem": 0, "first": 0, "second": 0, "out": 0}
    forwards = {name: model.get_submodule(name).forward for name in calls}
    for name in calls:
        def forward(x, name=name):
            calls[name] += 1
            return forwards[name](x)

        model.get_submodule(name).forward = forward
    ablation_curve(model, (inputs, targets), ranked(), by="zero", steps=(.2, .5, 1), random=3, batch_size=5,
                   verbose=False)
    runs = 2 * 5 * 3  # batches, orders, steps
    assert calls["stem"] == calls["first"] == calls["second"] == 2  # and the whole to learn of the layer's units
    assert calls["out"] == runs + 2 + 1
    assert all(vars(model.get_submodule(name))["forward"].__name__ == "forward" for name in calls)


def test_the_lower_part_gives_what_the_model_gives_and_stays_as_it_was():
    from crp.model.layers import resolve_layer
    model, (inputs, _) = network(), data()
    expected = model(inputs)
    for layer in ("stem", "norm", "act", "second:in", "out"):
        with LowerPart(model, inputs, [resolve_layer(model, layer)]) as lower:
            for _ in range(3):
                torch.testing.assert_close(lower.run(), expected)
        assert not any("forward" in vars(module) for module in model.modules()) and not hooks_of(model)
    model.train()
    with LowerPart(model, inputs, [resolve_layer(model, "out")]) as lower:
        assert not any("forward" in vars(module) for module in model.modules())


def test_nothing_stays_after_an_interrupt():
    model, (inputs, targets) = network(), data()

    def metric(output, targets):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablation_curve(model, (inputs, targets), ranked(), metric, verbose=False)
    assert not any("forward" in vars(module) for module in model.modules()) and not hooks_of(model)


def brute_force(model, inputs, targets, ranking, layer, change):
    """Logits of the targets with more and more units changed, without caching anything."""
    found = []
    for count in range(len(ranking) + 1):
        with intervene(model, {layer: {tuple(ranking.top(count)): change}}) if count else nullcontext():
            output = model(inputs.clone())
        found.append(float(output.gather(1, targets[:, None]).mean()))
    return found


class WritesToWhatItTakes(nn.Module):
    """A path around an activation reads what that has written to."""

    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b, self.o = nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x.sub_(.5)
        h = self.a(x)
        y = self.relu(h)
        return self.o(self.b(y) + h)


class AddsInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.b, self.o = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.b(x)
        h += x
        return self.o(h.tanh_())


def model_with_hook():
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 8), b=nn.Linear(8, 8), o=nn.Linear(8, 3)))
    model.b.register_forward_hook(lambda module, args, output: output * 2 + 1)
    return model


@pytest.mark.parametrize("make", [WritesToWhatItTakes, AddsInPlace, model_with_hook])
@pytest.mark.parametrize("inside", [False, True])
def test_models_that_write_in_place_and_have_hooks_and_edits(make, inside):
    torch.manual_seed(0)
    model = make().double().eval()
    inputs, targets = torch.randn(9, 4).double(), torch.arange(9) % 3
    given = inputs.clone()
    units = model.b.out_features
    ranking = rank({"b": np.random.default_rng(0).random((20, units))}, by="activation")
    edit = {"b": {0: Scale(3.)}} if make is AddsInPlace else {"a": {1: Scale(2.)}}
    with intervene(model, edit) if inside else nullcontext():
        curves = ablation_curve(
            model, (inputs, targets), ranking, "logit", by=["zero", "mean"], steps=[i / units for i in range(1, units)],
            batch_size=4, random=0, verbose=False,
        )
        assert torch.equal(inputs, given)
        expected = brute_force(model, inputs, targets, ranking, "b", 0.)
        kept = []
        handle = model.b.register_forward_hook(lambda module, args, output: kept.append(output.clone()))
        model(inputs.clone())
        handle.remove()
        means = brute_force(model, inputs, targets, ranking, "b", Mean(kept[0]))
    order = "most important first"
    np.testing.assert_allclose(curves.curves["activation", "zero", order], expected, atol=1e-9)
    np.testing.assert_allclose(curves.curves["activation", "mean", order], means, atol=1e-6)


def test_resampled_values_are_of_other_samples():
    model, seen = nn.Sequential(OrderedDict(b=nn.Identity(), o=nn.Identity())).eval(), []
    inputs = torch.eye(9)[:, :9] + 1
    model.o.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    ablation_curve(
        model, (inputs, torch.arange(9)), rank({"b": np.random.rand(5, 9)}, by="variance"), "logit", by="resample",
        steps=(1.,), random=0, batch_size=4, verbose=False,
    )
    changed = [output for output in seen if not any(torch.equal(output, part) for part in inputs.split(4))]
    assert sum(map(len, changed)) == 2 * 9  # in both orders
    with pytest.raises(ValueError, match="batch_size is at least 2"):
        ablation_curve(
            model, (inputs, torch.arange(9)), rank({"b": np.random.rand(5, 9)}, by="variance"), "logit", batch_size=1,
            verbose=False,
        )


@pytest.mark.parametrize("units", [2, 4, 10])
def test_areas_are_over_the_units_that_are_gone(units):
    """Where all units count alike, half of the area is left in any order."""
    model = nn.Sequential(OrderedDict(b=nn.Identity(), o=nn.Linear(units, 2))).eval()
    with torch.no_grad():
        model.o.weight[:] = 1 / units
        model.o.bias.zero_()
    ranking = rank({"b": np.random.rand(5, units)}, by="variance")
    ones = torch.ones(4, units), torch.zeros(4, dtype=torch.long)
    curves = ablation_curve(model, ones, ranking, "logit", by="zero", verbose=False)
    area = curves.areas()[0]
    np.testing.assert_allclose((area.most, area.least, area.random, area.cpr), .5, atol=1e-6)


def test_train_mode_leaves_no_trace():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ablation_curve(model, data(), ranked(), by=["mean", "resample"], steps=(.5,), random=0, verbose=False)
    with intervene(model, {"act": {0: From(data(2)[0])}}):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rankings_of_directions_are_refused():
    values = np.random.rand(30, 6)
    ranking = rank([values, values[:, :3]], by="svcca")
    assert ranking.units == [0, 1, 2]
    with pytest.raises(ValueError, match="of 3 directions, and not of units"):
        ablation_curve(network(), data(), ranking, layer="act")


@pytest.mark.parametrize("changes, message", [
    ({"metric": "acuracy"}, "not 'acuracy'"), ({"by": "one"}, "not 'one'"), ({"steps": (2.,)}, "above 0 and at most 1"),
    ({"rankings": ranked(5)}, "5 units of 'act', which has 6"), ({"rankings": {}}, "a Ranking, or a dict"),
    ({"rankings": {"a": ranked(), "b": ranked(5)}}, "not the same units"), ({"rankings": rank(np.eye(6))}, "layer="),
    ({"rankings": rank({"acd": np.eye(6)})}, "did you mean 'act'"), ({"data": (data()[0], [1])}, "10 samples, but 1"),
    ({"data": 3}, "a dataset or a DataLoader"), ({"metric": 3}, "metric is a name"), ({"batch_size": 0}, "at least 1"),
    ({"metric": lambda output, targets: output}, "one for each of"),
])
def test_bad_input_is_refused_in_words(changes, message):
    given = {"model": network(), "data": data(), "rankings": ranked(), "metric": "accuracy", "verbose": False}
    given |= changes
    with pytest.raises((ValueError, TypeError), match=message):
        ablation_curve(**given)
    assert not hooks_of(given["model"])


def two_classes():
    """A network that tells two classes by unit 0 of its hidden layer, and data of both."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    inputs = torch.tensor(random.normal(size=(200, 3)) + 3 * np.eye(3)[0] * labels[:, None]).float()
    model = nn.Sequential(OrderedDict(hidden=nn.Linear(3, 4), out=nn.Linear(4, 2)))
    with torch.no_grad():
        model.hidden.weight.copy_(torch.eye(4, 3))
        model.hidden.bias.zero_()
        model.out.weight.copy_(torch.tensor([[0, 0, 0, 0], [2., 0, 0, 0]]))
        model.out.bias.copy_(torch.tensor([3., 0]))
    return model.eval(), inputs, labels


def test_units_move_from_one_class_to_another():
    model, inputs, labels = two_classes()
    values = model.hidden(inputs).detach()
    of_source = inputs[labels == 0]
    found = shift_class(model, "hidden", values, labels, 0, 1, data=of_source)
    assert found.samples > 80 and found.success > .85 and found.lower < found.success < found.upper
    assert shift_class(model, "hidden", values, labels, 0, 1, 1., data=of_source).success > found.success
    assert shift_class(model, "hidden", values, labels, 0, 1, data=of_source, units=[1, 2]).success < .1
    assert found.control < .6
    kept = []
    handle = model.out.register_forward_pre_hook(lambda m, a: kept.append(a[0].clone()))
    shift_class(model, "hidden", values, labels, 0, 1, .5, data=of_source, batch_size=500)
    handle.remove()
    moved, source, target = kept[1], values[labels == 0], values[labels == 1]
    expected = target.mean(0) + .5 * (target.mean(0) - source.mean(0))
    torch.testing.assert_close(moved.mean(0)[:3], expected[:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.std(0)[:3], target.std(0)[:3], atol=1e-2, rtol=1e-2)
    assert np.isnan(shift_class(model, "hidden", values, labels, 0, 1, data=of_source, units=[0]).control)
    with pytest.raises(IndexError, match="output 5 is out of range: outputs are 0 to 1"):
        shift_class(model, "hidden", values, labels, 0, 1, data=of_source, answer=5)
    with pytest.raises(TypeError, match="answer="):
        shift_class(model, "hidden", values, np.array(["a", "b"])[labels], "a", "b", data=of_source)
    with pytest.raises(ValueError, match="no row of values is of class 7"):
        shift_class(model, "hidden", values, labels, 7, 1, data=of_source)
    with pytest.raises(ValueError, match="nothing to change"):
        shift_class(model, "hidden", values, labels, 0, 1, data=inputs[labels == 1][:5])
