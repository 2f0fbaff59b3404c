import os
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.cache import ImageCache
from crp.concepts import ChannelConcept
from crp.helper import (
    find_files,
    load_maximization,
    load_receptive_field,
    load_stat_targets,
    load_statistics,
)
from crp.store import ReferenceStore, StoreError
from crp.visualization import FeatureVisualization

SAMPLES, CHANNELS, KEPT = 60, 4, 40
TARGETS = [0, 2, 5]
KINDS = {"relevance": "Rel", "activation": "Act"}
pytestmark = pytest.mark.usefixtures("quick")


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict([
        ("features", nn.Sequential(nn.Conv2d(1, CHANNELS, 3), nn.ReLU())), ("flatten", nn.Flatten()),
        ("out", nn.Linear(144, 6)),
    ])).double().eval()


def make_arrays(seed, rows=KEPT):
    """Samples, values and rf neurons as zennit-crp sorts them, each [rows, channels]."""
    generator = np.random.default_rng(seed)
    samples = np.stack([generator.permutation(SAMPLES)[:rows] for _ in range(CHANNELS)], 1)
    values = -np.sort(-generator.normal(size=(rows, CHANNELS)).astype(np.float32), axis=0)
    return samples, values, generator.integers(0, 36, (rows, CHANNELS))


def save(folder, stem, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in zip(("data", "rel", "rf"), arrays):
        np.save(folder / f"{stem}_{part}.npy", array)


@pytest.fixture
def folder(tmp_path):
    for number, kind in enumerate(KINDS.values()):
        save(tmp_path / f"{kind}Max_sum_normed", "features.0", make_arrays(number))
        save(tmp_path / f"{kind}Max_sum_normed", "out", make_arrays(number + 10))
        for target in TARGETS:
            arrays = make_arrays(100 * number + target, 9)
            save(tmp_path / f"{kind}Stats_sum_normed" / "features.0", f"{target}", arrays)
        np.save(tmp_path / f"{kind}Stats_sum_normed" / "targets.npy", np.array(TARGETS))
    return tmp_path


@pytest.fixture
def fv(folder):
    images = torch.rand(SAMPLES, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer_map = {"features.0": ChannelConcept(), "out": ChannelConcept(), "features.1": ChannelConcept()}
    return FeatureVisualization(
        CondAttribution(small_model()), TensorDataset(images, torch.zeros(SAMPLES, dtype=torch.long)), layer_map,
        path=folder,
    )


def arrays_of(mode, target=None):
    number = list(KINDS).index(mode)
    return make_arrays(number) if target is None else make_arrays(100 * number + target, 9)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("r_range", [(0, 8), (3, 5), (30, 40), (35, 99)])
def test_references_of_an_old_folder(fv, mode, r_range):
    samples, _, _ = arrays_of(mode)
    found = fv.get_max_reference([0, 3], "features.0", mode, r_range, plot_fn=None)
    for concept, inputs in found.items():
        expected = fv.dataset.tensors[0][samples[slice(*r_range), concept]]
        torch.testing.assert_close(inputs, expected, rtol=0, atol=0)


@pytest.mark.parametrize("rf", [False, True])
def test_heatmaps_on_references_of_an_old_folder(fv, rf):
    samples, _, neurons = arrays_of("relevance")
    _, heatmaps = fv.get_max_reference(2, "features.0", "relevance", (0, 3), EpsilonPlusFlat(), rf, None)[2]
    for heatmap, sample, neuron in zip(heatmaps, samples[:, 2], neurons[:, 2]):
        expected = fv.attribution(
            fv.dataset[sample][0][None], [{"features.0": {2: [int(neuron)]} if rf else [2]}], EpsilonPlusFlat(),
            start_layer="features.0", mask_map=ChannelConcept.mask_rf if rf else ChannelConcept.mask,
        ).heatmap[0]
        torch.testing.assert_close(heatmap, expected)


@pytest.mark.parametrize("mode", KINDS)
def test_class_references_of_an_old_folder(fv, mode):
    found = fv.get_stats_reference(1, "features.0", [5, 0], mode, (1, 4), plot_fn=None)
    assert list(found) == ["1:5", "1:0"]
    for target in (5, 0):
        samples, _, _ = arrays_of(mode, target)
        torch.testing.assert_close(found[f"1:{target}"], fv.dataset.tensors[0][samples[1:4, 1]], rtol=0, atol=0)


@pytest.mark.parametrize("mode", KINDS)
def test_class_statistics_of_an_old_folder(fv, mode):
    means = np.array([arrays_of(mode, target)[1][:5, 3].mean() for target in TARGETS])
    order = np.argsort(-means)
    targets, values = fv.compute_stats(3, "features.0", mode, top_N=2, mean_N=5)
    assert targets.tolist() == np.array(TARGETS)[order][:2].tolist()
    np.testing.assert_allclose(values, means[order][:2], rtol=1e-6)
    _, normed = fv.compute_stats(3, "features.0", mode, top_N=2, mean_N=5, norm=True)
    np.testing.assert_allclose(normed, (means[order] / means[order][0])[:2], rtol=1e-6)


@pytest.mark.parametrize("mode", KINDS)
def test_the_functions_that_load_read_an_old_folder(fv, folder, mode):
    kind = KINDS[mode]
    for path in (getattr(fv, f"{kind}Max").PATH, str(folder / f"{kind}Max_sum_normed")):
        for found, expected in zip(load_maximization(path, "features.0"), arrays_of(mode)):
            np.testing.assert_array_equal(found, expected)
    path = getattr(fv, f"{kind}Stats").PATH
    assert load_stat_targets(path).tolist() == TARGETS
    for target in TARGETS:
        for found, expected in zip(load_statistics(path, "features.0", target), arrays_of(mode, target)):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("where", ["inside", "elsewhere"])
def test_pictures_of_an_old_folder_are_cached(fv, folder, tmp_path_factory, where):
    fv.cache = ImageCache(folder / "cache" if where == "inside" else tmp_path_factory.mktemp("cache"))
    counts = []
    register_module_forward_pre_hook(lambda module, args: counts.append(1))
    fv.get_max_reference(1, "features.0", composite=EpsilonPlusFlat())
    made = len(counts)
    images, heatmaps = fv.get_max_reference(1, "features.0", composite=EpsilonPlusFlat())[1]
    assert len(counts) == made > 0
    assert all(isinstance(picture, Image.Image) for picture in images + heatmaps)


def test_pictures_are_made_anew_where_old_results_have_changed(fv, folder, tmp_path_factory):
    fv.cache = ImageCache(tmp_path_factory.mktemp("cache"))
    before = fv.get_max_reference(1, "features.0")[1]
    save(folder / "RelMax_sum_normed", "features.0", make_arrays(77))
    after = fv.get_max_reference(1, "features.0")[1]
    assert any(np.asarray(one).tolist() != np.asarray(other).tolist() for one, other in zip(before, after))


@pytest.mark.parametrize("ask", [
    lambda fv: fv.get_max_reference(0, "features.1"), lambda fv: fv.get_stats_reference(0, "features.0", 1),
    lambda fv: fv.get_stats_reference(0, "out", 0), lambda fv: fv.compute_stats(0, "out"),
    lambda fv: load_maximization(fv.RelMax.PATH, "features.1"), lambda fv: load_maximization(fv.path / "None", "out"),
    lambda fv: load_statistics(fv.RelStats.PATH, "features.0", 3), lambda fv: load_stat_targets(fv.RelMax.PATH),
])
def test_what_an_old_folder_does_not_hold_is_a_store_error(fv, ask):
    with pytest.raises(StoreError):
        ask(fv)


def test_a_concept_beyond_those_of_an_old_folder(fv):
    with pytest.raises(IndexError, match="0 to 3"):
        fv.get_max_reference(CHANNELS, "features.0")


def test_another_way_of_ranking_is_not_in_an_old_folder(fv, folder):
    other = FeatureVisualization(fv.attribution, fv.dataset, fv.layer_map, abs_norm=False, path=folder)
    with pytest.raises(StoreError, match="RelMax_sum_unnormed.*RelMax_sum_normed"):
        other.get_max_reference(0, "features.0")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickled_payload_in_an_old_folder_is_not_run(fv, folder):
    for file in folder.rglob("*.npy"):
        np.save(file, np.array([Payload(folder / "ran")], dtype=object), allow_pickle=True)
    for ask in (lambda: fv.get_max_reference(0, "features.0"), lambda: load_stat_targets(fv.RelStats.PATH),
                lambda: load_statistics(fv.RelStats.PATH, "features.0", 0)):
        with pytest.raises(ValueError):
            ask()
    assert not (folder / "ran").exists()


def test_files_of_an_old_folder(folder, monkeypatch):
    (folder / "ReField").mkdir()
    np.save(folder / "ReField" / "features.0.npy", np.arange(6).reshape(2, 3))
    r_max, a_max, r_stats, a_stats, rf = find_files(folder)
    assert (r_max, a_max) == ([f"{folder / 'RelMax_sum_normed'}"], [f"{folder / 'ActMax_sum_normed'}"])
    assert (r_stats, a_stats) == ([f"{folder / 'RelStats_sum_normed'}"], [f"{folder / 'ActStats_sum_normed'}"])
    assert load_receptive_field(path_folder=rf[0], layer_name="features.0").tolist() == [[0, 1, 2], [3, 4, 5]]
    monkeypatch.chdir(folder)
    assert find_files() == find_files(path=str(folder))
    with pytest.raises(StoreError, match="holds no gone.npy"):
        load_receptive_field(rf[0], "gone")


def test_files_of_a_store_can_be_loaded(fv, tmp_path_factory):
    fv.path = tmp_path_factory.mktemp("store")
    fv.run(EpsilonPlusFlat(), 0, SAMPLES)
    *found, rf = find_files(fv.path)
    assert [paths[0] for paths in found] == [
        f"{fv.path / name}_sum_normed" for name in ("RelMax", "ActMax", "RelStats", "ActStats")
    ] and rf == []
    r_max, a_max, r_stats, a_stats = found
    for path in r_max + a_max:
        assert load_maximization(path_folder=path, layer_name="features.0")[0].shape == (KEPT, CHANNELS)
    for path in r_stats + a_stats:
        target = load_stat_targets(path_folder=path)[0]
        assert load_statistics(path_folder=path, layer_name="features.0", target=target)[0].shape[1] == CHANNELS


@pytest.mark.parametrize("dtype", [None, "<U20", ">U4"])
def test_classes_are_integers_also_where_the_folder_has_them_as_texts(fv, folder, dtype):
    for kind in KINDS.values():
        np.save(folder / f"{kind}Stats_sum_normed" / "targets.npy", np.array(list(map(str, TARGETS)), dtype))
    targets = load_stat_targets(fv.RelStats.PATH)
    assert targets.tolist() == TARGETS and targets.dtype.kind == "i"
    classes, _ = fv.compute_stats(0, "features.0", "relevance", top_N=3)
    assert sorted(classes) == TARGETS and np.asarray(classes).dtype.kind == "i"
    references = fv.get_stats_reference(0, "features.0", classes, "relevance", (0, 2), EpsilonPlusFlat(), plot_fn=None)
    assert sorted(references) == [f"0:{target}" for target in TARGETS]


@pytest.mark.parametrize("texts", [
    ["-1", "12"], ["1.0"], ["one"], [""], ["\u0661"], [" 1"], ["1_0"], ["+1"], ["1" * 19], ["1" * 21], ["1\n"],
], ids=repr)
def test_classes_as_texts_are_plain_integers(fv, folder, texts):
    np.save(fv.RelStats.PATH / "targets.npy", np.array(texts))
    if texts == ["-1", "12"]:
        assert load_stat_targets(fv.RelStats.PATH).tolist() == [-1, 12]
    else:
        why = "are no numbers" if len(texts[0]) > 20 else "is no integer"
        with pytest.raises(StoreError, match=f"targets.npy.*{why}"):
            load_stat_targets(fv.RelStats.PATH)


def test_texts_that_are_no_texts(fv):
    np.save(fv.RelStats.PATH / "targets.npy", np.array(["1"]))
    file = fv.RelStats.PATH / "targets.npy"
    file.write_bytes(file.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(StoreError, match="no class"):
        load_stat_targets(fv.RelStats.PATH)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(StoreError, match="does not fit its header"):
        load_stat_targets(fv.RelStats.PATH)


def test_other_arrays_of_an_old_folder_are_no_texts(fv):
    np.save(fv.RelMax.PATH / "features.0_data.npy", np.full((KEPT, CHANNELS), "1"))
    with pytest.raises(StoreError, match="are no numbers"):
        load_maximization(fv.RelMax.PATH, "features.0")


@pytest.mark.parametrize("targets", [np.zeros(2), np.zeros(2, bool), np.zeros((1, 2), int), np.array([["1"]])], ids=str)
def test_other_lists_of_classes_are_refused(fv, targets):
    np.save(fv.RelStats.PATH / "targets.npy", targets)
    with pytest.raises(StoreError, match="no list of classes"):
        load_stat_targets(fv.RelStats.PATH)


def test_a_sweep_beside_old_results_takes_their_place(fv):
    fv.layer_map.pop("out")
    fv.run(EpsilonPlusFlat(), 0, SAMPLES)
    best = ReferenceStore(fv.path).top("features.0", 1, k=3).samples
    inputs = fv.get_max_reference(1, "features.0", r_range=(0, 3), plot_fn=None)[1]
    torch.testing.assert_close(inputs, fv.dataset.tensors[0][best], rtol=0, atol=0)
    np.testing.assert_array_equal(load_maximization(fv.RelMax.PATH, "features.0")[0][:3, 1], best)


def replace_by_link(file, elsewhere):
    (elsewhere / file.name).write_bytes(file.read_bytes()) if file.is_file() else shutil.copytree(
        file, elsewhere / file.name)
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    file.symlink_to(elsewhere / file.name)


@pytest.mark.parametrize("name", [
    "RelMax_sum_normed/features.0_rel.npy", "RelMax_sum_normed", "RelStats_sum_normed/features.0",
    "RelStats_sum_normed/targets.npy",
])
def test_nothing_of_an_old_folder_is_read_through_a_link(fv, folder, tmp_path_factory, name):
    replace_by_link(folder / name, tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(StoreError, match="is no (file|folder) but a link"):
        load_maximization(fv.RelMax.PATH, "features.0")
        load_statistics(fv.RelStats.PATH, "features.0", 0)
        load_stat_targets(fv.RelStats.PATH)


@pytest.mark.parametrize("content", [
    b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (40, 9999999), }",
    None, "pipe",
])
def test_damaged_files_of_an_old_folder_are_store_errors(fv, folder, content):
    for file in folder.rglob("*.npy"):
        file.unlink()
        if content == "pipe":
            os.mkfifo(file)
        elif content is None:
            np.save(file, np.zeros(3))
        else:
            file.write_bytes(content)
    for read in (lambda: load_maximization(fv.RelMax.PATH, "features.0"),
                 lambda: load_statistics(fv.RelStats.PATH, "features.0", 0)):
        with pytest.raises(StoreError):
            read()
    if content is not None:
        with pytest.raises(StoreError):
            load_stat_targets(fv.RelStats.PATH)


def test_an_old_folder_may_hold_arrays_in_either_order(fv, folder):
    expected = [np.array(array) for array in load_maximization(fv.RelMax.PATH, "features.0")]
    for file in folder.glob("RelMax_sum_normed/*.npy"):
        np.save(file, np.asfortranarray(np.load(file)))
    for found, array in zip(load_maximization(fv.RelMax.PATH, "features.0"), expected):
        np.testing.assert_array_equal(found, array)
