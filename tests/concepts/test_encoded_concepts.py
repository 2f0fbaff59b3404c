"""Heads, directions and codes as concepts."""
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.analysis import synthesize
from crp.attribution import AttributionGraph, CondAttribution
from crp.concepts import ChannelConcept, DirectionConcept, EncodedConcept, HeadConcept
from crp.graph import trace_model_graph
from crp.image import plot_grid
from crp.visualization import FeatureVisualization


def random(*shape):
    return torch.randn(*shape, dtype=torch.double)


@pytest.fixture
def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    ).double().eval()


class Transformer(nn.Module):
    """A small transformer with a gated MLP."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(5, 8)
        self.norm, self.attend = nn.LayerNorm(8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attend(*[self.norm(x)] * 3, need_weights=False)[0]
        x = x + self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return self.head(x.mean(1))


@pytest.fixture
def transformer():
    return Transformer().double().eval()


HEADS, NEURONS, STREAM = "attend.out_proj:in", "down_proj:in", "embed"


# Directions


@pytest.mark.parametrize("rows", [[], [1]])
def test_reading_a_code_changes_nothing_below_it(transformer, rows):
    x, concept = random(3, 6, 5), DirectionConcept(random(2, 8))
    attribution = CondAttribution(transformer, heatmap_axis=-1)
    conditions = [{"norm": [0], "y": [1]} if row in rows else {"y": [1]} for row in range(3)]
    options = {"mask_map": {"norm": concept}, "exclude_parallel": False}
    found = attribution(x, conditions, EpsilonPlus(), ["norm", "embed"], **options)
    plain = attribution(x, [{"y": [1]}] * 3, EpsilonPlus(), ["embed"])
    others = [row for row in range(3) if row not in rows]
    torch.testing.assert_close(found.heatmap[others], plain.heatmap[others], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.relevances["embed"][others], plain.relevances["embed"][others], rtol=0, atol=1e-12)
    for row in rows:
        alone = attribution(x[row:row + 1], conditions[row:row + 1], EpsilonPlus(), **options).heatmap[0]
        torch.testing.assert_close(found.heatmap[row], alone)
        assert not torch.allclose(alone, plain.heatmap[row])


def test_activations_of_any_precision_and_groups_that_do_not_differ():
    values = random(10, 4).bfloat16().requires_grad_()
    found = DirectionConcept.fit(values, method="pca", n_components=2)
    torch.testing.assert_close(
        found.basis, DirectionConcept.fit(values.detach().double().numpy(), method="pca", n_components=2).basis
    )
    assert DirectionConcept(found.basis.bfloat16()).basis.dtype == torch.double
    with pytest.raises(ValueError, match="do not differ"):
        DirectionConcept.fit(torch.ones(4, 3), [0, 0, 1, 1], method="mean_difference")


def test_directions_along_the_axes_are_channels(convolutional):
    images, channels, layer = random(2, 1, 8, 8), [1, 4], "3"
    concept = DirectionConcept(torch.eye(6)[channels], axis=1)
    attribution = CondAttribution(convolutional)
    ours = attribution(images, [{"y": [0]}], EpsilonPlus(), [layer], {layer: concept})
    plain = attribution(images, [{"y": [0]}], EpsilonPlus(), [layer])
    torch.testing.assert_close(ours.prediction, plain.prediction, rtol=0, atol=0)
    torch.testing.assert_close(ours.heatmap, plain.heatmap, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.relevances[layer][..., :2], plain.relevances[layer][:, channels].movedim(1, -1), rtol=1e-4, atol=1e-6
    )
    others = [0, 2, 3, 5]
    torch.testing.assert_close(
        ours.relevances[layer][..., 2], plain.relevances[layer][:, others].sum(1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        ours.activations[layer][..., 2], plain.activations[layer][:, others].norm(dim=1)
    )
    for ids, theirs in (([0], [1]), ([0, 1], [1, 4])):
        ours = attribution(images, [{layer: ids, "y": [0]}], EpsilonPlus(), mask_map={layer: concept})
        plain = attribution(images, [{layer: theirs, "y": [0]}], EpsilonPlus())
        torch.testing.assert_close(ours.heatmap, plain.heatmap, rtol=1e-4, atol=1e-5)


def test_relevance_of_directions_by_their_contributions():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)).double()
    x, basis = random(3, 4), random(2, 5)
    concept = DirectionConcept(basis)
    attribution = CondAttribution(model, heatmap_axis=None)
    result = attribution(x, [{"y": [1]}], EpsilonPlus(), ["0"], {"0": concept})
    hidden = model[0](x).detach()
    relevance = hidden * model[1].weight[1] * (lambda z: z / (z + 1e-6 * z.sign()))(model(x)[:, 1:])
    for row in range(3):
        code = torch.linalg.lstsq(basis.T, hidden[row, :, None]).solution[:, 0]
        parts = [*(code[k] * basis[k] for k in range(2)), hidden[row] - code @ basis]
        expected = [sum(part[j] * relevance[row, j] / hidden[row, j] for j in range(5)) for part in parts]
        torch.testing.assert_close(result.relevances["0"][row], torch.stack(expected), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(result.activations["0"][row, :2], code)


@pytest.mark.parametrize("concept", [
    DirectionConcept(np.random.default_rng(0).normal(size=(3, 8))),
    EncodedConcept(nn.Sequential(nn.Linear(8, 20), nn.ReLU()).double(), nn.Linear(20, 8).double()),
    EncodedConcept(lambda x: x.topk(2).values, lambda code: code @ torch.ones(2, 8, dtype=code.dtype)),
])
@pytest.mark.parametrize("layer", [STREAM, "norm"])
def test_relevance_of_codes_adds_up(transformer, concept, layer):
    x = random(2, 6, 5)
    attribution = CondAttribution(transformer, heatmap_axis=-1)
    coded = attribution(x, [{"y": [1]}], EpsilonPlus(), [layer], {layer: concept})
    plain = attribution(x, [{"y": [1]}], EpsilonPlus(), [layer])
    torch.testing.assert_close(coded.prediction, plain.prediction, rtol=0, atol=0)
    torch.testing.assert_close(
        coded.relevances[layer].sum(-1), plain.relevances[layer].sum(-1), rtol=1e-4, atol=1e-5
    )
    count = coded.relevances[layer].shape[-1]
    conditions = [{layer: [i], "y": [1]} for i in range(count)]
    alone = attribution(x[:1], conditions, EpsilonPlus(), mask_map={layer: concept}).heatmap
    together = attribution(
        x[:1], [{layer: list(range(count)), "y": [1]}], EpsilonPlus(), mask_map={layer: concept}
    ).heatmap
    torch.testing.assert_close(alone.sum(0), together[0], rtol=1e-4, atol=1e-6)


def test_the_encoders_bias_is_all_that_is_lost_on_the_way_back():
    encoder, decoder = nn.Linear(5, 3, bias=False).double(), nn.Linear(3, 5).double()
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False)).double()
    attribution = CondAttribution(model, heatmap_axis=None)
    x = random(3, 4)
    result = attribution(x, [{"y": [0]}], EpsilonPlus(), mask_map={"0": EncodedConcept(encoder, decoder)},
                         record_layer=["0"])
    torch.testing.assert_close(result.heatmap.sum(1), result.prediction[:, 0], rtol=1e-3, atol=1e-3)


def test_a_heatmap_can_start_at_a_direction(transformer):
    x, concept = random(2, 6, 5), DirectionConcept(np.eye(8)[:2])
    result = CondAttribution(transformer, heatmap_axis=-1)(
        x, [{STREAM: [1]}], EpsilonPlus(), start_layer=STREAM, mask_map={STREAM: concept}
    )
    assert result.prediction.shape == (2, 6, 3)
    bias = transformer.embed.bias[1]
    expected = (x * transformer.embed.weight[1]).sum(-1)
    value = expected + bias
    torch.testing.assert_close(result.heatmap, expected * value / (value + 1e-6 * value.sign()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("basis, message", [
    (np.eye(4) * [0, 1, 1, 1], "not zero"), (np.ones(4), "directions, features"), (np.full((1, 4), np.nan), "finite"),
])
def test_impossible_directions_are_refused(basis, message):
    with pytest.raises(ValueError, match=message):
        DirectionConcept(basis)


def test_directions_of_another_layer_are_refused(transformer):
    with pytest.raises(ValueError, match="the layer has 8 features, the basis 4"):
        CondAttribution(transformer)(
            random(1, 6, 5), [{"y": [0]}], EpsilonPlus(), [STREAM], {STREAM: DirectionConcept(np.eye(4))}
        )


# Finding directions


def test_principal_components():
    values = np.random.default_rng(0).normal(size=(20, 3, 5)) @ np.diag([5, 3, 1, 1, 1])
    concept = DirectionConcept.fit(values, n_components=2)
    expected = PCA(2).fit(values.reshape(60, 5)).components_
    np.testing.assert_allclose(np.abs(concept.basis), np.abs(expected), atol=1e-8)
    images = np.moveaxis(values, 2, 1)
    np.testing.assert_allclose(
        DirectionConcept.fit(images, n_components=2, axis=1).basis, concept.basis, atol=1e-8
    )


def test_mean_differences():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(30, 4)), np.repeat(["a", "b", "c"], 10)
    concept = DirectionConcept.fit(values, labels, "mean_difference")
    for row, label in zip(concept.basis.numpy(), "abc"):
        expected = values[labels == label].mean(0) - values[labels != label].mean(0)
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected))


def test_concept_activation_vectors_point_to_the_second_label():
    generator = np.random.default_rng(0)
    direction = np.array([3., 4., 0., 0., 0.]) / 5
    labels = generator.integers(0, 2, 400)
    values = generator.normal(size=(400, 5)) + 4 * labels[:, None] * direction
    concept = DirectionConcept.fit(values, labels, "cav")
    assert concept.basis.shape == (1, 5) and concept.basis[0].numpy() @ direction > .95


def test_non_negative_factors():
    generator = np.random.default_rng(0)
    planted = np.array([[1., 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    concept = DirectionConcept.fit(generator.exponential(size=(50, 2)) @ planted, method="nmf", n_components=2)
    cosines = np.abs(concept.basis.numpy() @ planted.T) / np.sqrt(2)
    assert sorted(cosines.max(1)) == pytest.approx([1, 1], abs=1e-3)


@pytest.mark.parametrize("options, message", [
    ({"method": "svd"}, "'pca', 'nmf', 'cav' or 'mean_difference'"), ({"method": "cav"}, "needs labels"),
    ({"method": "cav", "labels": [1, 1, 1]}, "two kinds"), ({"method": "cav", "labels": [1, 2]}, "one for each of 3"),
    ({"method": "pca", "labels": [1, 2, 3]}, "takes no labels"), ({"n_components": 9}, "n_components is 1 to 3"),
    ({"method": "nmf", "n_components": 2}, "not negative"),
])
def test_bad_fits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DirectionConcept.fit(np.random.default_rng(0).normal(size=(3, 4)), **options)


# Heads


def test_heads_are_groups_of_features(transformer):
    x = random(2, 6, 5)
    attribution, concept = CondAttribution(transformer, heatmap_axis=-1), HeadConcept(4)
    result = attribution(x, [{"y": [1]}], EpsilonPlus(), [HEADS])
    relevance = result.relevances[HEADS]
    assert relevance.shape == (2, 6, 8)
    expected = torch.stack([relevance[..., 2 * h:2 * h + 2].sum(-1) for h in range(4)], -1)
    value, position = concept.read(relevance)
    torch.testing.assert_close(value, expected.sum(1))
    torch.testing.assert_close(position, expected.argmax(1))
    torch.testing.assert_close(concept.read(relevance, max_target="max").value, expected.amax(1))
    shares = concept.attribute(relevance)
    torch.testing.assert_close(shares.abs().sum(1), torch.ones(2).double())
    for head in range(4):
        ours = attribution(x, [{HEADS: [head], "y": [1]}], EpsilonPlus(), mask_map=concept).heatmap
        features = {HEADS: [2 * head, 2 * head + 1], "y": [1]}
        torch.testing.assert_close(
            ours, attribution(x, [features], EpsilonPlus(), mask_map=ChannelConcept(-1)).heatmap
        )


def test_heads_at_single_positions():
    mask = HeadConcept(2).mask_rf(1, {1: [0, 2]}, "layer")
    relevance = torch.ones(2, 3, 4)
    expected = torch.tensor([[[1.] * 4] * 3, [[0, 0, 1, 1], [0] * 4, [0, 0, 1, 1]]])
    torch.testing.assert_close(mask(relevance), expected)
    assert HeadConcept(2).position_shape((3, 4)) == (3,)
    assert HeadConcept(2).get_rf_indices((3, 4)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("concept, ids, error", [
    (HeadConcept(3), [0], ValueError), (HeadConcept(4), [4], IndexError), (DirectionConcept(np.eye(8)), [9], IndexError)
])
def test_heads_and_directions_that_do_not_exist(transformer, concept, ids, error, model_state):
    before = model_state(transformer)
    with pytest.raises(error):
        CondAttribution(transformer)(random(1, 6, 5), [{HEADS: ids, "y": [0]}], EpsilonPlus(), mask_map=concept)
    assert model_state(transformer) == before
    with pytest.raises(ValueError, match="positive integer"):
        HeadConcept(0)


# Everywhere


CONCEPTS = {
    HEADS: HeadConcept(4), NEURONS: ChannelConcept(-1), STREAM: DirectionConcept(np.eye(8)[:3] + .1),
    "norm": EncodedConcept(nn.Linear(8, 9), nn.Linear(9, 8)),
}


@pytest.fixture
def swept(tmp_path):
    model, samples = Transformer().eval(), torch.randn(40, 6, 5)
    attribution = CondAttribution(model, heatmap_axis=-1)
    visualization = FeatureVisualization(
        attribution, TensorDataset(samples, torch.arange(40) % 3), CONCEPTS, path=str(tmp_path / "store")
    )
    return attribution, samples, visualization, visualization.run(EpsilonPlus(), 0, 40, 16)


def test_sweeps_and_references_of_all_kinds(swept):
    attribution, samples, visualization, store = swept
    result = attribution(
        samples, [{"y": [i % 3]} for i in range(40)], EpsilonPlus(), list(CONCEPTS), CONCEPTS, exclude_parallel=False
    )
    for layer, concept in CONCEPTS.items():
        for quantity, recorded in (("relevance", result.relevances), ("activation", result.activations)):
            value, position = concept.read(recorded[layer], layer)
            np.testing.assert_allclose(store.values(layer, quantity)[:], value, rtol=1e-3, atol=1e-5)
        for mode in ("relevance", "activation"):
            references = visualization.get_max_reference([0, 2], layer, mode, (0, 3), EpsilonPlus(), rf=True,
                                                         plot_fn=None)
            assert all(heatmap.shape == (3, 6) and torch.isfinite(heatmap).all() for _, heatmap in references.values())
    assert "attend" in str(trace_model_graph(attribution.model, samples[:1], [HEADS, "attend"]))


def test_attribution_graphs_of_all_kinds(swept):
    attribution, samples, *_ = swept
    layers = ["embed", "norm", HEADS, NEURONS]
    graph = trace_model_graph(attribution.model, samples[:1], layers)
    assert graph.find_input_layers(NEURONS) == ["embed", HEADS]
    assert graph.find_input_layers(HEADS) == ["norm"] and graph.find_input_layers("norm") == ["embed"]
    decompose = AttributionGraph(attribution, graph, {layer: CONCEPTS[layer] for layer in layers})
    nodes, connections = decompose(samples[:1], EpsilonPlus(), 3, NEURONS, target=1, width=[2, 2], verbose=False)
    assert {layer for layer, _ in nodes} == set(layers)
    assert all(len(children) == 2 * len(graph.find_input_layers(layer))
               for (layer, _), children in connections.items())


def test_directions_in_images_everywhere(convolutional, tmp_path):
    model, images = convolutional.float(), torch.rand(20, 1, 8, 8)
    concept = DirectionConcept(np.eye(6)[:3], axis=1)
    visualization = FeatureVisualization(
        CondAttribution(model), TensorDataset(images, torch.zeros(20, dtype=torch.long)), {"3": concept},
        path=str(tmp_path)
    )
    visualization.run(EpsilonPlusFlat(), 0, 20)
    references = visualization.get_max_reference([0, 3], "3", "relevance", (0, 2), EpsilonPlusFlat(), rf=True)
    plot_grid(references)
    assert set(references) == {0, 3}
    assert synthesize(model, "3", [1], concept=concept, size=(1, 8, 8), steps=4).images.shape == (1, 1, 8, 8)


def test_fingerprints_tell_directions_apart(swept, tmp_path):
    attribution, samples, visualization, _ = swept
    other = dict(CONCEPTS, **{STREAM: DirectionConcept(np.eye(8)[:3])})
    again = FeatureVisualization(attribution, visualization.dataset, other, path=visualization.path)
    with pytest.raises(ValueError, match="layers"):
        again.run(EpsilonPlus(), 0, 40, 16)
