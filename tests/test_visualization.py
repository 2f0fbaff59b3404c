import functools
import platform
import random
import warnings
from collections import OrderedDict

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import TensorDataset
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.cache import ImageCache
from crp.concepts import ChannelConcept, Concept, Reading
from crp.helper import get_layer_names, load_maximization, load_stat_targets, load_statistics
from crp.image import imgify, plot_grid, vis_img_heatmap, vis_opaque_img
from crp.store import StoreError
from crp.visualization import FeatureVisualization

matplotlib.use("Agg")

SAMPLES, CLASSES, CHANNELS = 23, 3, 5
MODES = ["relevance", "activation"]
pytestmark = pytest.mark.usefixtures("quick")


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict([
        ("conv", nn.Conv2d(1, CHANNELS, 3)), ("relu", nn.ReLU()), ("conv2", nn.Conv2d(CHANNELS, 4, 3)),
        ("tanh", nn.Tanh()), ("flatten", nn.Flatten()), ("out", nn.Linear(64, CLASSES)),
    ])).double().eval()


def images(count=SAMPLES):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


TARGETS = torch.arange(SAMPLES) * 2 % CLASSES
MULTI_HOT = (torch.rand(SAMPLES, CLASSES, generator=torch.Generator().manual_seed(3)) > 0.5).long()


class Groups(Concept):
    """Two groups of channels."""

    members = [[0, 3], [1, 2, 4]]

    def _channels(self, groups):
        return [channel for group in groups for channel in self.members[group]]

    def mask(self, batch_id, concept_ids, layer_name=None):
        return ChannelConcept.mask(batch_id, self._channels(concept_ids), layer_name)

    def mask_rf(self, batch_id, neurons, layer_name=None):
        return ChannelConcept.mask_rf(
            batch_id, {channel: at for group, at in neurons.items() for channel in self.members[group]}, layer_name
        )

    def read(self, tensor, layer_name=None, max_target="sum"):
        grouped = torch.stack([tensor[:, channels].sum(1).flatten(1) for channels in self.members], 1)
        return Reading(grouped.sum(2) if max_target == "sum" else grouped.amax(2), grouped.argmax(2))


class SortedGroups(Concept):
    """The same groups, by the methods of zennit-crp only."""

    mask = Groups.mask
    members = Groups.members
    _channels = Groups._channels

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        value, position = Groups.read(self, relevance, layer_name, max_target)
        if abs_norm:
            value = value / value.abs().sum(1, keepdim=True)
        order = torch.argsort(value, dim=0, descending=True)
        return order, torch.gather(value, 0, order), torch.gather(position, 0, order)


class OldGroups(ChannelConcept):
    """A subclass whose static methods hide those of the base class, as users of zennit-crp wrote them."""

    members = Groups.members

    @staticmethod
    def mask(batch_id, concept_ids, layer_name=None):
        return Groups().mask(batch_id, concept_ids, layer_name)

    @staticmethod
    def mask_rf(batch_id, neurons, layer_name=None):
        return Groups().mask_rf(batch_id, neurons, layer_name)

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        return SortedGroups.reference_sampling(self, relevance, layer_name, max_target, abs_norm)


def visualization(path, model=None, data=None, layer_map=None, kind=FeatureVisualization, **arguments):
    attribution = CondAttribution(model if model is not None else small_model())
    layer_map = layer_map or {"conv": ChannelConcept(), "conv2": ChannelConcept(), "out": ChannelConcept()}
    return kind(attribution, data or TensorDataset(images(), TARGETS), layer_map, path=path, **arguments)


def swept(path, **arguments):
    fv = visualization(path, **arguments)
    fv.run(EpsilonPlusFlat(), 0, len(fv.dataset), batch_size=7)
    return fv


@pytest.fixture(scope="module")
def single_path(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("single")).path


@pytest.fixture(scope="module")
def multi_path(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("multi"), data=TensorDataset(images(), MULTI_HOT)).path


@pytest.fixture
def fv(single_path):
    return visualization(single_path)


@pytest.fixture
def multi(multi_path):
    return visualization(multi_path, data=TensorDataset(images(), MULTI_HOT))


def restate(model, inputs, targets, layer, mode, axis=1):
    """[rows, concepts, positions] of a layer, and the (sample, target) of each row, sample by sample."""
    attribution, rows, pairs = CondAttribution(model), [], []
    for sample, wanted in enumerate(targets):
        for target in wanted if mode == "relevance" else wanted[:1]:
            result = attribution(
                inputs[sample][None], [{"y": [target]}], EpsilonPlusFlat(), [layer], exclude_parallel=False
            )
            tensor = (result.relevances if mode == "relevance" else result.activations)[layer]
            rows.append(tensor.movedim(axis, 1)[0].flatten(1) if tensor.ndim > 2 else tensor[0][:, None])
            pairs.append((sample, target))
    return torch.stack(rows).numpy(), pairs


@functools.cache
def strengths(layer, mode, several=False):
    """The same for the small model and the images."""
    return restate(small_model(), images(), multiple() if several else single(), layer, mode)


def ranking(strength, pairs, concept, max_target="sum", abs_norm=True, target=None):
    """Samples, values and positions in descending order, restated."""
    values = strength.sum(2) if max_target == "sum" else strength.max(2)
    if abs_norm:
        values = values / np.abs(values).sum(1, keepdims=True)
    rows = [row for row in range(len(values)) if target is None or pairs[row][1] == target]
    rows.sort(key=lambda row: (-values[row, concept], row))
    return [pairs[row][0] for row in rows], values[rows, concept], strength[rows, concept].argmax(1)


def single(targets=TARGETS):
    return [[int(target)] for target in targets]


def multiple(targets=MULTI_HOT):
    return [torch.nonzero(bits)[:, 0].tolist() for bits in targets]


def heatmap_of(fv, sample, layer, concept, position=None, targets=None):
    """Heatmap of one sample and concept, restated with a call of its own."""
    concept_of_layer = fv.layer_map[layer]
    condition = {layer: [concept] if position is None else {concept: [position]}}
    if targets is not None:
        condition["y"] = targets
    return fv.attribution(
        fv.get_data_sample(sample)[0], [condition], EpsilonPlusFlat(),
        mask_map=concept_of_layer.mask if position is None else concept_of_layer.mask_rf,
        start_layer=None if targets is not None else layer, exclude_parallel=False,
    ).heatmap[0]


def hooks_of(model):
    return [
        hook for module in model.modules() for hooks in (
            module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
        ) for hook in hooks.values()
    ]


class CountSamples:
    """Counts the samples that a model is run on, within a context."""

    def __init__(self, model):
        self.model, self.total = model, 0

    def __enter__(self):
        self.handle = register_module_forward_pre_hook(self.add)
        return self

    def __exit__(self, *exception):
        self.handle.remove()

    def add(self, module, args):
        self.total += len(args[0]) if module is self.model else 0


# Which references

@pytest.mark.parametrize("ids", [
    [2, 0, 4], (2, 0, 4), np.array([2, 0, 4]), torch.tensor([2, 0, 4]), torch.tensor([2, 0, 4], dtype=torch.int32),
    [np.int64(2), 0, 4], [torch.tensor(2), torch.tensor(0), torch.tensor(4)],
])
def test_ids_in_any_form_come_back_as_python_ints(fv, ids):
    found = fv.get_max_reference(ids, "conv", plot_fn=None)
    assert list(found) == [2, 0, 4]
    assert all(type(key) is int for key in found)


@pytest.mark.parametrize("concept", [3, np.int64(3), torch.tensor(3), np.array(3), [3], torch.tensor([3])])
def test_a_single_id_in_any_form(fv, concept):
    assert [(key, type(key)) for key in fv.get_max_reference(concept, "conv", plot_fn=None)] == [(3, int)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_target", ["sum", "max"])
@pytest.mark.parametrize("abs_norm", [True, False])
def test_references_are_the_samples_with_the_largest_values(tmp_path, mode, max_target, abs_norm):
    fv = swept(tmp_path, max_target=max_target, abs_norm=abs_norm)
    for layer in ("conv", "conv2", "out"):
        strength, pairs = strengths(layer, mode)
        found = fv.get_max_reference(range(3), layer, mode, (0, 11), plot_fn=None)
        for concept, inputs in found.items():
            samples, _, _ = ranking(strength, pairs, concept, max_target, abs_norm)
            torch.testing.assert_close(inputs, images()[samples[:11]], rtol=0, atol=0)


def test_a_range_of_references_and_all_of_them(fv):
    every = fv.get_max_reference(1, "conv", r_range=(0, 100), plot_fn=None)[1]
    assert len(every) == SAMPLES
    for first, stop in [(0, 1), (2, 5), (20, 30)]:
        torch.testing.assert_close(fv.get_max_reference(1, "conv", r_range=(first, stop), plot_fn=None)[1],
                                   every[first:stop])
    assert len(fv.get_max_reference(1, "conv", plot_fn=None)[1]) == 8


def test_more_references_than_upstream_kept(tmp_path):
    data = TensorDataset(torch.rand(50, 1, 8, 8, dtype=torch.float64), torch.zeros(50, dtype=torch.long))
    fv = swept(tmp_path, data=data)
    inputs, heatmaps = fv.get_max_reference(0, "conv", r_range=(38, 50), plot_fn=None, composite=EpsilonPlusFlat())[0]
    assert len(inputs) == len(heatmaps) == 12


@pytest.mark.parametrize("ask, error, match", [
    (lambda fv: fv.get_max_reference(0, "convv"), ValueError, "did you mean 'conv"),
    (lambda fv: fv.get_max_reference(0, "tanh"), ValueError, "tanh"),
    (lambda fv: fv.get_max_reference(5, "conv"), IndexError, "0 to 4"),
    (lambda fv: fv.get_max_reference(0, "conv", "relevances"), ValueError, "'relevance' or 'activation'"),
    (lambda fv: fv.get_max_reference(0, "conv", r_range=(3, 3)), ValueError, "r_range"),
    (lambda fv: fv.get_max_reference(0, "conv", r_range=(-1, 3)), ValueError, "r_range"),
    (lambda fv: fv.get_max_reference(0, "conv", r_range=(SAMPLES, 30)), ValueError, f"{SAMPLES}"),
    (lambda fv: fv.get_max_reference(0.5, "conv"), TypeError, "integers"),
    (lambda fv: fv.get_stats_reference(0, "conv", 17), ValueError, "17"),
    (lambda fv: fv.compute_stats(0, "conv", "act"), ValueError, "'relevance' or 'activation'"),
    (lambda fv: fv.compute_stats(9, "conv"), IndexError, "0 to 4"),
    (lambda fv: fv.precompute_ref({"conv": [0]}, EpsilonPlusFlat()), ValueError, "cache"),
])
def test_bad_questions_are_refused(fv, ask, error, match):
    with pytest.raises(error, match=match):
        ask(fv)
    assert hooks_of(fv.attribution.model) == []


def test_references_before_a_sweep_are_refused(tmp_path):
    with pytest.raises(StoreError, match="run"):
        visualization(tmp_path / "nothing").get_max_reference(0, "conv")


# Heatmaps

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
    with CountSamples(fv.attribution.model) as counted:
        fv.get_max_reference(concepts, "conv", composite=EpsilonPlusFlat(), plot_fn=None, batch_size=5)
    assert counted.total == len(samples) < 8 * CHANNELS


def test_without_composite_the_model_is_not_run(fv):
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


# Concepts that are not channels on axis 1

def test_known_bug_channels_on_the_last_axis_are_honoured_everywhere(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict([
        ("token", nn.Linear(4, 6)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("out", nn.Linear(30, CLASSES)),
    ])).double().eval()
    data = TensorDataset(torch.rand(SAMPLES, 5, 4, dtype=torch.float64), TARGETS)
    fv = swept(tmp_path, model=model, data=data, layer_map={"token": ChannelConcept(axis=-1)})
    fv.attribution.heatmap_axis = -1
    for mode in MODES:
        strength, pairs = restate(model, data.tensors[0], single(), "token", mode, axis=-1)
        assert strength.shape == (SAMPLES, 6, 5)
        for rf in (False, True):
            found = fv.get_max_reference([5, 0], "token", mode, (0, 4), EpsilonPlusFlat(), rf, None)
            for concept, (inputs, heatmaps) in found.items():
                samples, _, positions = ranking(strength, pairs, concept)
                torch.testing.assert_close(inputs, data.tensors[0][samples[:4]])
                assert heatmaps.shape == (4, 5)
                expected = torch.stack([
                    heatmap_of(fv, sample, "token", concept, int(position) if rf else None)
                    for sample, position in zip(samples[:4], positions)
                ])
                torch.testing.assert_close(heatmaps, expected)
                if rf:
                    assert torch.equal(heatmaps.abs().argmax(1), torch.as_tensor(positions[:4]))
                    assert torch.all(torch.count_nonzero(heatmaps, 1) <= 1)


@pytest.mark.parametrize("concept", [Groups(), SortedGroups(), OldGroups()])
@pytest.mark.parametrize("max_target", ["sum", "max"])
@pytest.mark.parametrize("mode", MODES)
def test_known_bug_custom_concepts_are_honoured_everywhere(tmp_path, concept, max_target, mode):
    fv = swept(tmp_path, layer_map={"conv": concept}, max_target=max_target)
    strength, pairs = strengths("conv", mode)
    grouped = np.stack([strength[:, channels].sum(1) for channels in Groups.members], 1)
    found = fv.get_max_reference([0, 1], "conv", mode, (0, 5), EpsilonPlusFlat(), plot_fn=None)
    for group, (inputs, heatmaps) in found.items():
        samples, _, positions = ranking(grouped, pairs, group, max_target)
        torch.testing.assert_close(inputs, images()[samples[:5]])
        expected = torch.cat([
            fv.attribution(
                images()[sample][None], [{"conv": Groups.members[group]}], EpsilonPlusFlat(), start_layer="conv"
            ).heatmap for sample in samples[:5]
        ])
        torch.testing.assert_close(heatmaps, expected)
    targets, values = fv.compute_stats(1, "conv", mode, mean_N=3)
    expected_targets, expected_values = restate_stats(grouped, pairs, single(), 1, 3, max_target)
    assert targets.tolist() == expected_targets
    np.testing.assert_allclose(values, expected_values, rtol=1e-5)
    if not isinstance(concept, SortedGroups):
        _, heatmaps = fv.get_max_reference(0, "conv", mode, (0, 1), EpsilonPlusFlat(), True, None)[0]
        samples, _, positions = ranking(grouped, pairs, 0, max_target)
        at = {channel: [int(positions[0])] for channel in Groups.members[0]}
        expected = fv.attribution(images()[samples[:1]], [{"conv": at}], EpsilonPlusFlat(), start_layer="conv",
                                  mask_map=ChannelConcept.mask_rf)
        torch.testing.assert_close(heatmaps, expected.heatmap)


def test_layer_maps_as_pairs(tmp_path):
    concept = ChannelConcept()
    fv = swept(tmp_path, layer_map={("conv", concept), ("out", concept)})
    assert len(fv.get_max_reference(0, "conv", plot_fn=None)[0]) == 8


# Classes

def restate_stats(strength, pairs, targets, concept, mean_n, max_target="sum", abs_norm=True):
    """Classes by the mean of their best values, the best class first."""
    values = strength.sum(2) if max_target == "sum" else strength.max(2)
    if abs_norm:
        values = values / np.abs(values).sum(1, keepdims=True)
    of_class = {}
    is_relevance = len(pairs) != len(targets) or all(len(wanted) == 1 for wanted in targets)
    for row, (sample, target) in enumerate(pairs):
        for label in [target] if is_relevance else targets[sample]:
            of_class.setdefault(label, []).append(values[row, concept])
    means = {label: np.mean(sorted(found)[::-1][:mean_n]) for label, found in of_class.items()}
    order = sorted(means, key=lambda label: (-means[label], label))
    return order, np.array([means[label] for label in order])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mean_n", [1, 3, 10, 100])
def test_known_bug_statistics_of_classes_restated(fv, mode, mean_n):
    for layer in ("conv", "out"):
        strength, pairs = strengths(layer, mode)
        for concept in range(3):
            targets, values = restate_stats(strength, pairs, single(), concept, mean_n)
            for top_n in (1, 2, 5):
                found_targets, found_values = fv.compute_stats(concept, layer, mode, top_n, mean_n)
                assert found_targets.tolist() == targets[:top_n]
                np.testing.assert_allclose(found_values, values[:top_n], rtol=1e-4)
                if values[0] != 0:
                    _, normed = fv.compute_stats(concept, layer, mode, top_n, mean_n, norm=True)
                    np.testing.assert_allclose(normed, (values / values[0])[:top_n], rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_samples_with_several_classes(multi, mode):
    usable = [(sample, wanted) for sample, wanted in enumerate(multiple()) if wanted]
    strength, pairs = strengths("conv", mode, several=True)
    for concept in range(CHANNELS):
        values = strength.sum(2) / np.abs(strength.sum(2)).sum(1, keepdims=True)
        of_class = {label: [] for label in range(CLASSES)}
        for row, (sample, target) in enumerate(pairs):
            for label in [target] if mode == "relevance" else dict(usable)[sample]:
                of_class[label].append(values[row, concept])
        means = np.array([np.mean(sorted(of_class[label])[::-1][:4]) for label in range(CLASSES)])
        targets, found = multi.compute_stats(concept, "conv", mode, mean_N=4)
        assert targets.tolist() == np.argsort(-means).tolist()
        np.testing.assert_allclose(found, np.sort(means)[::-1], rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", ["fv", "multi"])
def test_references_within_classes(request, which, mode):
    fv = request.getfixturevalue(which)
    wanted = single() if which == "fv" else multiple()
    strength, pairs = strengths("conv", mode, several=which == "multi")
    found = fv.get_stats_reference(
        2, "conv", torch.tensor([1, 0]), mode, (0, 3), composite=EpsilonPlusFlat(), plot_fn=None
    )
    assert list(found) == ["2:1", "2:0"]
    for target in (1, 0):
        if mode == "activation":
            labelled = [(sample, target if target in wanted[sample] else -1) for sample, _ in pairs]
        else:
            labelled = pairs
        samples, _, _ = ranking(strength, labelled, 2, target=target)
        inputs, heatmaps = found[f"2:{target}"]
        torch.testing.assert_close(inputs, images()[samples[:3]])
        torch.testing.assert_close(heatmaps, torch.stack([heatmap_of(fv, i, "conv", 2) for i in samples[:3]]))


@pytest.mark.parametrize("targets", [1, [1], np.array([1]), torch.tensor(1), np.int64(1)])
def test_classes_in_any_form(fv, targets):
    assert list(fv.get_stats_reference(0, "conv", targets, plot_fn=None)) == ["0:1"]


@pytest.mark.parametrize("concept", [3, [3], torch.tensor(3)])
def test_the_concept_of_class_references_in_any_form(fv, concept):
    targets, _ = fv.compute_stats(concept, "conv")
    found = fv.get_stats_reference(concept, "conv", targets, plot_fn=vis_opaque_img, composite=EpsilonPlusFlat())
    assert set(found) == {"3:0", "3:1", "3:2"}


# The functions that load results

@pytest.mark.parametrize("mode, results", [("relevance", "Rel"), ("activation", "Act")])
@pytest.mark.parametrize("max_target, abs_norm", [("sum", True), ("sum", False), ("max", True)])
def test_results_are_loaded_by_their_paths(tmp_path, mode, results, max_target, abs_norm):
    fv = swept(tmp_path, max_target=max_target, abs_norm=abs_norm)
    path = getattr(fv, f"{results}Max").PATH
    assert path.name == f"{results}Max_{max_target}_{'normed' if abs_norm else 'unnormed'}"
    samples, values, positions = load_maximization(path, "conv")
    strength, pairs = strengths("conv", mode)
    assert samples.shape == values.shape == positions.shape == (SAMPLES, CHANNELS)
    for concept in range(CHANNELS):
        expected = ranking(strength, pairs, concept, max_target, abs_norm)
        assert samples[:, concept].tolist() == expected[0]
        np.testing.assert_allclose(values[:, concept], expected[1], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(positions[:, concept], expected[2])

    path = getattr(fv, f"{results}Stats").PATH
    assert load_stat_targets(path).tolist() == [0, 1, 2]
    for target in range(CLASSES):
        samples, values, positions = load_statistics(str(path), "conv", target)
        for concept in range(CHANNELS):
            expected = ranking(strength, pairs, concept, max_target, abs_norm, target)
            assert samples[:, concept].tolist() == expected[0]
            np.testing.assert_allclose(values[:, concept], expected[1], rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(positions[:, concept], expected[2])


def test_results_hold_at_most_forty_samples(tmp_path):
    data = TensorDataset(torch.rand(90, 1, 8, 8, dtype=torch.float64), torch.arange(90) % 2)
    fv = swept(tmp_path, data=data)
    assert load_maximization(fv.RelMax.PATH, "conv")[0].shape == (40, CHANNELS)
    assert load_statistics(fv.ActStats.PATH, "conv", 1)[0].shape == (40, CHANNELS)


@pytest.mark.parametrize("load", [
    lambda fv: load_maximization(fv.RelMax.PATH, "cnv"), lambda fv: load_statistics(fv.RelStats.PATH, "conv", 17),
    lambda fv: load_maximization(fv.path / "Nonsense", "conv"),
])
def test_results_that_do_not_exist(fv, load):
    with pytest.raises(StoreError):
        load(fv)


# The cache

def same_pictures(one, other):
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(same_pictures, one, other))
    return isinstance(other, list) and len(one) == len(other) and all(
        np.array_equal(np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))) for a, b in zip(one, other)
    )


@pytest.fixture
def cached(fv, tmp_path):
    fv.cache = ImageCache(tmp_path / "cache")
    return fv


@pytest.mark.parametrize("plot_fn", [vis_img_heatmap, vis_opaque_img])
@pytest.mark.parametrize("concepts", [[0, 2], 1])
def test_known_bug_pictures_come_from_the_cache_the_second_time(cached, plot_fn, concepts):
    arguments = {"composite": EpsilonPlusFlat(), "plot_fn": plot_fn, "r_range": (0, 11)}
    made = cached.get_max_reference(concepts, "conv", **arguments)
    with CountSamples(cached.attribution.model) as counted:
        loaded = cached.get_max_reference(concepts, "conv", **arguments)
    assert counted.total == 0
    assert list(loaded) == list(made) and all(type(key) is int for key in loaded)
    assert all(same_pictures(made[key], loaded[key]) for key in made)
    assert plot_grid(loaded) is not None


def test_only_what_the_cache_lacks_is_made(cached):
    first = cached.get_max_reference([1, 2], "conv", composite=EpsilonPlusFlat())
    with CountSamples(cached.attribution.model) as counted:
        found = cached.get_max_reference([2, 0, 1], "conv", composite=EpsilonPlusFlat(), r_range=(0, 8))
    assert counted.total == 8
    assert list(found) == [2, 0, 1]
    assert same_pictures(found[1], first[1]) and same_pictures(found[2], first[2])


def test_overwrite_makes_pictures_anew(cached):
    made = cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())
    for file in cached.cache.path.rglob("*.png"):
        Image.new("L", (3, 3)).save(file)
    assert not same_pictures(cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1], made[1])
    again = cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat(), overwrite=True)
    assert same_pictures(again[1], made[1])
    assert same_pictures(cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1], made[1])


def test_without_plot_fn_the_cache_is_not_asked(cached):
    found = [cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat(), plot_fn=None)[1] for _ in range(2)]
    assert all(isinstance(part, torch.Tensor) for pair in found for part in pair)
    assert not cached.cache.path.exists()


BASE = {"concept_ids": 1, "layer_name": "conv", "mode": "relevance", "r_range": (0, 2), "rf": False, "targets": None,
        "plot_fn": functools.partial(vis_opaque_img, alpha=0.3)}
OTHER_ARGUMENTS = {
    "concept": {"concept_ids": 2}, "layer": {"layer_name": "conv2"}, "mode": {"mode": "activation"},
    "range": {"r_range": (0, 3)}, "later range": {"r_range": (1, 3)}, "rf": {"rf": True}, "targets": {"targets": 1},
    "plot_fn": {"plot_fn": vis_img_heatmap}, "parameter": {"plot_fn": functools.partial(vis_opaque_img, alpha=0.1)},
    "other parameter": {"plot_fn": functools.partial(vis_opaque_img, vis_th=0.3)},
    "composite parameter": {"mode": "activation", "composite": EpsilonPlusFlat(epsilon=1e-2)},
    "canonizer": {"mode": "activation", "composite": EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])},
}


@pytest.mark.parametrize("what", OTHER_ARGUMENTS)
def test_known_bug_pictures_of_other_arguments_are_not_taken_from_the_cache(cached, what):
    def ask(**arguments):
        with CountSamples(cached.attribution.model) as counted:
            cached.get_max_reference(**{"composite": EpsilonPlusFlat(), **BASE, **arguments})
        return counted.total

    assert ask() > 0
    assert ask(**OTHER_ARGUMENTS[what]) > 0
    assert ask() == ask(**OTHER_ARGUMENTS[what]) == 0


def test_a_composite_is_part_of_the_key(cached):
    plain = cached.get_max_reference(1, "conv")
    assert not same_pictures(plain[1], cached.get_max_reference(1, "conv", composite=EpsilonPlusFlat())[1])


class Absolute(CondAttribution):
    def heatmap_modifier(self, data, on_device=None):
        return super().heatmap_modifier(data, on_device).abs()


class Negative(FeatureVisualization):
    def get_data_sample(self, index, preprocessing=True):
        data, target = super().get_data_sample(index, preprocessing)
        return data if preprocessing else 1 - data, target


@pytest.mark.parametrize("what", ["max_target", "abs_norm", "sweep", "attribution", "samples"])
def test_pictures_of_another_analysis_are_not_taken_from_the_cache(tmp_path, what):
    def ask(fv):
        with CountSamples(fv.attribution.model) as counted:
            fv.get_max_reference(1, "conv", "activation", composite=EpsilonPlusFlat())
        return counted.total

    path, cache = tmp_path / "store", ImageCache(tmp_path / "cache")
    first = swept(path, cache=cache, max_target="max")
    assert ask(first) > 0 and ask(first) == 0
    common = {"path": path, "cache": cache, "max_target": "max"}
    if what == "max_target":
        other = visualization(**{**common, "max_target": "sum"})
    elif what == "abs_norm":
        other = visualization(abs_norm=False, **common)
    elif what == "sweep":
        other = visualization(**common)
        other.run(EpsilonPlusFlat(epsilon=1e-2), 0, SAMPLES, batch_size=7, overwrite=True)
    elif what == "attribution":
        other = visualization(**common)
        other.attribution = Absolute(other.attribution.model)
    else:
        other = visualization(kind=Negative, **common)
    assert ask(other) > 0


def edited_model(edit):
    model = small_model()
    edit(model)
    return model


class Tempered(nn.Sequential):
    def forward(self, data):
        return super().forward(data) / 2


READ_WITH = {
    "weights": ({"model": small_model(seed=7)}, "model.weights is .* there and .* here"),
    "one weight": ({"model": edited_model(lambda m: m.conv.weight.data[1, 0, 2].neg_())}, "model.weights"),
    "precision": ({"model": small_model().float()}, "model.weights"),
    "code": ({"model": Tempered(OrderedDict(small_model()._modules)).eval()}, "model.class .*Tempered"),
    "attribute": ({"model": edited_model(lambda m: setattr(m.conv, "padding_mode", "reflect"))}, "model.attributes"),
    "training mode": ({"model": small_model().train()}, "model.modules in training mode is 0 there and 7 here"),
    "fewer samples": ({"data": TensorDataset(images()[:5], TARGETS[:5])}, "dataset.length is 23 there and 5 here"),
    "samples": ({"data": TensorDataset(images() ** 2, TARGETS)}, "dataset.samples"),
    "targets": ({"data": TensorDataset(images(), (TARGETS + 1) % CLASSES)}, "dataset.targets"),
    "preprocessing": ({"preprocess_fn": lambda data: data / 2}, "dataset.samples"),
    "concept": ({"layer_map": {"conv": ChannelConcept(axis=-1)}}, "layers.conv.concept"),
    "hook": ({"model": edited_model(lambda m: m.relu.register_forward_hook(lambda module, args, output: output * 0))},
             "model.hooks.relu is absent there"),
    "list": ({"model": edited_model(lambda m: setattr(m.conv, "extra", [1, 2]))}, "model.attributes.conv"),
    "function": ({"model": edited_model(lambda m: setattr(m.tanh, "act", torch.relu))}, "model.attributes.tanh"),
    "free tensor": ({"model": edited_model(lambda m: setattr(m, "mean", torch.ones(2)))}, "model.attributes.itself"),
}
READERS = {
    "max": lambda fv, mode, composite: fv.get_max_reference(0, "conv", mode, composite=composite),
    "stats": lambda fv, mode, composite: fv.get_stats_reference(0, "conv", 1, mode, composite=composite),
    "compute": lambda fv, mode, composite: fv.compute_stats(0, "conv", mode),
    "patterns": lambda fv, mode, composite: fv.find_patterns("conv", mode, min_pattern_size=2, min_samples=2),
    "pattern": lambda fv, mode, composite: fv.get_pattern_reference(0, "conv", mode, composite=composite),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("what", READ_WITH)
def test_a_store_is_not_read_with_what_it_was_not_made_with(single_path, what, reader):
    arguments, difference = READ_WITH[what]
    other = visualization(single_path, **arguments)
    with CountSamples(other.attribution.model) as counted:
        for mode in MODES:
            with pytest.raises(StoreError, match=f"{difference}.*overwrite=True"):
                READERS[reader](other, mode, EpsilonPlusFlat())
    assert counted.total <= len(MODES)  # a sample each, for models that make something in their first pass


@pytest.mark.parametrize("reader", ["max", "stats"])
@pytest.mark.parametrize("composite, difference", [
    (EpsilonPlusFlat(epsilon=1e-2), "composite.rules.out"), (EpsilonGammaBox(-1., 1.), "composite.class"),
    (EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()]), "composite.canonizers"),
])
def test_relevance_is_not_mixed_with_heatmaps_of_another_composite(single_path, reader, composite, difference):
    fv = visualization(single_path)
    with pytest.raises(StoreError, match=difference):
        READERS[reader](fv, "relevance", composite)
    READERS[reader](fv, "activation", composite)
    READERS[reader](fv, "relevance", None)


@pytest.mark.parametrize("reader", ["max", "stats", "compute", "patterns"])
@pytest.mark.parametrize("make, difference", [
    (lambda model: CondAttribution(model, functional=False), "attribution.functional is 'attnlrp' there and False"),
    (lambda model: CondAttribution(model, functional="cp-lrp"), "attribution.functional"),
    (lambda model: CondAttribution(model, accelerate=False), "attribution.accelerate"),
    (lambda model: CondAttribution(model, output=lambda output: output * 2), "attribution.output"),
    (Absolute, "attribution.class is 'CondAttribution' there and 'Absolute' here"),
])
def test_relevance_is_not_read_with_another_attribution(single_path, reader, make, difference):
    fv = visualization(single_path)
    fv.attribution = make(fv.attribution.model)
    with pytest.raises(StoreError, match=difference):
        READERS[reader](fv, "relevance", EpsilonPlusFlat())
    READERS[reader](fv, "activation", EpsilonPlusFlat())


def test_weights_that_change_between_two_readings_are_noticed(single_path):
    fv = visualization(single_path)
    weight = fv.attribution.model.conv2.weight
    before = weight.detach().clone()
    fv.compute_stats(0, "conv")
    for edit in (
        lambda: weight.data.neg_(), lambda: weight.detach().copy_(before.flip(0)),
        lambda: setattr(weight, "data", before.flip(0)), lambda: nn.init.zeros_(weight),
    ):
        edit()
        with pytest.raises(StoreError, match="model.weights"):
            fv.compute_stats(0, "conv")
        weight.data.copy_(before)
        fv.compute_stats(0, "conv")


def test_code_is_not_compared_between_versions_of_python(tmp_path, monkeypatch):
    class Own(nn.Sequential):
        def forward(self, data):
            return super().forward(data) * 2

    fv = swept(tmp_path, model=Own(OrderedDict(small_model()._modules)).eval())
    Own.forward = lambda self, data: nn.Sequential.forward(self, data) * 3
    with pytest.raises(StoreError, match="model.code"):
        fv.compute_stats(0, "conv")
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    fv.compute_stats(0, "conv")
    fv.attribution.model.conv.weight.data.zero_()
    with pytest.raises(StoreError, match="model.weights.*made with Python 3.*, and this is 3.99.1"):
        fv.compute_stats(0, "conv")


class Counting(nn.Sequential):
    """Counts its passes, and makes a buffer in the first."""

    calls = 0

    def forward(self, data):
        self.calls += 1
        if not hasattr(self, "shape"):
            self.register_buffer("shape", torch.tensor(data.shape[1:]), persistent=False)
        return super().forward(data)


def counting_model():
    return Counting(OrderedDict(small_model()._modules)).eval()


@pytest.mark.parametrize("has_run", [False, True])
def test_what_passes_change_by_themselves_makes_no_other_model(tmp_path, has_run):
    model = counting_model()
    if has_run:
        model(images(1))
    fv = swept(tmp_path, model=model)
    fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
    fv.compute_stats(0, "conv")
    fresh = visualization(tmp_path, model=counting_model())
    fresh.compute_stats(0, "conv")
    fresh.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
    fresh.compute_stats(0, "conv")
    model.shape += 1
    if has_run:
        with pytest.raises(StoreError, match="model.weights"):
            fv.compute_stats(0, "conv")


class LateLayer(nn.Sequential):
    """Makes a layer in its first pass, and remembers the size of the last input."""

    def forward(self, data):
        self.size = data.shape[-1]
        if not hasattr(self, "late"):
            self.add_module("late", nn.Identity().eval())
        return super().forward(data)


def test_what_the_first_pass_makes_is_made_before_a_store_is_refused(tmp_path):
    def make():
        return LateLayer(OrderedDict(small_model()._modules)).eval()

    model = make()
    model(images(1))
    swept(tmp_path, model=model)
    assert visualization(tmp_path, model=make()).get_max_reference(0, "conv", plot_fn=None)


class Random(TensorDataset):
    """Another sample each time, with the same target."""

    def __getitem__(self, index):
        data, target = super().__getitem__(index)
        return self.distort(data), target


class RandomFlips(Random):
    def distort(self, data):
        return data.flip(-1) if torch.rand(()) < .1 and np.random.random() < .9 and random.random() < .9 else data


class OwnNumbers(Random):
    def distort(self, data):
        self.generator = getattr(self, "generator", None) or torch.Generator()
        return data + torch.rand(data.shape, generator=self.generator)


@pytest.mark.parametrize("kind", [RandomFlips, OwnNumbers])
def test_datasets_that_give_other_samples_each_time(tmp_path, kind):
    fv = visualization(tmp_path, data=kind(images(), TARGETS))
    sweep = fv.sweep(EpsilonPlusFlat())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sweep.settings["dataset"]["length"] == SAMPLES
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert kind is RandomFlips or any("other samples each time" in str(one.message) for one in caught)
    for _ in range(10):
        fv.run(EpsilonPlusFlat(), 0, SAMPLES, batch_size=7)
        assert len(fv.get_max_reference(0, "conv", plot_fn=None)[0]) == 8
    other = visualization(tmp_path, data=kind(images(), (TARGETS + 1) % CLASSES))
    with pytest.raises(StoreError, match="dataset.targets"):
        other.get_max_reference(0, "conv")
    if kind is RandomFlips:
        with pytest.raises(StoreError, match="dataset.samples"):
            visualization(tmp_path, data=kind(images() ** 2, TARGETS)).get_max_reference(0, "conv")


def test_an_attribution_is_known_by_what_it_was_made_with(tmp_path):
    class Powered(CondAttribution):
        def __init__(self, model, power):
            super().__init__(model)
            self.power = power

        def relevance_init(self, prediction, target_list, init_rel):
            return self.power * super().relevance_init(prediction, target_list, init_rel)

    fv = visualization(tmp_path)
    fv.attribution = Powered(fv.attribution.model, 1)
    fv.run(EpsilonPlusFlat(), 0, SAMPLES)
    fv.attribution = Powered(fv.attribution.model, 1)
    fv.compute_stats(0, "conv")
    fv.attribution = Powered(fv.attribution.model, 1000)
    for ask in (lambda: fv.compute_stats(0, "conv"), lambda: fv.run(EpsilonPlusFlat(), 0, SAMPLES)):
        with pytest.raises(StoreError, match="attribution.attributes"):
            ask()
    Powered.relevance_init = lambda self, prediction, target_list, init_rel: prediction * 0
    fv.attribution = Powered(fv.attribution.model, 1)
    with pytest.raises(StoreError, match="attribution.code"):
        fv.compute_stats(0, "conv")


def test_models_that_count_their_passes_have_pictures_in_the_cache(tmp_path):
    fv = swept(tmp_path / "store", model=counting_model(), cache=ImageCache(tmp_path / "cache"))
    for _ in range(3):
        fv.get_max_reference(1, "conv", composite=EpsilonPlusFlat())
    assert len(list((tmp_path / "cache").glob("*"))) == 1


@pytest.mark.parametrize("ask, error, message", [
    (lambda fv: fv.compute_stats([1, 2], "conv"), ValueError, "one concept id"),
    (lambda fv: fv.compute_stats(1, "conv", top_N=0), ValueError, "at least 1"),
    (lambda fv: fv.compute_stats(1, "conv", mean_N=0), ValueError, "at least 1"),
    (lambda fv: fv.get_stats_reference([1, 2], "conv", 1), ValueError, "one concept id"),
    (lambda fv: fv.get_max_reference(1, "conv", r_range=8), TypeError, "pair of integers"),
    (lambda fv: fv.get_max_reference(1, "conv", r_range=(0, 8.5)), TypeError, "pair of integers"),
    (lambda fv: fv.get_max_reference(1, "conv", batch_size=0), ValueError, "batch_size"),
    (lambda fv: fv.run(EpsilonPlusFlat, 0, 3, overwrite=True), TypeError, r"EpsilonPlusFlat\(\)"),
    (lambda fv: fv.run(None, 0, 3, overwrite=True), TypeError, r"Composite\(\)"),
    (lambda fv: FeatureVisualization(fv.attribution.model, fv.dataset, fv.layer_map), TypeError, "CondAttribution"),
    (lambda fv: FeatureVisualization(fv.attribution, fv.dataset, ["conv"]), TypeError, "layer_map maps layers"),
    (lambda fv: FeatureVisualization(fv.attribution, fv.dataset, {"conv": ChannelConcept}), TypeError,
     r"ChannelConcept\(\)"),
])
def test_arguments_of_the_wrong_kind_are_refused_by_name(fv, ask, error, message):
    with pytest.raises(error, match=message):
        ask(fv)


def test_precomputed_references_are_in_the_cache(cached):
    composite = EpsilonPlusFlat()
    cached.precompute_ref({"conv": [0, 3], "conv2": torch.tensor([1])}, composite, rf=True, stats=True, top_N=2,
                          plot_list=[vis_opaque_img, vis_img_heatmap])
    with CountSamples(cached.attribution.model) as counted:
        for plot_fn in (vis_opaque_img, vis_img_heatmap):
            cached.get_max_reference([0, 3], "conv", composite=composite, rf=True, plot_fn=plot_fn)
            cached.get_max_reference(1, "conv2", composite=composite, rf=True, plot_fn=plot_fn)
            targets, _ = cached.compute_stats(3, "conv", top_N=2)
            cached.get_stats_reference(3, "conv", targets, composite=composite, rf=True, plot_fn=plot_fn)
    assert counted.total == 0
    with CountSamples(cached.attribution.model) as counted:
        cached.get_max_reference([0, 3], "conv", composite=composite, rf=False, plot_fn=vis_opaque_img)
    assert counted.total > 0


def test_precomputing_makes_opaque_receptive_fields_by_default(cached):
    cached.precompute_ref({"conv": [0]}, EpsilonPlusFlat())
    with CountSamples(cached.attribution.model) as counted:
        cached.get_max_reference(0, "conv", composite=EpsilonPlusFlat(), rf=True, plot_fn=vis_opaque_img)
    assert counted.total == 0


def test_class_references_are_cached_under_their_own_ids(cached):
    for _ in range(2):
        found = cached.get_stats_reference(1, "conv", [0, 2], composite=EpsilonPlusFlat())
        assert list(found) == ["1:0", "1:2"]
    with CountSamples(cached.attribution.model) as counted:
        cached.get_stats_reference(1, "conv", [2, 1], composite=EpsilonPlusFlat(), r_range=(0, 8))
    assert 0 < counted.total <= 8


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
