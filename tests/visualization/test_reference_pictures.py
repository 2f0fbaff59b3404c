"""Heatmaps and pictures of references."""
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset
from visualizations import (
    CHANNELS,
    MODES,
    SAMPLES,
    TARGETS,
    CountSamples,
    heatmap_of,
    hooks_of,
    images,
    ranking,
    restate,
    single,
    small_model,
    strengths,
    swept,
)
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.helper import get_layer_names
from crp.image import imgify, plot_grid, vis_img_heatmap, vis_opaque_img
from crp.model.inputs import list_tensors
from crp.store.references import References
from crp.visualization import FeatureVisualization
from crp.visualization.reference_pictures import ReferencePictures

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("rf", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_heatmaps_start_at_the_layer_and_flow_through_the_concept(fv, mode, rf, batch_size):
    for layer, concepts in (("conv", [0, 3]), ("conv2", [1, 2, 0]), ("out", [2])):
        strength, pairs = strengths(layer, mode)
        found = fv.get_max_reference(concepts, layer, mode, (0, 6), EpsilonPlusFlat(), rf, None, batch_size)
        for concept in concepts:
            samples, _, positions = ranking(strength, pairs, concept)
            inputs, heatmaps = found[concept]
            torch.testing.assert_close(inputs, images()[samples[:6]], rtol=0, atol=0)
            expected = torch.stack([
                heatmap_of(fv, sample, layer, concept, int(position) if rf else None)
                for sample, position in zip(samples[:6], positions)
            ])
            assert expected.abs().sum() > 0
            torch.testing.assert_close(heatmaps, expected)


def test_a_receptive_field_is_no_larger_than_the_kernel(fv):
    _, heatmaps = fv.get_max_reference(2, "conv", "activation", composite=EpsilonPlusFlat(), rf=True, plot_fn=None)[2]
    _, whole = fv.get_max_reference(2, "conv", "activation", composite=EpsilonPlusFlat(), plot_fn=None)[2]
    assert all(torch.count_nonzero(heatmap) <= 9 for heatmap in heatmaps)
    assert any(torch.count_nonzero(heatmap) > 9 for heatmap in whole)


@pytest.mark.parametrize("targets", [1, [1], [0, 2], torch.tensor([2])])
@pytest.mark.parametrize("rf", [False, True])
def test_heatmaps_conditioned_on_classes_as_well(fv, targets, rf):
    strength, pairs = strengths("conv", "relevance")
    _, heatmaps = fv.get_max_reference(
        3, "conv", composite=EpsilonPlusFlat(), rf=rf, plot_fn=None, targets=targets
    )[3]
    samples, _, positions = ranking(strength, pairs, 3)
    expected = torch.stack([
        heatmap_of(fv, sample, "conv", 3, int(position) if rf else None, np.atleast_1d(targets).tolist())
        for sample, position in zip(samples[:8], positions)
    ])
    torch.testing.assert_close(heatmaps, expected)
    _, unconditioned = fv.get_max_reference(3, "conv", composite=EpsilonPlusFlat(), rf=rf, plot_fn=None)[3]
    assert not torch.allclose(heatmaps, unconditioned)


def test_an_image_that_serves_several_concepts_is_run_once(fv):
    concepts = range(CHANNELS)
    samples = {
        int(sample) for concept in concepts for sample in fv.run(EpsilonPlusFlat(), 0, SAMPLES, 7).top(
            "conv", concept, k=8).samples
    }
    fv.compute_stats(0, "conv")  # which asks the model what it answers
    with CountSamples(fv.attribution.model) as counted:
        fv.get_max_reference(concepts, "conv", composite=EpsilonPlusFlat(), plot_fn=None, batch_size=5)
    assert counted.total == len(samples) < 8 * CHANNELS


def test_without_composite_the_model_is_run_only_to_learn_what_it_answers(fv):
    with CountSamples(fv.attribution.model) as counted:
        fv.compute_stats(0, "conv")
    assert counted.total == 2
    with CountSamples(fv.attribution.model) as counted:
        fv.get_max_reference([0, 1], "conv", plot_fn=None)
        fv.get_max_reference([0, 1], "conv", plot_fn=vis_opaque_img)
        fv.compute_stats(0, "conv")
    assert counted.total == 0


def test_a_plot_fn_without_composite_gives_pictures_of_the_inputs(fv):
    pictures = fv.get_max_reference([0, 1], "conv", r_range=(0, 3))
    assert all(isinstance(picture, Image.Image) for found in pictures.values() for picture in found)
    assert [len(found) for found in pictures.values()] == [3, 3]
    inputs = fv.get_max_reference(0, "conv", r_range=(0, 3), plot_fn=None)[0]
    for picture, image in zip(pictures[0], inputs):
        np.testing.assert_array_equal(picture.convert("L"), imgify(image, cmap="gray").convert("L"))


def test_a_plot_fn_gets_inputs_heatmaps_and_rf(fv):
    calls = []

    def record(data, heatmaps, rf):
        calls.append((data, heatmaps, rf))
        return len(calls)

    found = fv.get_max_reference([4, 1], "conv", composite=EpsilonPlusFlat(), rf=True, plot_fn=record)
    plain = fv.get_max_reference([4, 1], "conv", composite=EpsilonPlusFlat(), rf=True, plot_fn=None)
    assert found == {4: 1, 1: 2}
    for (data, heatmaps, rf), (expected_data, expected_heatmaps) in zip(calls, plain.values()):
        assert rf is True
        torch.testing.assert_close(data, expected_data)
        torch.testing.assert_close(heatmaps, expected_heatmaps)


@pytest.mark.parametrize("plot_fn, parts", [(vis_img_heatmap, 2), (vis_opaque_img, None)])
@pytest.mark.parametrize("rf", [False, True])
def test_pictures_of_tiny_images(fv, plot_fn, parts, rf):
    found = fv.get_max_reference([0, 1], "conv2", composite=EpsilonPlusFlat(), rf=rf, plot_fn=plot_fn)
    for reference in found.values():
        assert isinstance(reference, tuple) == (parts == 2)
        for pictures in reference if parts else [reference]:
            assert len(pictures) == 8 and all(isinstance(picture, Image.Image) for picture in pictures)


def test_a_failing_plot_fn_leaves_nothing_on_the_model(fv):
    with pytest.raises(ZeroDivisionError):
        fv.get_max_reference(0, "conv", composite=EpsilonPlusFlat(), plot_fn=lambda data, heatmaps, rf: 1 / 0)
    assert hooks_of(fv.attribution.model) == []
    assert all(parameter.requires_grad for parameter in fv.attribution.model.parameters())


def test_pictures_show_inputs_without_preprocessing_and_heatmaps_come_from_it(tmp_path):
    fv = swept(tmp_path, preprocess_fn=lambda data: data * 3 - 1)
    strength, pairs = restate(small_model(), images() * 3 - 1, single(), "conv", "relevance")
    samples, _, _ = ranking(strength, pairs, 2)
    inputs, heatmaps = fv.get_max_reference(2, "conv", composite=EpsilonPlusFlat(), plot_fn=None)[2]
    torch.testing.assert_close(inputs, images()[samples[:8]], rtol=0, atol=0)
    expected = fv.attribution(images()[samples[:1]] * 3 - 1, [{"conv": [2]}], EpsilonPlusFlat(), start_layer="conv")
    torch.testing.assert_close(heatmaps[:1], expected.heatmap)


def test_inputs_of_different_sizes_come_as_a_list(tmp_path):
    class Cropped(FeatureVisualization):
        def preprocess_data(self, data):
            return data[..., :8, :8]

    items = [(torch.rand(1, 8 + i % 3, 9).double(), 0) for i in range(9)]
    fv = swept(tmp_path, data=items, kind=Cropped)
    inputs, heatmaps = fv.get_max_reference(0, "conv", composite=EpsilonPlusFlat(), plot_fn=None)[0]
    assert {tuple(data.shape) for data in inputs} == {(1, 8, 9), (1, 9, 9), (1, 10, 9)}
    assert heatmaps.shape == (8, 8, 8)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = small_model()

    def forward(self, image, scale):
        return self.inner(image * scale[:, :, None, None])


def test_datasets_of_dicts_give_inputs_and_heatmaps_as_dicts(tmp_path):
    items = [{"image": image, "scale": torch.tensor([1.0 + i]).double(), "labels": int(target)}
             for i, (image, target) in enumerate(zip(images(5), TARGETS))]
    fv = swept(tmp_path, model=Scaled().eval(), data=items, layer_map={"inner.conv": ChannelConcept()})
    inputs, heatmaps = fv.get_max_reference(0, "inner.conv", composite=EpsilonPlusFlat(), plot_fn=None)[0]
    assert set(inputs) == set(heatmaps) == {"image", "scale"}
    assert inputs["image"].shape == (5, 1, 8, 8) and heatmaps["image"].shape == (5, 8, 8)
    sample = int(fv.run(EpsilonPlusFlat(), 0, 5, 7).top("inner.conv", 0).samples[0])
    torch.testing.assert_close(inputs["scale"][0], items[sample]["scale"])
    expected = fv.attribution(
        fv.get_data_sample(sample)[0], [{"inner.conv": [0]}], EpsilonPlusFlat(), start_layer="inner.conv",
    ).heatmap["image"]
    torch.testing.assert_close(heatmaps["image"][:1], expected)


# As users have it

def test_the_quickstart_of_zennit_crp(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5), nn.ReLU(), nn.Linear(5, 3)
    ).eval()
    dataset = TensorDataset(torch.rand(12, 3, 8, 8), torch.arange(12) % 3)
    composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
    attribution = CondAttribution(model)
    cc = ChannelConcept()
    layer_names = get_layer_names(model, [nn.Conv2d, nn.Linear])
    attr = attribution(dataset[0][0][None].requires_grad_(), [{"y": [1]}], composite, record_layer=layer_names)
    concept_ids = torch.argsort(cc.attribute(attr.relevances["0"]), descending=True)

    layer_map = {(name, cc) for name in layer_names}
    fv = FeatureVisualization(attribution, dataset, layer_map, path=str(tmp_path))
    fv.run(composite, 0, len(dataset))
    ref_c = fv.get_max_reference(concept_ids[0, :5], "0", "relevance", composite=composite)
    assert list(ref_c) == concept_ids[0, :5].tolist()
    figure = plot_grid(ref_c)
    assert len(figure.axes) == 2 * 5 * 8


class Attached(FeatureVisualization):
    """Gives samples that require gradients, as a dict, or of different sizes."""

    def get_data_sample(self, index, preprocessing=True):
        data, target = super().get_data_sample(index, preprocessing)
        data = data.clone().requires_grad_()
        return ((data,) if self.wrapped and not preprocessing else data), target


@pytest.mark.parametrize("composite", [None, EpsilonPlusFlat()])
@pytest.mark.parametrize("wrapped", [False, True])
def test_references_and_heatmaps_are_handed_out_detached(fv, wrapped, composite):
    own = Attached(fv.attribution, fv.dataset, fv.layer_map, path=fv.path)
    own.wrapped = wrapped
    for found in (
        own.get_max_reference(0, "conv", "activation", (0, 2), composite, plot_fn=None)[0],
        *own.get_stats_reference(0, "conv", 1, "activation", (0, 2), composite, plot_fn=None).values(),
    ):
        tensors = list_tensors(found)
        assert len(tensors) == 1 + (composite is not None)
        assert all(not tensor.requires_grad and tensor.device.type == "cpu" for tensor in tensors)
        assert tensors[0].numpy().shape[0] == 2


def test_samples_of_different_sizes_are_handed_out_detached():
    def sample(index, preprocessing=True):
        return torch.rand(1, 1, 8 + index, 8).requires_grad_(), 0

    references = {0: ([0], References(np.arange(2), np.ones(2), np.zeros(2, int)))}
    pictures = ReferencePictures(CondAttribution(small_model()), sample, "conv", ChannelConcept())
    first, second = pictures.draw(references, None, False, None, 8, None)[0]
    assert first.shape != second.shape and not first.requires_grad and not second.requires_grad
