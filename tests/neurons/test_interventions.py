"""Units set to other values while a model runs."""
import copy
import threading
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from random_language_models import language_models
from small_sweeps import hooks_of, small_model, sweep
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, Concept, DirectionConcept, EncodedConcept, HeadConcept
from crp.neurons import Add, From, Mean, Resample, Scale, Shift, intervene


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def network():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 6)),
        ("act", nn.ReLU()), ("out", nn.Linear(6, 3)),
    ])).double().eval()


def with_step(model, after, function):
    """The same network with a module more."""
    changed = OrderedDict()
    for name, module in copy.deepcopy(model)._modules.items():
        changed[name] = module
        if name == after:
            changed["step"] = Apply(function)
    return nn.Sequential(changed).eval()


def images(count=3):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(2)).double()


def set_channels(values):
    def function(x):
        x = x.clone()
        for channel, value in values.items():
            x[:, channel] = value(x[:, channel]) if callable(value) else value
        return x

    return function


@pytest.mark.parametrize("changes, by_hand", [
    ({2: 0.}, {2: 0.}), ({(0, 3): -1, 4: .5}, {0: -1, 3: -1, 4: .5}), ({-1: 2}, {4: 2}),
    ({1: Scale(-2)}, {1: lambda x: -2 * x}), ({1: Shift(.3), 2: 0}, {1: lambda x: x + .3, 2: 0.}),
    (Scale(3), dict.fromkeys(range(5), lambda x: 3 * x)), (1., dict.fromkeys(range(5), 1.)),
    ({range(1, 3): np.float32(2)}, {1: 2, 2: 2}), ({np.int64(1): torch.tensor(4.)}, {1: 4}),
])
@pytest.mark.parametrize("layer", ["relu", "conv", "flatten:in", "conv:0"])
def test_channels_are_set(layer, changes, by_hand):
    model, data = network(), images()
    after = {"flatten:in": "relu", "conv:0": "conv"}.get(layer, layer)
    expected = with_step(model, after, set_channels(by_hand))(data)
    with intervene(model, {layer: changes}) as changed:
        assert changed is model
        torch.testing.assert_close(model(data), expected)
    assert not torch.equal(model(data), expected) and not hooks_of(model)


@pytest.mark.parametrize("change, sign", [({1: 0.}, None), ({1: Scale(2)}, 1), (Shift(.2), None), ({(0, 2): 1.}, None)])
@pytest.mark.parametrize("layer", ["conv", "relu", "flatten:in"])
@pytest.mark.parametrize("composite", [EpsilonPlusFlat(), EpsilonPlus(), None])
def test_heatmaps_are_those_of_the_changed_model(composite, layer, change, sign):
    """As if the change were an operation of the model, with the rule that such an operation has."""
    model, data = network(), images()

    def function(x):
        if isinstance(change, Shift):
            return x + torch.full((5, 1, 1), .2)  # of a shape that tells it from an activation function
        (units, value), = change.items()
        kept = torch.zeros(x.shape[1], dtype=torch.bool)
        kept[list(np.atleast_1d(units))] = True
        new = x * value.factor if isinstance(value, Scale) else torch.full_like(x, value)
        return torch.where(kept[:, None, None], new, x)

    after = "relu" if layer == "flatten:in" else layer
    other = CondAttribution(with_step(model, after, function))
    conditions, record = [{"y": [2]}], [layer]
    expected = other(data, conditions, composite, ["step", "conv"])
    attribution = CondAttribution(model)
    with intervene(model, {layer: change}):
        found = attribution(data, conditions, composite, record)
        torch.testing.assert_close(found.prediction, expected.prediction)
        torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.activations[layer], expected.activations["step"])
        torch.testing.assert_close(found.relevances[layer], expected.relevances["step"], rtol=1e-6, atol=1e-9)
        rounds = list(attribution.generate(data[:1], [{"y": [i]} for i in range(3)], composite, verbose=False))
        torch.testing.assert_close(rounds[0].heatmap[2], expected.heatmap[0], rtol=1e-6, atol=1e-9)
        model(data)
    before = attribution(data, conditions, composite)
    assert not torch.allclose(before.heatmap, expected.heatmap)
    assert not hooks_of(model)


def test_nothing_to_set_changes_nothing():
    model, data = network(), images()
    with intervene(model, {"relu": {}}):
        assert torch.equal(model(data), network()(data))


def test_units_that_were_set_get_relevance_and_send_none():
    model, data = network(), images()
    with intervene(model, {"relu": {1: 3.}}):
        result = CondAttribution(model)(data, [{"relu": [1], "y": [0]}], EpsilonPlusFlat())
    assert (result.relevances["relu"][:, 1] != 0).any() and (result.heatmap == 0).all()


def test_batch_norms_are_not_merged_into_what_is_changed():
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 4, 3)), ("norm", nn.BatchNorm2d(4)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()),
        ("out", nn.Linear(64, 3)),
    ])).double()
    model(images(20))
    model.eval()
    attribution, data = CondAttribution(model), images()
    attribution(data, [{"y": [0]}], EpsilonPlusFlat())  # which finds that they could be
    with intervene(model, {"conv": {0: 2., 3: 1.}}):
        expected = model(data)
        torch.testing.assert_close(attribution(data, [{"y": [0]}], EpsilonPlusFlat()).prediction, expected)
        with pytest.raises(ValueError, match="canonizer of the composite changes the parameters of 'conv'"):
            attribution(data, [{"y": [0]}], EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]))
        torch.testing.assert_close(model(data), expected)
        composite = EpsilonPlusFlat()
        with attribution.attached(composite, data):
            torch.testing.assert_close(attribution(data, [{"y": [0]}], composite).prediction, expected)
    with attribution.attached(composite, data), intervene(model, {"conv": 2.}):
        with pytest.raises(ValueError, match=r"enter intervene\(\) first"):
            attribution(data, [{"y": [0]}], composite)


def test_single_positions():
    model, data = network(), images()

    def function(x):
        x = x.clone()
        x[:, 1, 0, 2], x[:, 1, 3, 3] = 5, 5
        return x

    with intervene(model, {"relu": {1: 5.}}, positions=[2, -1]):
        torch.testing.assert_close(model(data), with_step(model, "relu", function)(data))


def test_means_and_resampling():
    model, data = network(), images()
    others = images(9)
    activations = nn.Sequential(model.conv, model.relu)(others)
    means = activations.mean((0, 2, 3))
    expected = with_step(model, "relu", set_channels({1: means[1], 4: means[4]}))(data)
    with intervene(model, {"relu": {(1, 4): Mean(activations)}}):
        torch.testing.assert_close(model(data), expected)
    with intervene(model, {"relu": {(1, 4): Resample(activations)}}):
        found = model(data)
        torch.testing.assert_close(model(data), found)
    torch.testing.assert_close(model(data[:, :, :6]), model(data))
    rows = np.random.default_rng(0).integers(0, 9, 3)
    expected = with_step(model, "relu", lambda x: torch.cat([
        x[:, :1], activations[rows][:, 1:2], x[:, 2:4], activations[rows][:, 4:]
    ], 1))(data)
    torch.testing.assert_close(found, expected)


def test_mean_of_a_store(tmp_path):
    store, model = sweep(tmp_path), small_model()
    from small_sweeps import images as swept
    activations = model.conv(swept())
    with intervene(model, {"conv": Mean(store)}):
        found = model(swept())
    expected = with_step(model, "conv", lambda x: x.mean((0, 2, 3), keepdim=True).expand_as(x))(swept())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with intervene(model, {"conv": Mean(activations)}):
        torch.testing.assert_close(model(swept()), found, rtol=1e-5, atol=1e-6)


def test_values_of_other_inputs():
    model, data, other = network(), images(), images(4)[3:]
    activation = nn.Sequential(model.conv, model.relu)(other)
    with intervene(model, {"relu": {2: From(other)}, "act": {0: From(other)}}):
        found = model(data)
    hidden = nn.Sequential(model.conv, model.relu)(data).clone()
    hidden[:, 2] = activation[:, 2]
    act = model.act(model.fc(hidden.flatten(1))).clone()
    act[:, 0] = model.act(model.fc(activation.flatten(1)))[:, 0]
    torch.testing.assert_close(found, model.out(act))


def test_order_of_entries_does_not_matter_and_contexts_nest():
    model, data = network(), images()
    entries = [("relu", {0: 0., 1: Scale(2)}), ("act", {3: From(images(1))}), ("relu:in", {2: 1.})]
    found = []
    for order in (entries, entries[::-1]):
        with intervene(model, {layer: dict(reversed(list(change.items()))) for layer, change in order}):
            found.append(model(data))
    assert torch.equal(*found)
    with intervene(model, {"relu": {0: 2.}}):
        with intervene(model, {"relu": {0: Scale(3), 1: 0.}}):
            inner = model(data)
            heatmap = CondAttribution(model)(data, [{"y": [1]}], EpsilonPlus()).prediction
        outer = model(data)
    torch.testing.assert_close(inner, with_step(model, "relu", set_channels({0: 6., 1: 0.}))(data))
    torch.testing.assert_close(heatmap, inner)
    torch.testing.assert_close(outer, with_step(model, "relu", set_channels({0: 2.}))(data))


def test_other_threads_see_the_model_as_it_is():
    model, data, found = network(), images(), {}
    expected = model(data)

    def call(name):
        found[name] = model(data)

    with intervene(model, {"relu": 0.}):
        thread = threading.Thread(target=call, args=("other",))
        thread.start()
        thread.join()
        call("own")
    assert torch.equal(found["other"], expected) and not torch.equal(found["own"], expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_after_errors_and_interrupts(error):
    model, data = network(), images()
    expected = model(data)

    def fail(*_):
        raise error

    with pytest.raises(error):
        with intervene(model, {"relu": {0: 3.}, "fc:in": Scale(2)}):
            handle = model.out.register_forward_hook(fail)
            try:
                model(data)
            finally:
                handle.remove()
    assert not hooks_of(model) and torch.equal(model(data), expected)
    assert torch.equal(CondAttribution(model)(data, [{"y": [0]}]).prediction, expected)


def test_gradients_pass_a_change():
    model, data = network(), images().requires_grad_()
    with intervene(model, {"relu": {0: Scale(2), 1: 0.}}):
        found, = torch.autograd.grad(model(data).sum(), data)
    changed = with_step(model, "relu", set_channels({0: lambda x: 2 * x, 1: 0.}))
    torch.testing.assert_close(found, torch.autograd.grad(changed(data).sum(), data)[0])


def test_heads_directions_and_latents():
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(a=nn.Linear(4, 8), b=nn.ReLU(), c=nn.Linear(8, 3))).double().eval()
    data = torch.rand(5, 7, 4).double()
    hidden = model.b(model.a(data))
    expected = model.c(hidden * torch.tensor([1, 1, 0, 0, 1, 1, 2, 2.]))
    with intervene(model, {"c:in": {1: 0., 3: Scale(2)}}, concepts=HeadConcept(4)):
        torch.testing.assert_close(model(data), expected)

    basis = torch.randn(2, 8).double()
    with intervene(model, {"b": {0: 0.}}, concepts={"b": DirectionConcept(basis)}):
        coefficient = hidden @ torch.linalg.pinv(basis)
        torch.testing.assert_close(model(data), model.c(hidden - coefficient[..., :1] * basis[0]))
    with intervene(model, {"b": {2: 0.}}, concepts=DirectionConcept(basis)):
        torch.testing.assert_close(model(data), model.c(coefficient @ basis))  # without what they do not span

    encoder, decoder = nn.Sequential(nn.Linear(8, 12), nn.ReLU()).double(), nn.Linear(12, 8).double()
    sae, code = EncodedConcept(encoder, decoder), encoder(hidden)
    with intervene(model, {"b": {5: 3., 7: Scale(0)}}, concepts=sae):
        changed = code.clone()
        changed[..., 5], changed[..., 7] = 3, 0
        torch.testing.assert_close(model(data), model.c(hidden + decoder(changed) - decoder(code)))
    with intervene(model, {"b": {12: Scale(.5)}}, concepts=sae):
        remainder = hidden - (decoder(code) - decoder(torch.zeros_like(code)))
        torch.testing.assert_close(model(data), model.c(hidden - remainder / 2))
    with intervene(model, {"b": Mean(hidden)}, concepts=ChannelConcept(-1)):
        torch.testing.assert_close(model(data), model.c(hidden.mean((0, 1)).expand_as(hidden)))
    direction = torch.randn(8)
    with intervene(model, {"b": Add(direction, .5)}, concepts=ChannelConcept(-1)):
        torch.testing.assert_close(model(data), model.c(hidden + .5 * direction.double()))


class EverySecond(Concept):
    """Concepts of one's own: every second feature, by masks alone."""

    def mask(self, batch_id, concept_ids, layer_name=None):
        def keep(relevance):
            kept = torch.zeros_like(relevance[batch_id])
            for concept in concept_ids:
                kept[..., concept::2] = relevance[batch_id][..., concept::2]
            relevance[batch_id] = kept
            return relevance

        return keep


def test_concepts_of_ones_own():
    model, data = network(), images()
    with intervene(model, {"act": {1: 0.}}, concepts=EverySecond()):
        found = model(data)
    torch.testing.assert_close(found, with_step(model, "act", set_channels({1: 0., 3: 0., 5: 0.}))(data))


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_language_models_of_hugging_face(name):
    model, layer = language_models()[name]
    model.eval()
    data = {"input_ids": torch.randint(1, 50, (2, 6), generator=torch.Generator().manual_seed(0))}
    if name == "t5":
        data["decoder_input_ids"] = data["input_ids"][:, :3]
    seen = {}

    def set_by_hand(module, args, output):
        tensor = output[0] if isinstance(output, tuple) else output
        tensor = tensor.clone()
        tensor[..., 3], tensor[:, 1, 5] = 0, 2
        seen["shape"] = tensor.shape
        return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

    handle = model.get_submodule(layer).register_forward_hook(set_by_hand)
    expected = model(**data).logits
    handle.remove()
    with intervene(model, {layer: {3: 0.}}, concepts=ChannelConcept(-1)):
        with intervene(model, {layer: {5: 2.}}, concepts=ChannelConcept(-1), positions=1):
            torch.testing.assert_close(model(**data).logits, expected)
            if name in ("gpt2", "llama"):
                generated = model.generate(data["input_ids"], max_new_tokens=4, do_sample=False, pad_token_id=0)
            attribution = CondAttribution(model, output="logits")
            target = 2 if name == "bert" else (-1, 7)
            found = attribution(data, [{"y": [target]}], EpsilonPlus(), [layer])
            torch.testing.assert_close(found.prediction, expected, rtol=1e-4, atol=1e-5)
            assert (found.activations[layer][..., 3] == 0).all()
    assert not torch.allclose(model(**data).logits, expected) and not hooks_of(model)
    if name in ("gpt2", "llama"):  # step by step without a cache, where positions are those of the text
        text = data["input_ids"]
        with intervene(model, {layer: {3: 0.}}, concepts=ChannelConcept(-1)):
            with intervene(model, {layer: {5: 2.}}, concepts=ChannelConcept(-1), positions=1):
                for _ in range(4):
                    text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(generated, text)


@pytest.mark.parametrize("changes, options, message", [
    ({"relo": {0: 0.}}, {}, "did you mean 'relu'"), ({}, {}, "maps layers to units"), ("relu", {}, "maps layers to"),
    ({"relu": {0: "0"}}, {}, "not to '0'"), ({"relu": {0: None}}, {}, "not to None"),
    ({"relu": {0: Scale}}, {}, r"make one, Scale\("), ({"relu": {0: float("nan")}}, {}, "finite"),
    ({"relu": {(0, 1): 0., 1: 1.}}, {}, r"once each, but \[1\] is"),
    ({"relu": {1.5: 0.}}, {}, "integers"), ({"relu": {0: Add([1.])}}, {}, "whole layer"),
    ({"relu": 0.}, {"concepts": ChannelConcept}, "instances of"), ({"relu": 0.}, {"positions": "all"}, "integers"),
])
def test_bad_input_is_refused_at_once(changes, options, message):
    model = network()
    with pytest.raises((ValueError, TypeError), match=message):
        intervene(model, changes, **options)
    assert not hooks_of(model)


@pytest.mark.parametrize("changes, options, message", [
    ({"relu": {5: 0.}}, {}, "concept id 5 is out of range: channels of layer 'relu' are 0 to 4"),
    ({"relu": {0: 0.}}, {"positions": 16}, "neuron 16 is out of range"),
    ({"relu": {4: 0., -1: 1.}}, {}, "in part the same"),
    ({"relu": From(images(1)[:, :, :5])}, {}, "of the same shape|cannot be multiplied"),
    ({"relu": From(images(2))}, {}, "one or as many"),
    ({"relu": Resample(torch.zeros(4, 5))}, {}, "all but the first axis"),
    ({"relu": Mean(torch.zeros(4, 6, 2, 2))}, {}, "has 5 units, not 6"),
    ({"relu": Add(torch.zeros(3))}, {}, "5 features on axis 1, the direction 3"),
])
def test_what_does_not_fit_is_refused_when_the_model_runs(changes, options, message):
    model, data = network(), images()
    for attribute in (False, True):
        with pytest.raises((ValueError, IndexError, RuntimeError), match=message):
            with intervene(model, changes, **options):
                if attribute:
                    CondAttribution(model)(data, [{"y": [0]}], EpsilonPlus())
                else:
                    model(data)
    assert not hooks_of(model)


def test_a_model_patched_with_itself_is_itself():
    """Also where it writes in place to what layers give, as residual networks do."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(.5, 1.5)
            module.bias.data.normal_()
    data = torch.randn(2, 3, 32, 32).double()
    with torch.no_grad():
        expected = model(data)
        for change in ({tuple(range(64)): From(data)}, From(data), {3: From(data)}):
            with intervene(model, {"layer1.0.bn2": change}):
                for _ in range(3):
                    torch.testing.assert_close(model(data), expected)
        with intervene(model, {"layer1.0.bn2": 0.}):
            torch.testing.assert_close(model(data), model(data))


def test_layers_called_several_times_have_several_values():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="'0' runs 2 times"):
        with intervene(model, {"0": From(torch.rand(1, 4))}):
            pass
    with intervene(model, {"0": {0: Scale(2)}}):
        model(torch.rand(1, 4))


def test_modes_may_change_within_a_context():
    model, data = network(), images()
    with intervene(model, {"relu": {0: 0.}}):
        with torch.inference_mode():
            model(data)
        model(data).sum().backward()


def test_a_sweep_does_not_go_on_under_an_intervention(tmp_path):
    from small_sweeps import Breakable, visualization
    from zennit.composites import EpsilonPlusFlat

    from crp.store import StoreError
    data = Breakable(8)
    fv = visualization(tmp_path, data)
    with pytest.raises(RuntimeError):
        fv.run(EpsilonPlusFlat(), batch_size=2, checkpoint=1)
    data.at = None
    with intervene(fv.attribution.model, {"conv": {0: 0.}}):
        with pytest.raises(StoreError, match="hooks"):
            fv.run(EpsilonPlusFlat(), batch_size=2, checkpoint=1)
        whole = visualization(tmp_path / "whole", model=fv.attribution.model).run(EpsilonPlusFlat())
    assert (whole.values("conv", "activation")[:, 0] == 0).all()
    fv.run(EpsilonPlusFlat(), batch_size=2, checkpoint=1)


def test_layers_that_do_not_run_are_told():
    model = network()
    model.add_module("spare", nn.Linear(1, 1))
    model.forward = lambda x: nn.Sequential(*list(model.children())[:-1])(x)
    with pytest.raises(ValueError, match="'spare' is not used"):
        with intervene(model, {"spare": 0.}):
            model(images())
    with intervene(model, {"spare": 0.}):
        pass
