"""What a function of a user does to a tensor that it is given changes nothing else, or is refused."""
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, EncodedConcept
from crp.visualization import FeatureVisualization

CONDITIONS = [{"conv": [1], "y": [1]}]


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential()
    for name, module in (
        ("conv", nn.Conv2d(1, 5, 3)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("fc", nn.Linear(80, 3)),
    ):
        net.add_module(name, module)
    return net.eval()


@pytest.fixture
def images():
    return torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def mask_that(mask):
    return lambda batch_id, concept_ids, layer_name=None: mask


@pytest.mark.parametrize("mask, error, message", [
    (lambda relevance: None, TypeError, "None .it has no return"),
    (lambda relevance: relevance.numpy(), TypeError, "gives the masked relevance, a tensor"),
    (lambda relevance: relevance.double(), TypeError, "type of relevance, torch.float32; .* torch.float64"),
    (lambda relevance: relevance.sum(1), ValueError, "shape of relevance"),
])
def test_masks_give_relevance_back(model, images, mask, error, message):
    def forgetful(relevance):
        relevance[:, 0] = 0
        return mask(relevance)

    with pytest.raises(error, match=message):
        CondAttribution(model)(images, CONDITIONS, EpsilonPlusFlat(), mask_map=mask_that(forgetful))


def test_masks_may_write_to_what_they_are_given(model, images):
    def mask(relevance):
        relevance[:, [0, 2, 3, 4]] = 0
        return relevance

    attribution = CondAttribution(model)
    found = attribution(images, CONDITIONS, EpsilonPlusFlat(), ["conv"], mask_map=mask_that(mask))
    expected = attribution(images, CONDITIONS, EpsilonPlusFlat(), ["conv"])
    assert torch.equal(found.heatmap, expected.heatmap)
    assert torch.equal(found.relevances["conv"], expected.relevances["conv"])


def test_what_reads_a_layer_does_not_write_there(model, images):
    attribution = CondAttribution(model)
    with pytest.raises(ValueError, match="record_fn writes to the tensor"):
        attribution(images, CONDITIONS, EpsilonPlusFlat(), ["conv"], record_fn=lambda x, layer: x.abs_().sum((2, 3)))
    attribution(images, CONDITIONS, EpsilonPlusFlat(), ["conv"], record_fn=lambda x, layer: x.abs().sum((2, 3)))


@pytest.mark.parametrize("functions, name", [
    ((lambda x: x.relu_(), lambda code: code * 1.), "encode"),
    ((lambda x: x * 1., lambda code: code.mul_(2)), "decode"),
])
def test_codes_are_read_without_writing(model, images, functions, name):
    concept = EncodedConcept(*functions)
    with pytest.raises(ValueError, match=f"{name} writes to the tensor"):
        CondAttribution(model)(images, [{"fc": [1], "y": [1]}], EpsilonPlusFlat(), mask_map={"fc": concept})


def test_heatmaps_are_made_without_writing(model, images):
    class Absolute(CondAttribution):
        def heatmap_modifier(self, data, on_device=None):
            return data.grad.abs_().sum(1)

    with pytest.raises(ValueError, match="heatmap_modifier writes"):
        Absolute(model)(images, CONDITIONS, EpsilonPlusFlat())


def test_relevance_to_start_with_is_made_of_a_copy(model, images):
    attribution = CondAttribution(model)
    found = attribution(images, CONDITIONS, EpsilonPlusFlat(), init_rel=lambda prediction: prediction.mul_(0).add_(1))
    expected = attribution(images, CONDITIONS, EpsilonPlusFlat(), init_rel=1)
    assert torch.equal(found.heatmap, expected.heatmap)
    assert torch.equal(found.prediction, expected.prediction)


def test_preprocessing_does_not_write_to_the_dataset(model, images, tmp_path):
    dataset = torch.utils.data.TensorDataset(images, torch.arange(3))
    before, attribution = images.clone(), CondAttribution(model)
    visualization = FeatureVisualization(
        attribution, dataset, {"conv": ChannelConcept()}, preprocess_fn=lambda x: x.sub_(0.5).div_(0.25), path=tmp_path
    )
    visualization.run(EpsilonPlusFlat(), 0, 3, 2)
    visualization.get_max_reference([0], "conv", "relevance", (0, 2), EpsilonPlusFlat())
    assert torch.equal(images, before)


def test_functions_that_draw_do_not_write_to_the_dataset(model, tmp_path):
    class Sizes(torch.utils.data.Dataset):
        items = [torch.rand(1, size, 6) for size in (6, 7)]

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return self.items[i], i

    def draw(inputs, heatmaps, rf):
        for image in inputs:
            image.zero_()
        return list(inputs)

    before = [image.clone() for image in Sizes.items]
    visualization = FeatureVisualization(
        CondAttribution(model), Sizes(), {"conv": ChannelConcept()}, path=tmp_path,
        preprocess_fn=lambda x: x[..., :6, :],
    )
    visualization.run(EpsilonPlusFlat(), 0, 2, 1)
    visualization.get_max_reference([0], "conv", "relevance", (0, 2), EpsilonPlusFlat(), plot_fn=draw)
    assert all(map(torch.equal, Sizes.items, before))


@pytest.mark.parametrize("options, error", [
    ({"r_range": (False, True)}, TypeError), ({"r_range": (0, 1.5)}, TypeError), ({"r_range": 3}, TypeError),
    ({"r_range": (0, 0)}, ValueError), ({"batch_size": 0}, ValueError), ({"batch_size": True}, TypeError),
    ({"concept_ids": [True, 2]}, TypeError), ({"concept_ids": True}, TypeError), ({"targets": 1.9}, TypeError),
])
def test_references_need_integers(model, images, tmp_path, options, error):
    dataset = torch.utils.data.TensorDataset(images, torch.arange(3))
    visualization = FeatureVisualization(CondAttribution(model), dataset, {"conv": ChannelConcept()}, path=tmp_path)
    visualization.run(EpsilonPlusFlat(), 0, 3, 2)
    arguments = {"concept_ids": [0], "layer_name": "conv", "composite": EpsilonPlusFlat(), "plot_fn": None}
    with pytest.raises(error):
        visualization.get_max_reference(**{**arguments, **options})
    for counts in ({"top_N": 0}, {"mean_N": 1.5}, {"top_N": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(counts))):
            visualization.compute_stats(0, "conv", **counts)
    with pytest.raises(TypeError):
        visualization.get_stats_reference(0, "conv", 1.9)
