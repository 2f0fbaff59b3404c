"""Contrasts: relevance of the difference between outputs."""
import pytest
import torch
from small_sweeps import Items, images, small_model
from torch import nn
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, LayerMapComposite
from zennit.rules import Epsilon, Pass
from zennit.types import Linear

from crp.attribution import AttributionGraph, CondAttribution, Contrast
from crp.attribution.baselines import gradient_x_input
from crp.attribution.model_graph import trace_model_graph
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5, bias=False)
    ).double().eval()


@pytest.fixture
def data():
    return torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("outputs, against", [(3, 1), ([3], [1, 0]), ([4, 2], 0), (torch.tensor(3), 1)])
@pytest.mark.parametrize("init_rel", [None, 1.])
def test_it_is_one_heatmap_less_the_other(model, data, outputs, against, init_rel):
    attribution = CondAttribution(model)
    this, that, both = (
        attribution(data, [{"1": [0, 2], "y": y}], EpsilonPlus(), init_rel=init_rel).heatmap
        for y in (outputs, against, Contrast(outputs, against))
    )
    torch.testing.assert_close(both, this - that)


def test_it_is_that_of_a_model_whose_output_is_the_difference(model, data):
    composite = LayerMapComposite([(nn.ReLU, Pass()), (Linear, Epsilon(1e-12))])
    heatmap = CondAttribution(model)(data, [{"y": Contrast(3, 1)}], composite).heatmap
    difference = nn.Linear(144, 1, bias=False).double()
    with torch.no_grad():
        difference.weight.copy_(model[3].weight[3:4] - model[3].weight[1:2])
    alone = nn.Sequential(*model[:3], difference).eval()
    torch.testing.assert_close(heatmap, CondAttribution(alone)(data, [{"y": [0]}], composite).heatmap)


def test_conditions_side_by_side_and_of_one_sample(model, data):
    attribution, asked = CondAttribution(model), [Contrast(3, 1), [3, 1], Contrast(1, 3), Contrast([3], [1])]
    alone = torch.cat([attribution(data[:1], [{"y": y}], EpsilonPlus()).heatmap for y in asked])
    together = attribution(data[:1], [{"y": y} for y in asked], EpsilonPlus()).heatmap
    torch.testing.assert_close(together, alone)
    one_pass = attribution.generate(data[:1], [{"y": y} for y in asked], EpsilonPlus(), batch_size=3, verbose=False)
    torch.testing.assert_close(torch.cat([result.heatmap for result in one_pass]), alone)
    torch.testing.assert_close(alone[0], -alone[2])
    assert not torch.allclose(alone[0], alone[1])


def test_baselines_take_it_too(model, data):
    found = gradient_x_input(CondAttribution(model), data, [{"y": Contrast(3, 1)}]).heatmap
    leaf = data.clone().requires_grad_()
    output = model(leaf)
    gradient, = torch.autograd.grad((output[:, 3] - output[:, 1]).sum(), leaf)
    torch.testing.assert_close(found, (gradient * data).sum(1))


def test_graphs_of_a_difference(model, data):
    attribution, layers = CondAttribution(model), {name: ChannelConcept() for name in ("0", "1")}
    decompose = AttributionGraph(attribution, trace_model_graph(model, data[:1], layers), layers)
    found = decompose(data[:1], EpsilonPlus(), 2, "1", target=Contrast(3, 1), width=[4], verbose=False, abs_norm=False)
    whole = attribution(data[:1], [{"1": [2], "y": Contrast(3, 1)}], EpsilonPlus(), record_layer=["0"])
    expected = whole.relevances["0"].sum((2, 3))[0]
    for _, concept, relevance in found.connections["1", 2]:
        assert relevance == pytest.approx(float(expected[concept]))


def test_sweeps_explain_a_difference(tmp_path, quick):
    layers, count = {"conv": ChannelConcept()}, 4
    dataset = Items(list(images(count)))
    fv = FeatureVisualization(CondAttribution(small_model()), dataset, layers, path=tmp_path, y=Contrast(2, 0))
    store = fv.run(EpsilonPlusFlat())
    attribution = CondAttribution(small_model())
    for i, image in enumerate(images(count)):
        result = attribution(image[None], [{"y": Contrast(2, 0)}], EpsilonPlusFlat(), ["conv"], exclude_parallel=False)
        expected = result.relevances["conv"].flatten(2).sum(2)[0]
        torch.testing.assert_close(torch.tensor(store.values("conv")[i]).double(), expected, rtol=1e-5, atol=1e-6)
    assert fv.get_max_reference(0, "conv", "relevance", (0, 2), EpsilonPlusFlat())


def test_what_is_no_contrast_is_refused(model, data):
    with pytest.raises(ValueError, match="between different outputs, not 3"):
        Contrast(3, 3)
    with pytest.raises(IndexError, match="target 7 is out of range"):
        CondAttribution(model)(data, [{"y": Contrast(3, 7)}], EpsilonPlus())
    with pytest.raises(TypeError, match="outputs of the model, not channels of '1'"):
        FeatureVisualization(
            CondAttribution(model), Items(list(data)), {"1": ChannelConcept()}, start_layer="1", y=Contrast(3, 1)
        ).run(EpsilonPlus())


def test_tokens_go_by_their_texts():
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    vocabulary = {"[UNK]": 0, "is": 1, "are": 2, "keys": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert Contrast.between_tokens(tokenizer, "are", "is") == Contrast([(-1, 2)], [(-1, 1)])
    assert Contrast.between_tokens(tokenizer, ["are", "keys"], "is", None) == Contrast([2, 3], [1])
    for text in ("the", "are is"):
        with pytest.raises(ValueError, match="no token of its own"):
            Contrast.between_tokens(tokenizer, text, "is")


def test_an_audit_of_a_contrast_is_one_of_the_outputs_that_it_is_for(model, data):
    of_contrast, plain = (
        CondAttribution(model).audit(data, EpsilonPlus(), [{"y": y}]) for y in (Contrast([3], [1]), [3])
    )
    assert of_contrast.total == plain.total and of_contrast.accounted == pytest.approx(1)
