"""Rankings that are put in the place of others, and the files of zennit-crp that show what a store holds."""
import os

import large_sweeps
import numpy as np
import pytest
from visualizations import CLASSES, visualization
from zennit.composites import EpsilonPlusFlat

from crp.helper import load_maximization, load_stat_targets, load_statistics
from crp.maximization import Maximization
from crp.statistics import Statistics
from crp.store import ReferenceStore, StoreError, verify

COMPOSITE = EpsilonPlusFlat()
PARTS = "data", "rel", "rf"


def files_of(folder, stem):
    return tuple(np.load(folder / f"{stem}_{part}.npy", allow_pickle=False) for part in PARTS)


def equal(one, other):
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


def test_the_folder_of_results_is_there_and_holds_files_after_the_sweep(tmp_path):
    fv = visualization(tmp_path / "fv")
    folder = fv.RelMax.PATH
    assert os.listdir(folder) == []
    store = fv.run(COMPOSITE, 0, 23, 8)
    assert folder == tmp_path / "fv" / "RelMax_sum_normed" and folder.is_dir()
    assert sorted(os.listdir(folder)) == sorted(f"{layer}_{part}.npy" for layer in store.layers for part in PARTS)
    for layer in store.layers:
        samples, values, positions = files_of(folder, layer)
        assert equal((samples, values, positions), load_maximization(folder, layer))
        assert equal((samples, values, positions), store.sorted_rows(layer))
        shares = store.values(layer, normalised=True)[:]
        assert samples.shape == (23, shares.shape[1]) and np.array_equal(values, np.sort(shares, axis=0)[::-1])
    assert equal(files_of(fv.ActMax.PATH, "conv"), store.sorted_rows("conv", "activation"))
    assert verify(tmp_path / "fv") == [] and not list(tmp_path.rglob(".*"))


def test_files_of_classes(tmp_path):
    fv = visualization(tmp_path)
    store = fv.run(COMPOSITE, 0, 23, 8)
    folder = fv.RelStats.PATH
    assert np.load(folder / "targets.npy", allow_pickle=False).tolist() == [str(i) for i in range(CLASSES)]
    for layer in store.layers:
        for target in range(CLASSES):
            assert equal(files_of(folder / layer, target), load_statistics(folder, layer, target))
            assert equal(files_of(folder / layer, target), store.sorted_rows(layer, target=target))
    assert load_stat_targets(folder).tolist() == list(range(CLASSES))
    assert verify(tmp_path) == []


@pytest.mark.parametrize("size", [3, 40, 50, 100])
def test_how_many_samples_are_kept(tmp_path, size):
    fv = visualization(tmp_path)
    fv.RelMax.SAMPLE_SIZE = size
    store = fv.run(COMPOSITE, 0, 23, 8)
    rows = min(size, 23)
    found = load_maximization(fv.RelMax.PATH, "conv")
    assert found[0].shape == (rows, 5) and equal(found, store.sorted_rows("conv", k=size))
    fv.RelMax.SAMPLE_SIZE = 7
    assert load_maximization(fv.RelMax.PATH, "conv")[0].shape == (7, 5)
    assert load_maximization(fv.ActMax.PATH, "conv")[0].shape == (23, 5)


def test_more_rows_than_a_table_has(tmp_path):
    fv = large_sweeps.visualization(tmp_path, large_sweeps.Images(length=60))
    fv.RelMax.SAMPLE_SIZE = 50
    store = fv.run(COMPOSITE, 0, 60, 8)
    samples, values, positions = load_maximization(fv.RelMax.PATH, "conv")
    shares = store.values("conv", normalised=True)[:]
    order = np.argsort(-shares, axis=0, kind="stable")[:50]
    assert np.array_equal(samples, order) and np.array_equal(values, np.take_along_axis(shares, order, 0))
    assert np.array_equal(positions, np.take_along_axis(store.positions("conv")[:], order, 0))


def test_other_rankings(tmp_path):
    fv = visualization(tmp_path)
    fv.RelMax = Maximization("relevance", "max", False, path=tmp_path / "elsewhere")
    fv.ActStats = Statistics("activation", "sum", False, path=str(tmp_path))
    store = fv.run(COMPOSITE, 0, 23, 8)
    assert store.statistics == ["sum", "max"]
    assert fv.RelMax.PATH == tmp_path / "elsewhere" / "RelMax_max_unnormed"
    expected = store.sorted_rows("conv", statistic="max", normalised=False)
    assert equal(load_maximization(fv.RelMax.PATH, "conv"), expected)
    found = fv.get_max_reference([1], "conv", r_range=(0, 4), plot_fn=None)[1]
    given = np.concatenate([fv.get_data_sample(int(i), preprocessing=False)[0] for i in expected[0][:4, 1]])
    assert np.array_equal(found, given)
    targets, values = fv.compute_stats(1, "conv", "activation", mean_N=2)
    raw, classes = store.values("conv", "activation")[:, 1], store.rows("activation")["sample"] * 2 % CLASSES
    means = np.array([np.sort(raw[classes == target])[-2:].mean() for target in range(CLASSES)])
    assert targets.tolist() == np.argsort(-means).tolist()
    np.testing.assert_allclose(values, np.sort(means)[::-1], rtol=1e-6)


@pytest.mark.parametrize("value", [Statistics("relevance"), Maximization("activation"), "folder", None])
def test_attributes_take_their_own_kind(fv, value):
    with pytest.raises(TypeError, match=r"RelMax is a Maximization\('relevance', ...\), not"):
        fv.RelMax = value


def test_arguments():
    with pytest.raises(ValueError, match="mode is 'relevance' or 'activation'"):
        Maximization("relevances")
    with pytest.raises(ValueError, match="max_target"):
        Statistics(max_target="mean")


def test_the_files_follow_the_store(tmp_path):
    fv = visualization(tmp_path)
    fv.run(COMPOSITE, 0, 23, 8)
    folder = fv.RelMax.PATH
    store = fv.run(EpsilonPlusFlat(epsilon=.5), 0, 23, 8, overwrite=True)
    assert equal(files_of(folder, "conv2"), store.sorted_rows("conv2")) and verify(tmp_path) == []
    again = visualization(tmp_path)
    (folder / "conv2_data.npy").unlink()
    assert equal(files_of(again.RelMax.PATH, "conv2"), store.sorted_rows("conv2"))


def test_nothing_is_written_through_links(tmp_path):
    fv = visualization(tmp_path / "fv")
    fv.run(COMPOSITE, 0, 23, 8)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "conv_data.npy").write_text("secret")
    for file in (tmp_path / "fv" / "RelMax_sum_normed").iterdir():
        file.unlink()
    (tmp_path / "fv" / "RelMax_sum_normed").rmdir()
    (tmp_path / "fv" / "RelMax_sum_normed").symlink_to(secret)
    with pytest.raises(StoreError, match="RelMax_sum_normed is no folder but a link"):
        _ = visualization(tmp_path / "fv").RelMax.PATH
    assert [file.read_text() for file in secret.iterdir()] == ["secret"]
    assert load_maximization(tmp_path / "fv" / "RelMax_sum_normed", "conv")[0].shape == (23, 5)
    assert len(ReferenceStore(tmp_path / "fv").rows()) == 23
