"""Which samples are references."""
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from visualizations import MODES, SAMPLES, hooks_of, images, ranking, strengths, swept, visualization
from zennit.composites import EpsilonPlusFlat

from crp.store import StoreError

pytestmark = pytest.mark.usefixtures("quick")


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
