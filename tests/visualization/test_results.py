"""The functions that load results."""
import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from visualizations import CHANNELS, CLASSES, SAMPLES, ranking, strengths, swept

from crp.helper import load_maximization, load_stat_targets, load_statistics
from crp.store import StoreError

pytestmark = pytest.mark.usefixtures("quick")


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
