"""Layers whose first axis does not hold the samples, against twins that compute the same with samples there."""
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution, SampleRows
from crp.composites import LanguageModel
from crp.concepts import ChannelConcept, EncodedConcept
from crp.helper import get_output_shapes
from crp.visualization import FeatureVisualization

LAST = ChannelConcept(-1)
UP_TO_STABILIZERS = {"rtol": 1e-5, "atol": 1e-8}


class Encoder(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dropout=0)
        self.head, self.batch_first = nn.Linear(8, 3), batch_first

    def forward(self, x):
        return self.head(self.block(x).mean(1) if self.batch_first else self.block(x.transpose(0, 1)).mean(0))


class Frames(nn.Module):
    """Images of a video one by one: folded into the batch, frame by frame or sample by sample, or along an axis."""

    def __init__(self, fold):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, (1, 3, 3)) if fold is None else nn.Conv2d(3, 4, 3)
        self.relu, self.head, self.fold = nn.ReLU(), nn.Linear(4, 3), fold

    def forward(self, x):  # [B, T, 3, H, W]
        if self.fold is None:
            return self.head(self.relu(self.conv(x.transpose(1, 2))).mean((2, 3, 4)))
        if self.fold == "interleaved":
            frames = self.relu(self.conv(x.transpose(0, 1).flatten(0, 1))).mean((2, 3))
            return self.head(frames.unflatten(0, (-1, len(x))).mean(0))
        return self.head(self.relu(self.conv(x.flatten(0, 1))).mean((2, 3)).unflatten(0, x.shape[:2]).mean(1))


def twins(kind):
    """A model, its twin, data, a layer, its concept in the model and in the twin, and options of the attribution."""
    if kind == "time first":
        models, data, layer = (Encoder(False), Encoder(True)), torch.randn(3, 6, 8), "block"
        concepts, options = (LAST, LAST), {"heatmap_axis": -1}
    else:
        models, data, layer = (Frames(kind), Frames(None)), torch.rand(3, 5, 3, 8, 8), "relu"
        concepts, options = (ChannelConcept(), ChannelConcept()), {"heatmap_axis": 2}
        nn.init.constant_(models[0].conv.bias, 0.5)
    states = [model.state_dict() for model in models]
    models[1].load_state_dict({key: states[0][key].reshape(value.shape) for key, value in states[1].items()})
    assert torch.allclose(models[0](data), models[1](data), atol=1e-5)
    return [model.double().eval() for model in models], data.double(), layer, concepts, options


KINDS = ["time first", "folded", "interleaved"]


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_records_are_those_of_the_sample(kind, samples):
    models, data, layer, concepts, options = twins(kind)
    conditions = [{layer: [i + 1], "y": [i % 2]} for i in range(samples)]
    found, expected = (
        CondAttribution(model, **options)(
            data[:samples], conditions, LanguageModel(), [layer], mask_map={layer: concept}
        ) for model, concept in zip(models, concepts)
    )
    torch.testing.assert_close(found.heatmap, expected.heatmap, **UP_TO_STABILIZERS)
    assert found.heatmap.any()
    for recorded, others in ((found.relevances, expected.relevances), (found.activations, expected.activations)):
        ours, twins_ = concepts[0].attribute(recorded[layer]), concepts[1].attribute(others[layer])
        torch.testing.assert_close(ours, twins_, **UP_TO_STABILIZERS)
        assert len(recorded[layer]) == samples


@pytest.mark.parametrize("kind", KINDS)
def test_generate_start_layers_and_single_neurons(kind):
    models, data, layer, concepts, options = twins(kind)
    heatmaps = []
    for model, concept in zip(models, concepts):
        attribution = CondAttribution(model, **options)
        conditions = [{layer: [channel], "y": [1]} for channel in range(3)]
        results = attribution.generate(data[:1], conditions, LanguageModel(), mask_map=concept, verbose=False)
        started = attribution(
            data[:2], [{layer: [2]}], LanguageModel(), mask_map=concept, start_layer=layer, init_rel=lambda h: h
        )
        heatmaps.append(torch.cat([*(result.heatmap for result in results), started.heatmap]))
    torch.testing.assert_close(*heatmaps, **UP_TO_STABILIZERS)


@pytest.mark.parametrize("kind", KINDS)
def test_sweeps_and_references(kind, tmp_path):
    models, data, layer, concepts, options = twins(kind)
    dataset, found = [(x, i % 3) for i, x in enumerate(data)], []
    for model, concept in zip(models, concepts):
        attribution = CondAttribution(model, **options)
        view = FeatureVisualization(attribution, dataset, {layer: concept}, path=str(tmp_path / str(len(found))))
        store = view.run(LanguageModel(), 0, len(data), 2)
        found.append([store.values(layer, quantity) for quantity in ("relevance", "activation")])
    for ours, others in zip(*found):
        torch.testing.assert_close(*(torch.as_tensor(ours), torch.as_tensor(others)), rtol=1e-4, atol=1e-6)


def test_codes_of_a_layer_with_time_first():
    models, data, layer, _, options = twins("time first")
    directions = torch.linalg.qr(torch.randn(8, 8, dtype=torch.double))[0]
    concept = EncodedConcept(lambda x: x @ directions, lambda code: code @ directions.T, axis=-1)
    found, expected = (
        CondAttribution(model, **options)(
            data[:2], [{layer: [1], "y": [0]}, {layer: [4, 5], "y": [1]}], LanguageModel(), [layer], mask_map=concept
        ) for model in models
    )
    torch.testing.assert_close(found.heatmap, expected.heatmap)
    torch.testing.assert_close(found.relevances[layer], expected.relevances[layer])


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):  # [B, 6, 4]
        windows = self.attention(x.unflatten(1, (3, 2)).flatten(0, 1))  # [B * 3, 2, 4]
        return self.head(windows.unflatten(0, (-1, 3)).mean((1, 2)))


def test_rows_of_a_sample_are_an_axis_where_the_concept_keeps_its_own():
    model, x = Windows().double().eval(), torch.randn(2, 6, 4, dtype=torch.double)
    at_windows = model.attention(x).unflatten(1, (3, 2))
    attribution = CondAttribution(model, heatmap_axis=-1)
    second = attribution(x, [{"y": [0]}], record_layer=["attention"], mask_map=LAST).activations["attention"]
    last = attribution(x, [{"y": [0]}], record_layer=["attention"]).activations["attention"]
    torch.testing.assert_close(second, at_windows.detach())
    torch.testing.assert_close(last, at_windows.detach().movedim(1, -1))
    assert get_output_shapes(model, x[:1], ["attention"]) == {"attention": (2, 4, 3)}
    masked = attribution(x, [{"attention": [], "y": [0]}], EpsilonPlus(), mask_map=LAST).heatmap
    assert not masked.any()


class Unclear(nn.Module):
    """Layers whose rows belong to no sample, or to which one cannot be told."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.head, self.kind = nn.Linear(4, 4), nn.Linear(4, 2), kind
        self.places = nn.Parameter(torch.randn(1, 6, 4))

    def forward(self, x):
        if self.kind == "positions":
            return self.head((x + self.layer(self.places)).mean(1))
        if self.kind == "one by one":
            return self.head(torch.stack([self.layer(sample) for sample in x]).mean(1))
        if self.kind == "chosen":
            return self.head(torch.stack([
                rows.mean(0) for rows in self.layer(x[x[..., 0] > 0]).split((x[..., 0] > 0).sum(1).tolist())
            ]))
        return self.head(self.layer(torch.zeros_like(x).flatten(0, 1)).unflatten(0, (-1, 6)).mean(1) + x.mean(1))


@pytest.mark.parametrize("kind, why", [
    ("positions", "same number of values for any number"), ("one by one", "called once for each sample"),
    ("chosen", "for one sample it holds"), ("equal rows", "in an order that cannot be told"),
])
def test_what_cannot_be_told_is_refused(kind, why):
    model, x = Unclear(kind).eval(), torch.randn(2, 6, 4)
    x[0, :3, 0], x[0, 3:, 0], x[1, :4, 0], x[1, 4:, 0] = 1, -1, -1, 1
    attribution = CondAttribution(model, heatmap_axis=-1)
    with pytest.raises(ValueError, match=f"'layer' holds .* for 2 samples.*{why}.*samples="):
        attribution(x, [{"layer": [1], "y": [0]}], mask_map=LAST)
    assert attribution(x, [{"y": [0]}], LanguageModel()).heatmap.any()


def test_samples_that_are_given():
    model, x = Unclear("equal rows").eval(), torch.randn(2, 6, 4)
    attribution = CondAttribution(model, heatmap_axis=-1, samples={"layer": SampleRows(rows=6)})
    assert attribution(x, [{"y": [0]}], record_layer=["layer"]).relevances["layer"].shape == (2, 4, 6)
    right, wrong = (
        CondAttribution(Encoder(False).eval(), heatmap_axis=-1, samples={"block": axis}) for axis in (1, 2)
    )
    assert right(torch.randn(2, 6, 8), [{"y": [0]}], record_layer=["block"]).relevances["block"].shape == (2, 6, 8)
    with pytest.raises(ValueError, match=r"'block' holds \(6, 2, 8\) for 2 samples.*axis 2 should have 1 rows"):
        wrong(torch.randn(2, 6, 8), [{"y": [0]}], record_layer=["block"])


@pytest.mark.parametrize("samples, error, match", [
    ({"blok": 1}, ValueError, "did you mean 'block'"), ({"block": "1"}, TypeError, "an axis, counted from 0"),
    ({"block": -1}, TypeError, "counted from 0"), (["block"], TypeError, "maps layers"),
])
def test_samples_that_make_no_sense(samples, error, match):
    with pytest.raises(error, match=match):
        CondAttribution(Encoder(False), samples=samples)


def test_a_model_that_takes_one_number_of_samples_only():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
            self.neighbours = nn.Buffer(torch.rand(5, 5))

        def forward(self, x):
            return self.second(self.neighbours @ self.first(x).relu())

    x = torch.rand(5, 3)
    result = CondAttribution(Graph().eval(), heatmap_axis=None)(
        x, [{"first": [1], "y": [0]}], EpsilonPlus(), ["first"], exclude_parallel=False
    )
    assert result.relevances["first"].shape == (5, 4)


@pytest.mark.parametrize("first", [0., 1.])
def test_a_blank_sample_spoils_nothing(first):
    model = Frames("folded").double().eval()
    nn.init.zeros_(model.conv.bias)
    attribution = CondAttribution(model, heatmap_axis=2)
    x = torch.rand(2, 5, 3, 8, 8, dtype=torch.double)
    for data in (first * x, x):
        relevances = attribution(data[:1], [{"y": [0]}], record_layer=["relu"]).relevances
        assert relevances["relu"].shape == (1, 4, 6, 6, 5)


class OneSize(nn.Module):
    """A model that takes six samples only."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        assert len(x) == 6
        return self.model(x)


def test_a_model_that_takes_one_number_of_samples_and_follows_their_order():
    models, _, _, concepts, options = twins("time first")
    x, conditions = torch.randn(6, 6, 8, dtype=torch.double), [{"model.block": [i], "y": [i % 2]} for i in range(6)]
    found, expected = (
        CondAttribution(OneSize(model), **options)(x, conditions, LanguageModel(), mask_map=LAST).heatmap
        for model in models
    )
    torch.testing.assert_close(found, expected, **UP_TO_STABILIZERS)


def test_routed_tokens_are_no_samples():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.expert, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            chosen = x[..., 0] > 0
            y = x.clone()
            y[chosen] = self.expert(x[chosen])
            return self.head(y.mean(1))

    x = torch.ones(2, 6, 4)
    x[0, :3, 0], x[1, :1, 0] = -1, -1
    with pytest.raises(ValueError, match="'expert' holds .* for 2 samples"):
        CondAttribution(Routed().eval(), heatmap_axis=-1)(x, [{"y": [0]}], record_layer=["expert"])


@pytest.mark.parametrize("functional", ["attnlrp", "cp-lrp"])
def test_reading_a_layer_with_time_first_changes_nothing(functional):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.weights, self.head = nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2)

        def forward(self, x):
            h = self.first(x).transpose(0, 1)
            return self.head((self.weights(h) * h).mean(0))

    model, x = Weighted().double().eval(), torch.randn(2, 5, 4, dtype=torch.double)
    attribution = CondAttribution(model, heatmap_axis=None, functional=functional)
    read, unread = (
        attribution(x, [{"y": [0]}], LanguageModel(), record_layer=layers).heatmap for layers in (["weights"], [])
    )
    torch.testing.assert_close(read, unread)


@pytest.mark.parametrize("options", [{"axis": -1}, {"rows": 0}])
def test_rows_that_make_no_sense(options):
    with pytest.raises(ValueError, match="counted from 0"):
        SampleRows(**options)


class Ragged(nn.Module):
    """The tokens that a mask chooses, one after another."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, mask):
        chosen = self.layer(x[mask.bool()])
        return self.head(torch.stack([part.mean(0) for part in chosen.split(mask.sum(1).tolist())]))


@pytest.mark.parametrize("lengths", [[3, 3, 2, 4], [4, 4], [3]])
@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_samples_of_different_lengths_are_refused(lengths, kind):
    mask = (torch.arange(4) < torch.tensor(lengths)[:, None]).to(kind)
    attribution = CondAttribution(Ragged().eval(), heatmap_axis=-1)
    with pytest.raises(ValueError, match="'layer' holds"):
        attribution((torch.randn(len(lengths), 4, 4), mask), [{"y": [0]}], record_layer=["layer"])


def test_other_arguments_count():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x, time_first):
            h = self.layer(x.transpose(0, 1)).transpose(0, 1) if time_first else self.layer(x)
            return self.head(h.mean(1))

    attribution, x = CondAttribution(Both().eval(), heatmap_axis=-1), torch.randn(3, 3, 4)
    found = [
        attribution({"x": x, "time_first": time_first}, [{"layer": [i], "y": [0]} for i in range(3)], mask_map=LAST)
        .heatmap["x"] for time_first in (False, True)
    ]
    torch.testing.assert_close(*found)


def test_the_search_leaves_no_trace_on_the_model(model_state):
    class Counting(Encoder):
        def __init__(self):
            super().__init__(False)
            self.count, self.state = nn.Buffer(torch.zeros(())), None

        def forward(self, x):
            assert self.state is None or len(self.state) == len(x)
            self.count += 1
            self.state = x
            return super().forward(x)

    model = Counting().eval()
    CondAttribution(model, heatmap_axis=-1)(torch.randn(3, 6, 8), [{"y": [0]}], record_layer=["block"])
    assert model.count == 1 and len(model.state) == 3
