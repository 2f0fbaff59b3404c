"""Hooks that users register by hand with zennit's composites."""
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlusFlat, NameMapComposite

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.hooks import FeatVisHook, MaskHook


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Linear(5 * 16, 3),
    ).eval()


def relevance_by_hand(net, data, hook_composite, target, rules_first=False):
    data = data.clone().requires_grad_()
    composites = [hook_composite, EpsilonPlusFlat()]
    first, second = reversed(composites) if rules_first else composites
    with first.context(net), second.context(net):
        output = net(data)
        start = torch.zeros_like(output)
        start[:, target] = output[:, target].detach()
        return torch.autograd.grad(output, data, start)[0]


@pytest.mark.parametrize("rules_first", [False, True])
def test_masking_by_hand_equals_a_condition(net, model_state, rules_first):
    data, before = torch.rand(2, 1, 8, 8), model_state(net)[0]
    masks = MaskHook([ChannelConcept.mask(0, [1]), ChannelConcept.mask(1, [2, 3])])
    by_hand = relevance_by_hand(net, data, NameMapComposite([(["2"], masks)]), 1, rules_first).sum(1)
    result = CondAttribution(net)(data, [{"2": [1], "y": [1]}, {"2": [2, 3], "y": [1]}], EpsilonPlusFlat())
    torch.testing.assert_close(by_hand, result.heatmap)
    assert by_hand.any() and model_state(net)[0] == before


def test_a_mask_may_replace_the_relevance(net):
    doubled = relevance_by_hand(net, data := torch.rand(1, 1, 8, 8), NameMapComposite([
        (["2"], MaskHook([lambda relevance: 2 * relevance]))
    ]), 0)
    plain = relevance_by_hand(net, data, NameMapComposite([]), 0)
    torch.testing.assert_close(doubled, 2 * plain)


def test_feat_vis_hook_hands_activation_and_relevance_to_an_analysis(net, model_state):
    class Analysis:
        def __init__(self):
            self.seen = {}

        def analyze_activation(self, *arguments):
            self.seen["activation"] = arguments

        def analyze_relevance(self, *arguments):
            self.seen["relevance"] = arguments

    analysis, concept, data, before = Analysis(), ChannelConcept(), torch.rand(2, 1, 8, 8), model_state(net)[0]
    batch = {"sample_indices": [4, 7], "targets": [1, 1]}
    hook = FeatVisHook(analysis, concept, "2", batch, "cpu")
    relevance_by_hand(net, data, NameMapComposite([(["2"], hook)]), 1)
    expected = CondAttribution(net)(data, [{"y": [1]}] * 2, EpsilonPlusFlat(), ["2"])
    for name, tensors in (("activation", expected.activations), ("relevance", expected.relevances)):
        tensor, *context = analysis.seen[name]
        torch.testing.assert_close(tensor, tensors["2"])
        assert context == ["2", concept, [4, 7], [1, 1]]
        assert not tensor.requires_grad
    assert model_state(net)[0] == before


class Analysis:
    def __init__(self):
        self.seen = []

    def analyze_activation(self, tensor, *_):
        self.seen.append(("activation", tensor))

    def analyze_relevance(self, tensor, *_):
        self.seen.append(("relevance", tensor))


@pytest.mark.parametrize("make, expected", [
    (lambda analysis: MaskHook([lambda relevance: 3 * relevance]), []),
    (lambda analysis: FeatVisHook(analysis, ChannelConcept(), "0", {"sample_indices": [0], "targets": [0]}, None),
     ["activation", "relevance"]),
])
def test_hooks_as_forward_hooks_of_plain_modules(make, expected):
    layer, data, analysis = nn.Linear(3, 2), torch.rand(1, 3, requires_grad=True), Analysis()
    hook = make(analysis)
    layer.register_forward_hook(hook.post_forward)
    layer(data).sum().backward()
    torch.testing.assert_close(data.grad, layer.weight.sum(0, keepdim=True) * (1 if expected else 3))
    assert [name for name, _ in analysis.seen] == expected
    assert torch.equal(hook.backward(layer, torch.ones(1, 2)), torch.ones(1, 2) * (1 if expected else 3))


@pytest.mark.parametrize("kind", [MaskHook, FeatVisHook])
@pytest.mark.parametrize("method", ["post_forward", "backward"])
def test_overridden_methods_of_hooks_are_called(net, kind, method):
    called = []

    def record(self, *arguments):
        called.append(len(arguments))
        return getattr(kind, method)(self, *arguments)

    arguments = [[]] if kind is MaskHook else [
        Analysis(), ChannelConcept(), "2", {"sample_indices": [0], "targets": [0]}, None
    ]
    hook = type("Mine", (kind,), {method: record})(*arguments)
    relevance_by_hand(net, torch.rand(1, 1, 8, 8), NameMapComposite([(["2"], hook)]), 0)
    assert called == [3 if method == "post_forward" else 2]
