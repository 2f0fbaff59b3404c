"""The attribution graph against one plain call per node."""


import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from networks_by_hand import conv_net, images
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import AttributionGraph, CondAttribution
from crp.concepts import ChannelConcept
from crp.graph import trace_model_graph

CHANNELS = {"conv0": 3, "conv1": 4, "conv2": 5, "conv3": 4, "fc1": 6, "fc2": 3}
INPUT_LAYERS = {
    "conv0": [], "conv1": ["conv0"], "conv2": ["conv1"], "conv3": ["conv1", "conv2"], "fc1": ["conv3"],
    "fc2": ["fc1"],
}


class Net(nn.Module):
    """conv3 takes the sum of what conv1 and conv2 give."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv0 = nn.Conv2d(1, 3, 1)
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.to_four, self.relu = nn.Conv2d(5, 4, 1), nn.ReLU()
        self.conv3, self.fc1, self.fc2 = nn.Conv2d(4, 4, 3, stride=2), nn.Linear(16, 6), nn.Linear(6, 3)
        for layer, shift in ((self.conv0, 1), (self.conv1, 1), (self.conv2, 1), (self.conv3, 1), (self.fc1, 3)):
            layer.bias.data += shift  # for every channel to carry relevance

    def forward(self, x):
        a = self.relu(self.conv1(self.relu(self.conv0(x))))
        b = self.to_four(self.relu(self.conv2(a)))
        c = self.relu(self.conv3(a + b))
        return self.fc2(self.relu(self.fc1(c.flatten(1))))


SAMPLE = torch.rand(1, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def setup():
    net = Net().double().eval()
    attribution = CondAttribution(net)
    layer_map = {name: ChannelConcept() for name in CHANNELS}
    model_graph = trace_model_graph(net, SAMPLE, list(layer_map))
    return attribution, AttributionGraph(attribution, model_graph, layer_map)


def graph_by_plain_calls(attribution, concept_id, layer, target, width, parent_c_id, parent_layer, abs_norm):
    """Breadth first; every node is attributed by a call of its own."""
    nodes, connections, level = [(layer, concept_id)], {}, [(layer, concept_id)]
    for count in width:
        below = []
        for node_layer, node_id in level:
            if not INPUT_LAYERS[node_layer]:
                continue
            condition = {layer: [concept_id]}
            if parent_layer is not None:
                condition[parent_layer] = [parent_c_id]
            condition[node_layer] = [node_id]
            if target is not None:
                condition["y"] = [target]
                start = None
            else:
                start = parent_layer or layer
            relevances = attribution(
                SAMPLE, [condition], EpsilonPlusFlat(), INPUT_LAYERS[node_layer], start_layer=start,
                exclude_parallel=False,
            ).relevances
            edges = []
            for input_layer in INPUT_LAYERS[node_layer]:
                value = relevances[input_layer][0].flatten(1).sum(1) if relevances[input_layer].ndim > 2 \
                    else relevances[input_layer][0]
                if abs_norm and value.abs().sum() > 0:
                    value = value / value.abs().sum()
                ranked = sorted(range(len(value)), key=lambda c: (-value[c].item(), c))[:count]
                edges += [(input_layer, c, value[c].item()) for c in ranked]
            connections[node_layer, node_id] = edges
            below += [(input_layer, c) for input_layer, c, _ in edges]
        level = [node for node in dict.fromkeys(below) if node not in nodes]
        nodes += level
    return nodes, connections


def assert_equal_graphs(graph, expected):
    nodes, connections = graph
    assert nodes == expected[0]
    assert set(connections) == set(expected[1])
    for node, edges in expected[1].items():
        assert [edge[:2] for edge in connections[node]] == [edge[:2] for edge in edges]
        assert [edge[2] for edge in connections[node]] == pytest.approx([edge[2] for edge in edges], abs=1e-12)


@pytest.mark.parametrize("concept, layer, target, width, parent, parent_layer, abs_norm", [
    (1, "fc1", 0, [4, 2], None, None, True),
    (1, "fc1", 0, [2, 2, 1], None, None, False),
    (2, "conv3", 1, [3, 2], None, None, True),
    (2, "conv3", None, [4, 2], None, None, True),
    (0, "fc2", 0, [2, 3, 2, 1], None, None, True),
    (2, "conv3", 1, [3, 2], 1, "fc1", True),
    (2, "conv3", None, [3, 2], 1, "fc1", False),
    (0, "conv2", 2, [9, 9], None, None, True),
    (1, "conv3", 0, [4, 3, 1], None, None, True),
    (2, "conv0", 1, [2], None, None, True),
    (3, "conv2", 1, [], None, None, True),
])
def test_graph_equals_one_call_per_node(concept, layer, target, width, parent, parent_layer, abs_norm):
    attribution, graph = setup()
    result = graph(
        SAMPLE, EpsilonPlusFlat(), concept, layer, target, width, parent, parent_layer, abs_norm, verbose=False
    )
    expected = graph_by_plain_calls(attribution, concept, layer, target, width, parent, parent_layer, abs_norm)
    assert_equal_graphs(result, expected)


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from(list(CHANNELS)), st.integers(0, 2), st.none() | st.integers(0, 2),
    st.lists(st.integers(1, 3), max_size=3), st.integers(1, 7), st.booleans(),
)
def test_any_graph_equals_one_call_per_node(layer, concept, target, width, batch_size, abs_norm):
    attribution, graph = setup()
    result = graph(
        SAMPLE, EpsilonPlusFlat(), concept, layer, target, width, abs_norm=abs_norm, batch_size=batch_size,
        verbose=False,
    )
    assert_equal_graphs(
        result, graph_by_plain_calls(attribution, concept, layer, target, width, None, None, abs_norm)
    )


def test_every_channel_of_the_test_network_carries_relevance():
    attribution, _ = setup()
    relevances = attribution(SAMPLE, [{"y": [0]}], EpsilonPlusFlat(), list(CHANNELS)[:-1]).relevances
    for relevance in relevances.values():
        assert relevance[0].flatten(1).any(1).all() if relevance.ndim > 2 else relevance.all()


def test_known_bug_nodes_repeated():
    _, graph = setup()
    nodes, connections = graph(SAMPLE, EpsilonPlusFlat(), 1, "fc1", 0, [4, 5, 5, 4], verbose=False)
    assert len(nodes) == len(set(nodes))
    ends = [(layer, concept) for edges in connections.values() for layer, concept, _ in edges]
    assert set(ends) | {("fc1", 1)} == set(nodes)
    assert len(ends) > len(set(ends))
    assert len([node for node in nodes if node[0] == "conv1"]) == 4


def test_edges_are_shares_of_the_layer_and_sorted():
    _, graph = setup()
    _, connections = graph(SAMPLE, EpsilonPlusFlat(), 1, "conv3", 0, [5], verbose=False)
    for layer in ("conv1", "conv2"):
        values = [value for name, _, value in connections["conv3", 1] if name == layer]
        assert len(values) == CHANNELS[layer]
        assert sum(map(abs, values)) == pytest.approx(1) and values == sorted(values, reverse=True)


def test_arguments_keep_their_order_and_width_is_4_2_by_default(capsys):
    _, graph = setup()
    by_name = graph(
        sample=SAMPLE, composite=EpsilonPlusFlat(), concept_id=2, layer_name="fc1", target=1, width=[4, 2],
        parent_c_id=None, parent_layer=None, abs_norm=True, batch_size=16, verbose=True,
    )
    by_default = graph(SAMPLE, EpsilonPlusFlat(), torch.tensor(2), "fc1", 1)
    assert by_name == by_default == graph(SAMPLE, EpsilonPlusFlat(), 2, "fc1", 1, [4, 2], None, None, True, 3, False)
    assert all(type(concept) is int for _, concept in by_default.nodes)
    assert len(by_default.connections["fc1", 2]) == 4


def test_set_layer_map_chooses_other_layers():
    _, graph = setup()
    graph.set_layer_map({(name, ChannelConcept()) for name in ("fc1", "conv1")})
    nodes, connections = graph(SAMPLE, EpsilonPlusFlat(), 1, "fc1", 0, [2, 2], verbose=False)
    assert {layer for layer, _ in nodes} == {"fc1", "conv1"} and list(connections) == [("fc1", 1)]
    with pytest.raises(ValueError, match="conv3"):
        graph(SAMPLE, EpsilonPlusFlat(), 1, "conv3", 0, verbose=False)


class Halves(ChannelConcept):
    """Two concepts: the lower and the upper half of the channels."""

    def mask(self, batch_id, concept_ids, layer_name=None):
        def mask_fn(relevance):
            half = relevance.shape[1] // 2
            for concept, part in ((0, slice(None, half)), (1, slice(half, None))):
                if concept not in concept_ids:
                    relevance[batch_id, part] = 0
            return relevance

        return mask_fn

    def read(self, tensor, layer_name=None, max_target="sum"):
        half = tensor.shape[1] // 2
        parts = torch.stack([tensor[:, :half].flatten(1), tensor[:, half:].flatten(1)], 1)
        return super().read(parts, layer_name, max_target)


def test_known_bug_custom_concepts_were_ignored():
    attribution, graph = setup()
    graph.set_layer_map({"fc1": ChannelConcept(), "conv3": Halves(), "conv1": Halves()})
    nodes, connections = graph(SAMPLE, EpsilonPlusFlat(), 1, "fc1", 0, [4, 4], abs_norm=False, verbose=False)
    assert set(nodes) == {("fc1", 1), ("conv3", 0), ("conv3", 1), ("conv1", 0), ("conv1", 1)}
    relevance = attribution(
        SAMPLE, [{"fc1": [1], "conv3": [2, 3], "y": [0]}], EpsilonPlusFlat(), ["conv1"], exclude_parallel=False
    ).relevances["conv1"][0]
    values = {concept: value for _, concept, value in connections["conv3", 1]}
    assert values == pytest.approx({0: relevance[:2].sum().item(), 1: relevance[2:].sum().item()})


def test_concepts_on_the_last_axis():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double().eval()
    sample, last = torch.rand(1, 7, 3, dtype=torch.float64), ChannelConcept(-1)
    attribution, layers = CondAttribution(net), ["0", "2", "4"]
    graph = AttributionGraph(attribution, trace_model_graph(net, sample, layers), {name: last for name in layers})
    _, connections = graph(sample, EpsilonPlusFlat(), 1, "4", None, [5, 4], abs_norm=False, verbose=False)
    for concept in range(5):
        relevance = attribution(
            sample, [{"4": [1], "2": [concept]}], EpsilonPlusFlat(), ["0"], last, "4"
        ).relevances["0"].sum((0, 1))
        values = {child: value for _, child, value in connections["2", concept]}
        assert values == pytest.approx(dict(enumerate(relevance.tolist()))) and relevance.all()


@pytest.mark.parametrize("arguments, error, message", [
    (dict(layer_name="fc11"), ValueError, "'fc11'; did you mean 'fc1'"),
    (dict(layer_name="relu"), ValueError, "'relu'"),
    (dict(parent_c_id=1), ValueError, "together"),
    (dict(parent_layer="fc2"), ValueError, "together"),
    (dict(parent_c_id=1, parent_layer="fcc2"), ValueError, "'fcc2'; did you mean 'fc2'"),
    (dict(concept_id=6), IndexError, "6 .*'fc1'.* 0 to 5"),
    (dict(target=3), IndexError, "target 3 .* 0 to 2"),
    (dict(sample=torch.rand(2, 1, 6, 6)), ValueError, "one sample"),
])
def test_bad_arguments(arguments, error, message, model_state):
    attribution, graph = setup()
    before = model_state(attribution.model)
    given_arguments = dict(sample=SAMPLE, composite=EpsilonPlusFlat(), concept_id=1, layer_name="fc1", target=0)
    with pytest.raises(error, match=message):
        graph(**given_arguments | arguments, verbose=False)
    assert model_state(attribution.model) == before


def test_layer_map_with_a_layer_that_was_not_traced():
    attribution, graph = setup()
    with pytest.raises(ValueError, match="'conv4'; did you mean"):
        graph.set_layer_map({"conv4": ChannelConcept()})


def test_the_model_and_the_sample_stay_as_they_are(model_state):
    attribution, graph = setup()
    before, sample = model_state(attribution.model), SAMPLE.clone()
    graph(sample, EpsilonPlusFlat(), 1, "fc1", 0, verbose=False)
    assert model_state(attribution.model) == before
    assert torch.equal(sample, SAMPLE) and not sample.requires_grad and sample.grad is None


@pytest.mark.parametrize("width", [[4, 2], [], [3, 3, 3]])
def test_plot_returns_a_figure_with_the_nodes_in_it(width):
    _, graph = setup()
    result = graph(SAMPLE, EpsilonPlusFlat(), 1, "fc1", 0, width, verbose=False)
    figure = result.plot(figsize=(5, 4))
    assert isinstance(figure, Figure) and tuple(figure.get_size_inches()) == (5, 4)
    figure.canvas.draw()
    texts = [text.get_text() for text in figure.findobj(Text)]
    assert set(layer for layer, _ in result.nodes) <= set(texts)
    assert sorted(text for text in texts if text.startswith("#")) == sorted(f"#{c}" for _, c in result.nodes)
    plt.close(figure)


class Old(ChannelConcept):
    """As users of zennit-crp wrote concepts, and with fewer arguments."""

    def attribute(self, relevance, abs_norm=True):
        return super().attribute(relevance, abs_norm=abs_norm)

    @staticmethod
    def mask(batch_id, concept_ids):
        return ChannelConcept.mask(batch_id, concept_ids)


def test_concepts_of_users_are_given_the_arguments_that_they_take():
    net, data, layers = conv_net(), images()[:1], ["conv1", "conv2"]
    traced = trace_model_graph(net, data, layers)
    found, expected = (
        AttributionGraph(CondAttribution(net), traced, layer_map)(
            data, EpsilonPlusFlat(), 1, "conv2", width=[2], abs_norm=False, verbose=False
        ) for layer_map in ({layer: Old() for layer in layers}, layers)
    )
    assert len(found.nodes) == 3 and found == expected
