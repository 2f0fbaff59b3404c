"""Rules that users register themselves, and layers that are only there with canonizers."""
import numpy as np
import pytest
import torch
from networks_by_hand import close, conv_net, images
from torch import nn
from torch.utils.data import TensorDataset
from zennit.canonizers import AttributeCanonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat, NameMapComposite

from crp.attribution import CondAttribution
from crp.attribution.baselines import grad_cam
from crp.concepts import ChannelConcept
from crp.hooks import FeatVisHook, MaskHook
from crp.visualization import FeatureVisualization


def normed_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
    ).double()
    net(images().double())
    return net.eval()


def composite_of(net):
    has_norms = any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    return EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()] if has_norms else [])


NETS = {"plain": (conv_net, ["conv1", "conv2"]), "canonized": (normed_net, ["0", "3"])}


@pytest.mark.parametrize("exclude_parallel", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_registered_rules_act_as_the_plain_rules_of_a_composite(net, exclude_parallel, model_state):
    make, (low, high) = NETS[net]
    net, data = make(), images().double()
    conditions = [{high: [1], low: [0, 2], "y": [1]}, {low: [1], "y": [0]}, {"y": [0, 1]}]
    composite = composite_of(net)
    options = {"record_layer": [low, f"{low}:in"], "exclude_parallel": exclude_parallel}
    plain = CondAttribution(net, accelerate=False, functional=False)
    expected = [
        plain(data[:1], conditions, composite, **options), plain(data, [{low: [1]}], composite, start_layer=high)
    ]
    attribution, before = CondAttribution(net), model_state(net)
    with composite.context(net) as modified:
        registered = model_state(net)
        is_hidden = any("weight" in vars(module) for module in net.modules())  # by zennit 1.0, until the first pass
        found = [
            attribution(data[:1], conditions, None, **options), attribution(data, [{low: [1]}], None, start_layer=high)
        ]
        generated = list(attribution.generate(data[:1], conditions[:1] * 3, batch_size=2, verbose=False, **options))
        assert modified is net and (is_hidden or model_state(net) == registered)
        with pytest.raises(ValueError, match="still registered"):
            attribution(data, conditions[:1], EpsilonPlusFlat())
    assert is_hidden or model_state(net) == before  # zennit 1.0 leaves what it hid to the next pass
    for one, other in zip(found, expected):
        assert one.heatmap.any() and one.relevances.keys() == other.relevances.keys()
        for a, b in ((one.heatmap, other.heatmap), *((one.relevances[n], other.relevances[n]) for n in one.relevances)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(generated[1].heatmap, expected[0].heatmap[:1], rtol=0, atol=1e-12)


class Collector:
    """Keeps what an analysis is given."""

    def __init__(self):
        self.activations, self.relevances = [], []

    def analyze_activation(self, activation, layer, concept, samples, targets):
        self.activations.append(activation)

    def analyze_relevance(self, relevance, layer, concept, samples, targets):
        self.relevances.append(relevance)


@pytest.mark.parametrize("record_layer", [[], ["conv2"]])
@pytest.mark.parametrize("order", ["rules first", "rules last"])
def test_an_analysis_beside_registered_rules_sees_each_pass_once(order, record_layer):
    net, data, composite, seen = conv_net(), images(), EpsilonPlusFlat(), Collector()
    inputs = {"sample_indices": np.arange(len(data)), "targets": np.zeros(len(data))}
    hook = FeatVisHook(seen, ChannelConcept(), "conv2", inputs)
    composites = [composite, NameMapComposite([(["conv2"], hook)])]
    conditions = [{"y": [i % 2]} for i in range(len(data))]
    expected = CondAttribution(net, accelerate=False, functional=False)(data, conditions, composite, ["conv2"])
    for each in composites if order == "rules first" else composites[::-1]:
        each.register(net)
    CondAttribution(net)(data, conditions, None, record_layer)
    for each in composites:
        each.remove()
    (activation,), (relevance,) = seen.activations, seen.relevances
    close(activation, expected.activations["conv2"])
    close(relevance, expected.relevances["conv2"])


def test_a_mask_beside_registered_rules_takes_effect():
    net, data, composite = conv_net(), images()[:1], EpsilonPlusFlat()
    plain = CondAttribution(net, accelerate=False, functional=False)
    expected = plain(data, [{"conv2": [1], "conv1": [0], "y": [1]}], composite, exclude_parallel=False).heatmap
    mask = NameMapComposite([(["conv2"], MaskHook([ChannelConcept.mask(0, [1])]))])
    with composite.context(net), mask.context(net):
        heatmap = CondAttribution(net)(data, [{"conv1": [0], "y": [1]}], None, exclude_parallel=False).heatmap
    close(heatmap, expected)


def test_rules_that_another_attribution_has_attached_are_none_of_the_users():
    net, data = conv_net(), images()
    with CondAttribution(net).attached(EpsilonPlusFlat(), data[:1]):
        with pytest.raises(ValueError, match="still registered"):
            CondAttribution(net)(data, [{"y": [0]}], None)
    with EpsilonPlusFlat().context(net):
        with pytest.raises(ValueError, match="still registered"):
            grad_cam(CondAttribution(net), data, [{"y": [0]}], "conv2")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(2, 3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).mean((2, 3)))


class Tap(AttributeCanonizer):
    """Gives a module a layer that it lacks."""

    def __init__(self):
        super().__init__(lambda name, module: {
            "tap": nn.Identity(), "forward": self.forward.__get__(module)
        } if isinstance(module, Block) else None)

    @staticmethod
    def forward(self, x):
        return self.out(self.tap(torch.relu(self.conv(x))).mean((2, 3)))


def test_a_layer_that_a_canonizer_creates_is_recorded_and_masked(model_state):
    net, data, composite = Block().double().eval(), images(), EpsilonPlusFlat(canonizers=[Tap()])
    before, attribution = model_state(net), CondAttribution(net)
    result = attribution(data, [{"tap": [1], "y": [0]}], composite, record_layer=["tap"])
    close(result.activations["tap"], torch.relu(net.conv(data)))
    assert result.relevances["tap"][:, [0, 2]].any()
    whole = attribution(data, [{"tap": [0, 1, 2], "y": [0]}], composite).heatmap
    parts = sum(attribution(data, [{"tap": [i], "y": [0]}], composite).heatmap for i in range(3))
    close(parts, whole)
    assert result.heatmap.any() and not torch.allclose(result.heatmap, whole)
    started, = attribution.generate(data[:1], [{"tap:in": [1]}], composite, start_layer="tap", verbose=False)
    assert started.heatmap.any()
    assert attribution.in_order(["out", "tap", "conv"], composite) == ["conv", "out", "tap"]
    assert model_state(net) == before


def test_a_layer_that_a_canonizer_creates_is_swept(tmp_path, model_state):
    net, composite = Block().double().eval(), EpsilonPlusFlat(canonizers=[Tap()])
    before, dataset = model_state(net), TensorDataset(images(), torch.arange(len(images())) % 2)
    fv = FeatureVisualization(CondAttribution(net), dataset, ["tap"], path=tmp_path / "fv")
    fv.run(composite, 0, len(dataset), 2)
    rows = torch.relu(net.conv(images())).detach().sum((2, 3))
    best = (rows / rows.abs().sum(1, keepdim=True)).argmax(0).tolist()
    found = fv.get_max_reference([0, 1, 2], "tap", "activation", (0, 1), composite, plot_fn=None)
    for concept, sample in enumerate(best):
        data, heatmap = found[concept]
        assert torch.equal(data[0], images()[sample]) and heatmap.any()
    assert model_state(net) == before


@pytest.mark.parametrize("layer, nearest", [("tab", "'tap'"), ("konv", "'conv'"), ("tap:2nd", "number of an output")])
def test_an_unknown_layer_is_told_before_work_starts(layer, nearest, model_state):
    net, composite, passes = Block().double().eval(), EpsilonPlusFlat(canonizers=[Tap()]), []
    before, attribution = model_state(net), CondAttribution(net)
    counting = net.conv.register_forward_hook(lambda *_: passes.append(1))
    for ask in (
        lambda: attribution(images(), [{"y": [0]}], composite, record_layer=[layer]),
        lambda: attribution(images(), [{layer: [0], "y": [0]}], composite),
        lambda: attribution.in_order([layer], composite),
    ):
        with pytest.raises(ValueError, match=nearest):
            ask()
    counting.remove()
    assert not passes and model_state(net) == before
    with pytest.raises(ValueError, match="no layer 'tap'"):
        attribution(images(), [{"y": [0]}], EpsilonPlusFlat(), record_layer=["tap"])
