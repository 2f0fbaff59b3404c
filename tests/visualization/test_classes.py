"""References and statistics of classes."""
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from visualizations import (
    CHANNELS,
    CLASSES,
    MODES,
    MULTI_HOT,
    heatmap_of,
    images,
    multiple,
    ranking,
    restate_stats,
    single,
    strengths,
    swept,
    visualization,
)
from zennit.composites import EpsilonPlusFlat

from crp.image import vis_opaque_img

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def multi_path(tmp_path_factory):
    return swept(tmp_path_factory.mktemp("multi"), data=TensorDataset(images(), MULTI_HOT)).path


@pytest.fixture
def multi(multi_path):
    return visualization(multi_path, data=TensorDataset(images(), MULTI_HOT))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mean_n", [1, 10, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 100))])
def test_known_bug_statistics_of_classes_restated(fv, mode, mean_n):
    for layer in ("conv", "out"):
        strength, pairs = strengths(layer, mode)
        for concept in range(3):
            targets, values = restate_stats(strength, pairs, single(), concept, mean_n)
            for top_n in (1, 2, 5):
                found_targets, found_values = fv.compute_stats(concept, layer, mode, top_n, mean_n)
                assert np.ravel(found_targets).tolist() == targets[:top_n]
                np.testing.assert_allclose(found_values, values[:top_n], rtol=1e-4)
                if values[0] != 0:
                    _, normed = fv.compute_stats(concept, layer, mode, top_n, mean_n, norm=True)
                    np.testing.assert_allclose(normed, (values / values[0])[:top_n], rtol=1e-4)


def test_statistics_are_an_array_and_a_tensor_and_one_class_is_a_scalar(fv):
    targets, values = fv.compute_stats(0, "conv", top_N=2)
    assert isinstance(targets, np.ndarray) and targets.shape == (2,)
    assert isinstance(values, torch.Tensor) and values.dtype == torch.float32 and values.shape == (2,)
    target, value = fv.compute_stats(0, "conv", top_N=1)
    assert np.ndim(target) == 0 and target == targets[0] and value.shape == (1,)
    for given in (target, [target], np.array([target]), [np.array([target])], torch.tensor([target])):
        found = fv.get_stats_reference(0, "conv", given, r_range=(0, 2), plot_fn=None)
        assert list(found) == [f"0:{targets[0]}"]


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
