"""What units would change: exact patching, and its estimates by gradient and by relevance."""
from collections import OrderedDict

import numpy as np
import pytest
import torch
from random_language_models import language_models
from small_sweeps import hooks_of
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma
from zennit.types import Linear

from crp.attribution import CondAttribution, Contrast
from crp.attribution.taps import LayerTaps
from crp.concepts import ChannelConcept, EncodedConcept, HeadConcept
from crp.neurons import effects, intervene
from crp.rules.operations.per_unit import PerUnitMode


class Written(nn.Module):
    """Operations of many kinds, written out; some activations are exactly zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm, self.act = nn.LayerNorm(8), nn.Identity()

    def forward(self, x):
        h = self.act(functional.relu(self.first(x)))
        gate = functional.silu(self.second(h))
        h = self.norm(h * gate + h) + .5 * h.pow(2) - gate / 3
        scale = (h.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        h = h * scale
        h += torch.tanh(h) * .5 * (1 + torch.erf(h / 2 ** .5))
        h = functional.max_pool1d(h[:, None].repeat(1, 2, 1), 3, 1, 1).mean(1) + h.abs()
        attention = functional.scaled_dot_product_attention(h[:, :4, None], h[:, 4:, None], h[:, :4, None])
        h = torch.cat([attention.flatten(1), h[:, 4:].sigmoid() * h[:, :4]], 1)
        return self.third(functional.normalize(h, dim=-1))


def vision():
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, 4, 3)), ("norm", nn.BatchNorm2d(4)), ("relu", nn.ReLU()), ("pool", nn.MaxPool2d(2)),
        ("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("out", nn.Linear(4, 3)),
    ]))


def cases():
    torch.manual_seed(0)
    tokens = {"input_ids": torch.randint(1, 50, (2, 5), generator=torch.Generator().manual_seed(0))}
    models = language_models()
    image = VisionTransformer(16, 8, 2, 4, 16, 32, num_classes=5)
    nn.init.normal_(image.heads.head.weight)
    return {
        "written": (Written(), torch.randn(3, 6).double(), ["act", "second", "norm"], None, 1),
        "vision": (vision(), torch.randn(3, 1, 8, 8).double(), ["relu", "pool"], None, 2),
        "vit": (image, torch.randn(2, 3, 16, 16).double(),
                ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_2"], None, 3),
        "gpt2": (models["gpt2"][0], tokens,
                 ["transformer.h.0", "transformer.h.1.attn", "transformer.h.0.mlp.act", "transformer.h.1.mlp"],
                 "logits", [(-1, 7)]),
        "llama": (models["llama"][0], tokens, [
            "model.layers.0", "model.layers.1.self_attn", "model.layers.0.mlp.down_proj:in", "model.layers.1.mlp"
        ], "logits", [(-1, 7)]),
        "bert": (models["bert"][0], tokens,
                 ["bert.encoder.layer.0", "bert.encoder.layer.1.intermediate"], "logits", 1),
    }


def epsilon():
    """The epsilon rule almost without epsilon, for everything linear."""
    rule = Epsilon(1e-12)
    return LayerMapComposite([(Linear, rule), (nn.BatchNorm2d, rule), (nn.AdaptiveAvgPool2d, rule)])


@pytest.mark.parametrize("functional_rules", ["attnlrp", "cp-lrp", "cp-lrp-gates"])
@pytest.mark.parametrize("name", ["written", "vision", "vit", "gpt2", "llama", "bert"])
def test_activation_times_relevance_per_unit_is_relevance(name, functional_rules):
    """That of the epsilon rule, which arrives by the other way: as a product already."""
    model, data, layers, output, target = cases()[name]
    model.double().eval()
    target = target if isinstance(target, list) else [target]
    attribution = CondAttribution(model, output=output, functional=functional_rules)
    if name == "vision":
        attribution = CondAttribution(model, functional=functional_rules)
    result = attribution(
        data, [{"y": target}], epsilon(), layers, init_rel=None, exclude_parallel=False, heatmap=False
    )
    model.requires_grad_(False)
    with PerUnitMode(model, functional_rules), LayerTaps(model, layers, from_layers=True) as taps:
        found = model(**data) if isinstance(data, dict) else model(data)
        found = found if output is None else found[output]
        start = sum(found[(slice(None), *np.atleast_1d(index))].sum() for index in target)
        factors = dict(zip(layers, torch.autograd.grad(start, [taps.outputs[layer] for layer in layers])))
    for layer in layers:
        assert torch.isfinite(factors[layer]).all()
        relevance = result.relevances[layer]
        found = result.activations[layer] * factors[layer]
        torch.testing.assert_close(found, relevance, rtol=1e-4, atol=1e-6 * float(relevance.abs().max()))


def test_units_that_are_zero_have_relevance_per_unit():
    """A unit behind a ReLU that does nothing, and would do something: what division by its value could not tell."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.], [-1.]]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[2., 5.]]))
    clean, other = torch.tensor([[1.]]).double(), torch.tensor([[-3.]]).double()
    for method in ("relevance", "gradient", "exact"):
        found = effects(CondAttribution(model), clean, other, ["1"], method=method, y=0)
        np.testing.assert_allclose(found["1"], [[-2, 15]])
        np.testing.assert_allclose(found.clean + found["1"].sum(), found.counterfactual)


def written_with_data():
    torch.manual_seed(1)
    model = Written().double().eval()
    return model, torch.randn(4, 6).double(), torch.randn(4, 6).double()


def patched_by_hand(model, layer, data, other, index, metric):
    """The metric with a part of one layer's output taken from other inputs."""
    kept = {}
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda module, args, output: kept.setdefault("other", output))
    model(other)
    handle.remove()

    def patch(module, args, output):
        output = output.clone()
        output[index] = kept["other"][index]
        return output

    handle = module.register_forward_hook(patch)
    found = metric(model(data))
    handle.remove()
    return found


@pytest.mark.parametrize("batch_size", [3, 64])
def test_exact_effects_are_those_of_patching_by_hand(batch_size):
    model, data, other = written_with_data()

    def metric(output):
        return output[:, 0] - output[:, 2] ** 2

    found = effects(
        CondAttribution(model), data, other, ["act", "norm"], method="exact", metric=metric, batch_size=batch_size
    )
    clean = metric(model(data))
    for layer in ("act", "norm"):
        for unit in range(8):
            by_hand = patched_by_hand(model, layer, data, other, (slice(None), unit), metric)
            np.testing.assert_allclose(found[layer][:, unit], (by_hand - clean).detach(), atol=1e-10)
    np.testing.assert_allclose(found.clean, clean.detach())
    np.testing.assert_allclose(found.counterfactual, metric(model(other)).detach())


def test_gradient_is_the_first_order_of_exact_effects():
    model, data, _ = written_with_data()
    other = data + 1e-5 * torch.randn_like(data)
    exact, first_order = (
        effects(CondAttribution(model), data, other, ["act", "second"], method=method, y=[0, 1])
        for method in ("exact", "gradient")
    )
    for layer in exact.effects:
        np.testing.assert_allclose(exact[layer], first_order[layer], rtol=1e-2, atol=1e-11)


@pytest.mark.parametrize("method", ["relevance", "gradient"])
def test_a_linear_model_has_no_other_effects(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 5, 3, padding=1), nn.Flatten(), nn.Linear(40, 3)).double()
    data, other = torch.randn(2, 2, 8).double(), torch.randn(2, 2, 8).double()
    for positions in (False, True):
        layers = {"0": ChannelConcept()}
        exact, found = (effects(CondAttribution(model), data, other, layers, method=of, y=Contrast(0, 1),
                                positions=positions) for of in ("exact", method))
        assert found["0"].shape == ((2, 5, 8) if positions else (2, 5))
        np.testing.assert_allclose(found["0"], exact["0"], atol=1e-10)


def test_positions_heads_and_latents():
    model, tokens, *_ = cases()["gpt2"]
    model.double().eval()
    other = {"input_ids": tokens["input_ids"].flip(1)}
    attribution = CondAttribution(model, output=lambda output: output.logits[:, -1])
    heads = {"transformer.h.0.attn.c_proj:in": HeadConcept(4)}
    targets = [Contrast(3, 5), Contrast(1, 2)]
    by_head, by_position = (
        effects(attribution, tokens, other, heads, method="exact", y=targets, positions=positions)[next(iter(heads))]
        for positions in (False, True)
    )
    assert by_head.shape == (2, 4) and by_position.shape == (2, 4, 5)
    kept = {}
    module = model.transformer.h[0].attn.c_proj
    handle = module.register_forward_pre_hook(lambda module, args: kept.setdefault("other", args[0]))
    model(**other)
    handle.remove()

    def value(handle_patch):
        handle = module.register_forward_pre_hook(handle_patch)
        logits = model(**tokens).logits[:, -1]
        handle.remove()
        return torch.stack([logits[0, 3] - logits[0, 5], logits[1, 1] - logits[1, 2]])

    def patch(module, args):
        x = args[0].clone()
        x[:, 2, 4:8] = kept["other"][:, 2, 4:8]
        return (x,)

    expected = (value(patch) - value(lambda *_: None)).detach()
    np.testing.assert_allclose(by_position[:, 1, 2], expected, atol=1e-10)

    torch.manual_seed(0)
    encoder, decoder = nn.Sequential(nn.Linear(16, 20), nn.ReLU()).double(), nn.Linear(20, 16).double()
    latents = {"transformer.h.0": EncodedConcept(encoder, decoder)}
    exact, gradient = (
        effects(attribution, tokens, other, latents, method=method, y=targets, positions=True)
        for method in ("exact", "gradient")
    )
    assert exact["transformer.h.0"].shape == (2, 21, 5)
    of_stream = effects(
        attribution, tokens, other, {"transformer.h.0": ChannelConcept(-1)}, method="gradient", y=targets,
        positions=True,
    )
    np.testing.assert_allclose(  # latents and remainder divide what the features have
        gradient["transformer.h.0"].sum(1), of_stream["transformer.h.0"].sum(1), atol=1e-9
    )
    x, goal = (model(**inputs, output_hidden_states=True).hidden_states[1] for inputs in (tokens, other))
    code, of_other = encoder(x), encoder(goal)
    changed = code.clone()
    changed[:, 1, 7] = of_other[:, 1, 7]
    patched = x + decoder(changed) - decoder(code)
    handle = model.transformer.h[0].register_forward_hook(
        lambda module, args, output: (patched, *output[1:]) if isinstance(output, tuple) else patched
    )
    logits = model(**tokens).logits[:, -1]
    handle.remove()
    expected = torch.stack([logits[0, 3] - logits[0, 5], logits[1, 1] - logits[1, 2]]).detach().numpy() - exact.clean
    np.testing.assert_allclose(exact["transformer.h.0"][:, 7, 1], expected, atol=1e-9)


@pytest.mark.parametrize("method, forwards", [("relevance", 2), ("gradient", 2)])
def test_estimates_take_two_forward_passes(method, forwards):
    model, data, other = written_with_data()
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(None))
    effects(CondAttribution(model), data, other, ["act", "second", "norm"], method=method)
    handle.remove()
    assert len(calls) == forwards


class AddsInPlace(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        self.l, self.o, self.in_place = nn.Linear(4, 4), nn.Linear(4, 3), in_place

    def forward(self, x):
        h = self.l(x)
        if self.in_place:
            x.mul_(2)
            h += x
            return self.o(h.tanh_())
        return self.o((h + x * 2).tanh())


@pytest.mark.parametrize("method", ["relevance", "gradient", "exact"])
def test_what_a_model_does_in_place_changes_nothing(method):
    torch.manual_seed(0)
    one, other = (AddsInPlace(in_place).double().eval() for in_place in (True, False))
    other.load_state_dict(one.state_dict())
    data, counterfactual = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    given = data.clone(), counterfactual.clone()
    found, expected = (
        effects(CondAttribution(model), data, counterfactual, ["l"], method=method, y=0) for model in (one, other)
    )
    np.testing.assert_allclose(found["l"], expected["l"], atol=1e-12)
    assert torch.equal(data, given[0]) and torch.equal(counterfactual, given[1])


@pytest.mark.parametrize("method", ["relevance", "gradient", "exact"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_effects_in_any_mode(method, mode):
    model, data, other = written_with_data()
    expected = effects(CondAttribution(model), data, other, ["act"], method=method, y=0)
    with mode():
        found = effects(CondAttribution(model), data, other, ["act"], method=method, y=0)
    np.testing.assert_allclose(found["act"], expected["act"])


@pytest.mark.parametrize("method", ["relevance", "gradient", "exact"])
def test_effects_on_a_model_that_is_changed(method):
    model, data, other = written_with_data()
    changed = Written().double().eval()
    changed.load_state_dict(model.state_dict())
    changed.act = nn.Sequential(nn.Identity())
    changed.act.register_forward_hook(lambda module, args, output: output.index_fill(1, torch.tensor([2]), .3))
    expected = effects(CondAttribution(changed), data, other, ["act", "norm"], method=method, y=0)
    with intervene(model, {"act": {2: .3}}):
        found = effects(CondAttribution(model), data, other, ["act", "norm"], method=method, y=0)
    np.testing.assert_allclose(found["norm"], expected["norm"], atol=1e-12)
    np.testing.assert_allclose(found.clean, expected.clean)


def test_the_model_stays_as_it_was():
    model, data, other = written_with_data()
    before = [parameter.requires_grad for parameter in model.parameters()]
    expected = model(data)
    for method in ("relevance", "gradient", "exact"):
        effects(CondAttribution(model), data, other, ["act"], method=method)

        def fail(output):
            raise RuntimeError("no metric")

        with pytest.raises(RuntimeError, match="no metric"):
            effects(CondAttribution(model), data, other, ["act"], method=method, metric=fail)
    assert not hooks_of(model) and [p.requires_grad for p in model.parameters()] == before
    assert torch.equal(model(data), expected) and all(p.grad is None for p in model.parameters())


def test_effects_make_a_ranking():
    model, data, other = written_with_data()
    found = effects(CondAttribution(model), data, other, ["act", "norm"], y=0)
    means = np.concatenate([found["act"].mean(0), found["norm"].mean(0)])
    ranking = found.ranking()
    assert ranking.layers == ["act", "norm"] and len(ranking) == 16
    np.testing.assert_allclose(ranking.scores, np.sort(np.abs(means))[::-1])
    layer, unit = found.ranking("negative").top(1)[0]
    assert found[layer].mean(0)[unit] == means.min()
    assert len(found.to_frame()) == 16 and "relevance" in repr(found)


@pytest.mark.parametrize("arguments, message", [
    ({"layers": ["acd"]}, "did you mean 'act'"), ({"method": "exactly"}, "not 'exactly'"),
    ({"counterfactual": torch.zeros(4, 5).double()}, r"data has the shapes \[\(4, 6\)\], the counterfactual"),
    ({"y": 0, "metric": len}, "give one of them"), ({"y": 3}, "target 3 is out of range: the outputs are 0 to 2"),
    ({"y": torch.tensor([0, 1])}, "2 targets, but there are 4"), ({"metric": lambda output: output}, r"\[B\]"),
    ({"functional": "lrp"}, "not 'lrp'"), ({"composite": EpsilonPlus()}, "gives ZPlus|gives Epsilon"),
    ({"composite": Composite(lambda c, n, m: Gamma() if n == "first" else None)}, "gives Gamma to 'first'"),
])
def test_bad_input_is_refused_in_words(arguments, message):
    model, data, other = written_with_data()
    model.pool = nn.Conv1d(1, 1, 1)
    given = {"data": data, "counterfactual": other, "layers": ["act"], **arguments}
    with pytest.raises((ValueError, TypeError, IndexError), match=message):
        effects(CondAttribution(model), **given)


def test_axes_that_nobody_named_are_asked_for():
    model = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(20, 2))
    data = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    for method in ("relevance", "exact"):
        with pytest.raises(ValueError, match=r"say which axis holds its units, ChannelConcept\(-1\)"):
            effects(CondAttribution(model), *data, ["0"], method=method, y=0)
    with pytest.raises(ValueError, match="say which axis holds its units"), intervene(model, {"0": {1: 0.}}):
        model(data[0])


def test_layers_called_twice_and_unused_are_refused():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2))
    data = torch.randn(2, 3), torch.randn(2, 3)
    with pytest.raises(ValueError, match="'0' runs 2 times"):
        effects(CondAttribution(model), *data, ["0"], y=0)
    spare = nn.Sequential(OrderedDict(a=nn.Linear(3, 2), spare=nn.Linear(1, 1)))
    spare.forward = lambda x: spare.a(x)
    with pytest.raises(ValueError, match="'spare' is not used"):
        effects(CondAttribution(spare), *data, ["spare"], y=0)


def test_text_models_without_target_ask_for_it():
    model, tokens, *_ = cases()["llama"]
    with pytest.raises(ValueError, match="say with y="):
        effects(CondAttribution(model.eval(), output="logits"), tokens, tokens, ["model.layers.0"])
