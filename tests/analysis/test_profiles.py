"""Profiles of groups and prototypes of classes."""
import csv
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.analysis import GroupProfiles, class_prototypes, contrast, group_profiles
from crp.analysis.grouping import centred
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.store import ReferenceStore, StoreError
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")
COUNT = 40


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    ).eval()


@pytest.fixture(scope="module")
def dataset():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.rand(COUNT, 1, 8, 8, generator=generator), torch.arange(COUNT) % 3)


@pytest.fixture(scope="module")
def visualization(model, dataset, tmp_path_factory):
    visualization = FeatureVisualization(
        CondAttribution(model), dataset, {"1": ChannelConcept(), "5": ChannelConcept()},
        path=tmp_path_factory.mktemp("store"),
    )
    visualization.run(EpsilonPlusFlat(), 0, COUNT, batch_size=7)
    return visualization


def means_by_loops(values, labels):
    """Mean of each group, added up sample by sample."""
    groups = sorted(set(labels))
    means = []
    for group in groups:
        rows = [values[i].astype(np.float64) for i in range(len(labels)) if labels[i] == group]
        means.append(sum(rows) / len(rows))
    return groups, np.stack(means)


@pytest.mark.parametrize("shape", [(50, 4), (50, 4, 6), (50, 4, 5, 3), (50, 2, 3, 2, 4)])
@pytest.mark.parametrize("positions", [True, False])
def test_means_of_arrays(shape, positions):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    labels = np.random.default_rng(1).choice(["b", "a", "c"], len(values), p=[.7, .2, .1])
    profiles = group_profiles({"layer": values, "other": values[:, :2]}, labels, positions=positions)
    groups, expected = means_by_loops(values, labels)
    if not positions:
        expected = expected.reshape(*expected.shape[:2], -1).mean(2)
    assert profiles.groups == groups and profiles.layers == ["layer", "other"]
    assert list(profiles.sizes) == [(labels == group).sum() for group in groups]
    np.testing.assert_allclose(profiles["layer"], expected, rtol=1e-12)
    np.testing.assert_allclose(profiles["other"], expected[:, :2], rtol=1e-12)


def test_tensors_and_channels_last():
    values = torch.rand(10, 4, 5, 3)
    labels = torch.arange(10) % 2
    profiles = group_profiles({"layer": values}, labels, axis=-1)
    expected = means_by_loops(values.permute(0, 3, 1, 2).numpy(), labels.tolist())[1]
    np.testing.assert_allclose(profiles["layer"], expected)
    assert profiles.groups == ["0", "1"]


def test_several_kinds_of_groups_at_once():
    values = np.random.default_rng(0).random((12, 3))
    parity, size = [i % 2 for i in range(12)], ["big" if i > 8 else "small" for i in range(12)]
    profiles = group_profiles({"layer": values}, {"parity": parity, "size": size})
    assert profiles.groups == ["parity=0", "parity=1", "size=big", "size=small"]
    for kind, labels in (("parity", parity), ("size", size)):
        for group, mean in zip(*means_by_loops(values, labels)):
            np.testing.assert_allclose(profiles.select([f"{kind}={group}"])["layer"][0], mean)


def test_labels_of_any_kind():
    values = np.arange(12.).reshape(4, 3)
    for labels in ([torch.tensor(1), torch.tensor(0)] * 2, np.array([1, 0, 1, 0]), ["1", "0", "1", "0"]):
        assert group_profiles({"layer": values}, labels).groups == ["0", "1"]
    orders = [group_profiles({"layer": values}, np.roll([3., float("nan"), 0., 1.], i)).groups for i in range(4)]
    assert orders == [["0.0", "1.0", "3.0", "nan"]] * 4
    profiles = group_profiles({"layer": torch.tensor(values).bfloat16()}, [10, 0, 1, 10])
    assert profiles.select("10").groups == ["10"] and profiles.select(torch.tensor([1, 0])).groups == ["1", "0"]
    with pytest.raises(ValueError, match="5 labels, but there are 4 samples"):
        group_profiles({"layer": values}, range(5))
    with pytest.raises(TypeError, match="layers come in a list"):
        group_profiles({"layer": values}, range(4), layers="layer")


def test_batches_of_different_lengths(tmp_path):
    write_folder(tmp_path, {"x": np.ones((4, 2)), "y": np.ones((4, 2))}, {}, np.array(["a"] * 4))
    np.save(tmp_path / "y" / "a-0.npy", np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"'a-0.npy'.*\[3, 4\]"):
        group_profiles(tmp_path, "group")


def test_numbers_are_ordered_by_value():
    profiles = group_profiles({"layer": np.ones((4, 2))}, [10, 9, 2, 100])
    assert profiles.groups == ["2", "9", "10", "100"]


def centred_by_loops(values, saliency):
    result = np.zeros_like(values)
    spatial = values.shape[2:]
    for n in range(len(values)):
        strength = np.abs(saliency[n]).mean(0)
        if not spatial or strength.min() == strength.max():
            result[n] = values[n]
            continue
        peak = max(np.ndindex(*spatial), key=lambda place: (strength[place], [-i for i in place]))
        for place in np.ndindex(*spatial):
            source = tuple(p + q - length // 2 for p, q, length in zip(place, peak, spatial))
            if all(0 <= s < length for s, length in zip(source, spatial)):
                result[(n, slice(None), *place)] = values[(n, slice(None), *source)]
    return result


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 7), (6, 3, 4, 5), (4, 2, 3, 4, 2)])
def test_alignment(shape):
    random = np.random.default_rng(0)
    values, saliency = random.normal(size=shape), random.normal(size=shape)
    saliency[1] = -2.
    expected = centred_by_loops(values, saliency)
    assert np.array_equal(centred(values, saliency), expected)
    profiles = group_profiles(
        {"layer": values}, [0] * len(values), gradients={"layer": saliency}, align="gradient"
    )
    np.testing.assert_allclose(profiles["layer"][0], expected.mean(0))


def test_alignment_moves_no_channels():
    values = np.zeros((2, 3, 5))
    values[0, 1, 0], values[1, 1, 4] = 1, 1
    mean = group_profiles({"layer": values}, ["a", "a"], gradients={"layer": values}, align="gradient")["layer"][0]
    expected = np.zeros((3, 5))
    expected[1, 2] = 1
    assert np.array_equal(mean, expected)


def write_folder(folder, values, gradients, labels, batch=7):
    with open(folder / "corpus.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "group", "target"])
        for group in sorted(set(labels)):
            rows = np.flatnonzero(labels == group)
            for first in range(0, len(rows), batch):
                name = f"{group}-{first}.npy"
                for part, arrays in (("", values), ("gradients", gradients)):
                    for layer, array in arrays.items():
                        (folder / part / layer).mkdir(parents=True, exist_ok=True)
                        np.save(folder / part / layer / name, array[rows[first:first + batch]])
                table.writerow([name, group, {"a": 3, "b": 5}[group]])


def test_a_folder_of_batches(tmp_path):
    random = np.random.default_rng(0)
    values = {"x": random.random((30, 4, 6)), "y": random.random((30, 2))}
    gradients = {"x": random.random((30, 4, 6)), "y": random.random((30, 2))}
    labels = np.array(["b", "a", "b"] * 10)
    write_folder(tmp_path, values, gradients, labels)
    for align in (None, "gradient"):
        expected = group_profiles(values, labels, gradients=gradients, align=align)
        found = group_profiles(tmp_path, "group", align=align)
        assert found.groups == expected.groups and np.array_equal(found.sizes, expected.sizes)
        for layer in values:
            np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-12)
    assert group_profiles(str(tmp_path)).groups == ["3", "5"]
    assert group_profiles(tmp_path, {"g": "group", "t": "target"}).groups == ["g=a", "g=b", "t=3", "t=5"]
    (tmp_path / "x" / "a-0.npy").unlink()
    with pytest.raises(FileNotFoundError, match="1 files .*a-0.npy"):
        group_profiles(tmp_path, "group")
    with pytest.raises(ValueError, match="no column 'style'"):
        group_profiles(tmp_path, "style")
    with pytest.raises(FileNotFoundError, match="columns file and group"):
        group_profiles(tmp_path / "x")


def activations_and_gradients(model, images, layer):
    """By hand: activations of a layer, gradients of the largest logit."""
    head = model[:int(layer) + 1](images).detach().requires_grad_()
    output = model[int(layer) + 1:](head)
    gradient, = torch.autograd.grad(output.max(1).values.sum(), head)
    return head.detach().numpy(), gradient.numpy()


def test_profiles_of_a_model(model, dataset):
    images, targets = dataset.tensors
    attribution = CondAttribution(model)
    values, gradients = activations_and_gradients(model, images, "1")
    profiles = group_profiles((model, dataset), layers=["1", "5"], batch_size=9)
    np.testing.assert_allclose(profiles["1"], means_by_loops(values, targets.tolist())[1], rtol=1e-5)
    aligned = group_profiles((attribution, dataset), layers=["1"], align="gradient", batch_size=9)
    expected = means_by_loops(centred_by_loops(values, gradients), targets.tolist())[1]
    np.testing.assert_allclose(aligned["1"], expected, rtol=1e-5, atol=1e-7)
    predictions = model(images).argmax(1).tolist()
    by_prediction = group_profiles((attribution, dataset), "prediction", layers=["1"], positions=False)
    expected = means_by_loops(values.mean((2, 3)), predictions)
    assert by_prediction.groups == [str(group) for group in expected[0]]
    np.testing.assert_allclose(by_prediction["1"], expected[1], rtol=1e-5)


def test_relevance_of_a_model(model, dataset):
    images, targets = dataset.tensors
    attribution, composite = CondAttribution(model), EpsilonPlusFlat()
    given = attribution(images, [{"y": [int(target)]} for target in targets], composite, ["1"])
    relevance, activation = given.relevances["1"].numpy(), given.activations["1"].numpy()
    arguments = {"layers": ["1"], "composite": composite, "targets": targets, "batch_size": 11}
    source = attribution, dataset
    profiles = group_profiles(source, quantity="relevance", **arguments)
    np.testing.assert_allclose(profiles["1"], means_by_loops(relevance, targets.tolist())[1], rtol=1e-4, atol=1e-7)
    aligned = group_profiles(source, align="relevance", **arguments)
    expected = means_by_loops(centred_by_loops(activation, relevance), targets.tolist())[1]
    np.testing.assert_allclose(aligned["1"], expected, rtol=1e-4, atol=1e-7)
    gradient = attribution(
        images, [{"y": [int(target)]} for target in targets], None, ["1"], init_rel=1.
    ).relevances["1"].numpy()
    both = group_profiles(source, quantity="relevance", align="gradient", **arguments)
    expected = means_by_loops(centred_by_loops(relevance, gradient), targets.tolist())[1]
    np.testing.assert_allclose(both["1"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("quantity", ["activation", "relevance"])
def test_profiles_of_a_store(visualization, dataset, quantity):
    store = ReferenceStore(visualization.path)
    for groups, labels in (
        ("target", store.targets), ("prediction", store.predictions), (np.arange(COUNT) % 5, np.arange(COUNT) % 5)
    ):
        profiles = group_profiles(store, groups, quantity=quantity)
        for layer in store.layers:
            expected = means_by_loops(np.asarray(store.values(layer, quantity)), labels.tolist())
            assert profiles.groups == [str(group) for group in expected[0]]
            np.testing.assert_allclose(profiles[layer], expected[1], rtol=1e-6)
    assert profiles.options["source"] == store.identity()


def test_multi_hot_targets_have_a_row_each(model, tmp_path):
    dataset = TensorDataset(torch.rand(6, 1, 8, 8), torch.tensor([[1, 1, 0], [0, 1, 0]] * 3))
    visualization = FeatureVisualization(CondAttribution(model), dataset, {"1": ChannelConcept()}, path=tmp_path)
    store = visualization.run(EpsilonPlusFlat(), 0, 6)
    profiles = group_profiles(store, quantity="relevance")
    assert profiles.groups == ["0", "1"] and list(profiles.sizes) == [3, 6]
    assert group_profiles(store, "prediction").sizes.sum() == 6
    with pytest.raises(StoreError, match="several targets"):
        group_profiles(store)
    with pytest.raises(ValueError, match="several targets"):
        group_profiles((CondAttribution(model), dataset), layers=["1"])


@pytest.mark.parametrize("weight", ["equal", "size"])
@pytest.mark.parametrize("groups", [None, ["c", "a"]])
def test_contrast(weight, groups):
    random = np.random.default_rng(0)
    values, labels = random.random((60, 4, 3)), random.choice(["a", "b", "c"], 60, p=[.6, .3, .1])
    profiles = group_profiles({"layer": values}, labels)
    result = contrast(profiles, groups, weight)
    chosen = groups or ["a", "b", "c"]
    means = {group: values[labels == group].mean(0) for group in chosen}
    weights = {group: (labels == group).sum() if weight == "size" else 1 for group in chosen}
    average = sum(weights[group] * means[group] for group in chosen) / sum(weights.values())
    assert result.groups == chosen and result.options["contrast"] == weight
    for i, group in enumerate(chosen):
        np.testing.assert_allclose(result["layer"][i], means[group] - average, atol=1e-12)
    if weight == "size" and groups is None:
        np.testing.assert_allclose(average, values.mean(0))


def test_save_and_load_and_what_profiles_depend_on(visualization, tmp_path):
    store = ReferenceStore(visualization.path)
    profiles = group_profiles(store)
    profiles.save(tmp_path / "profiles.npz")
    loaded = GroupProfiles.load(tmp_path / "profiles.npz", store)
    assert loaded.groups == profiles.groups and loaded.options == profiles.options and loaded.layers == profiles.layers
    assert all(np.array_equal(loaded[layer], profiles[layer]) for layer in profiles.layers)
    other = FeatureVisualization(
        visualization.attribution, visualization.dataset, visualization.layer_map, path=tmp_path / "other"
    ).run(EpsilonPlusFlat(), 0, 10)
    with pytest.raises(StoreError, match="compute them again"):
        GroupProfiles.load(tmp_path / "profiles.npz", other)
    (tmp_path / "profiles.npz").write_bytes(b"?")
    with pytest.raises(ValueError, match="no 'crp-profiles 1'"):
        GroupProfiles.load(tmp_path / "profiles.npz")


@pytest.mark.parametrize("arguments, message", [
    (({"layer": np.ones((3, 2))}, "target"), "one label per sample"),
    (({"layer": np.ones((3, 2))}, [1, 2]), "2 labels, but there are 3 samples"),
    (({"layer": np.ones((3, 2)), "other": np.ones((4, 2))}, [1, 2, 3]), "differ in their number"),
    (({"layer": np.ones(3)}, [1, 2, 3]), "not of the shape"),
])
def test_bad_arrays(arguments, message):
    with pytest.raises(ValueError, match=message):
        group_profiles(*arguments)


def test_bad_arguments(visualization, model, dataset):
    store, source = ReferenceStore(visualization.path), (CondAttribution(model), dataset)
    for arguments, message in (
        ({"align": "gradient"}, "holds no maps"), ({"positions": True}, "holds no maps"),
        ({"groups": "class"}, "'target', 'prediction'"), ({"quantity": "gradient"}, "quantity"),
        ({"layers": ["2"]}, "no layer '2'"),
    ):
        with pytest.raises(ValueError, match=message):
            group_profiles(store, **arguments)
    for arguments, message in (
        ({}, "layers="), ({"layers": ["1"], "align": "relevance"}, "composite"), ({"layers": ["9"]}, "no layer '9'"),
    ):
        with pytest.raises(ValueError, match=message):
            group_profiles(source, **arguments)
    with pytest.raises(TypeError, match="not a int"):
        group_profiles(3)
    with pytest.raises(KeyError, match="no group 'z'"):
        contrast(group_profiles(store), ["z"])


# Prototypes

@pytest.fixture(scope="module")
def two_ways(tmp_path_factory):
    """Class 0 is either bright on the left or bright on the right, each seen by a channel of its own."""
    model = nn.Sequential(nn.Conv2d(1, 2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight[:] = 0
        model[0].weight[0, 0, :, :2], model[0].weight[1, 0, :, 2:] = 1, 1
        model[0].bias[:] = 0
        model[3].weight[:] = torch.tensor([[1., 1.], [-1., -1.]])
        model[3].bias[:] = 0
    torch.manual_seed(0)
    is_left = torch.arange(90) % 3 > 0
    images = torch.zeros(90, 1, 4, 4)
    images[is_left, :, :, :2], images[~is_left, :, :, 2:] = 1, 1
    images += .1 * torch.rand(images.shape)
    visualization = FeatureVisualization(
        CondAttribution(model), TensorDataset(images, torch.zeros(90, dtype=int)), {"1": ChannelConcept()},
        path=tmp_path_factory.mktemp("store"),
    )
    return visualization.run(EpsilonPlusFlat(), 0, 90), is_left.numpy()


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_prototypes_are_the_two_ways(two_ways, covariance):
    store, is_left = two_ways
    prototypes = class_prototypes(store, "1", 0, 2, covariance=covariance, random_state=0)
    assert len(prototypes) == 2 and np.array_equal(prototypes.labels, np.where(is_left, 0, 1))
    np.testing.assert_allclose(prototypes.weights, [2 / 3, 1 / 3], atol=.01)
    profiles = np.asarray(store.values("1", "relevance", normalised=True))
    for prototype, rows in ((0, is_left), (1, ~is_left)):
        np.testing.assert_allclose(prototypes.means[prototype], profiles[rows].mean(0), atol=1e-3)
        distance = np.linalg.norm(profiles - prototypes.means[prototype], axis=1)
        assert list(prototypes.nearest(prototype, 5)) == sorted(range(90), key=lambda i: (distance[i], i))[:5]
    raw = np.asarray(store.values("1", "relevance"))
    assert np.array_equal(prototypes.assign(3 * raw), prototypes.labels)
    np.testing.assert_allclose(prototypes.log_likelihood(raw), prototypes.log_likelihoods)
    np.testing.assert_allclose(
        prototypes.difference(torch.from_numpy(raw)), profiles - prototypes.means[prototypes.labels], atol=1e-7
    )
    assert prototypes.is_unusual(raw, .1).sum() == 9
    assert prototypes.is_unusual(np.array([[1., 1.], [-1., 3.]])).all()


def test_prototypes_that_cannot_be(two_ways):
    store, _ = two_ways
    with pytest.raises(StoreError, match="100 samples, but the store has 90"):
        class_prototypes(store, "1", 0, 50)
    with pytest.raises(StoreError, match="0 of class 7"):
        class_prototypes(store, "1", 7)
    prototypes = class_prototypes(store, "1", 0, 2, random_state=0)
    with pytest.raises(IndexError, match="no prototype 2"):
        prototypes.nearest(2)
    with pytest.raises(ValueError, match=r"\[rows, 2\]"):
        prototypes.assign(np.ones((3, 5)))
    with pytest.raises(ValueError, match="'full' or 'diag'"):
        class_prototypes(store, "1", 0, covariance="tied")


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    random = np.random.default_rng(0)
    write_folder(folder, {"x": random.random((9, 4))}, {"x": random.random((9, 4))}, np.array(["a", "b", "a"] * 3))
    np.save(tmp_path / "secret.npy", random.random((6, 4)))
    return folder


@pytest.mark.parametrize("name", [
    "../../secret.npy", "{}/secret.npy", "../x/a-0.npy", "", "a\0b", "//secret.npy", "link.npy", "linked/secret.npy",
    "pipe.npy", "n" * 300,
])
def test_names_in_a_table_of_batches_do_not_lead_out_of_the_folder(corpus, name):
    (corpus / "x" / "link.npy").symlink_to(corpus.parent / "secret.npy")
    (corpus / "x" / "linked").symlink_to(corpus.parent)
    os.mkfifo(corpus / "x" / "pipe.npy")
    name = name.format(corpus.parent)
    (corpus / "corpus.csv").write_text(f"file,group\na-0.npy,a\n{name},b\n")
    with pytest.raises((ValueError, FileNotFoundError)):
        group_profiles(corpus, "group")


def test_batches_in_folders_below_those_of_layers(corpus):
    expected = group_profiles(corpus, "group")
    (corpus / "x" / "below").mkdir()
    for file in corpus.glob("x/*.npy"):
        file.rename(corpus / "x" / "below" / file.name)
    table = (corpus / "corpus.csv").read_text()
    (corpus / "corpus.csv").write_text(table.replace("a-0", "below/a-0").replace("b-0", "below/b-0"))
    np.testing.assert_array_equal(group_profiles(corpus, "group")["x"], expected["x"])


@pytest.mark.parametrize("table", [
    "file,group\na-0.npy\n", "file,group\n,\n", "file,group\n" + "a" * 200_000, "group\na\n", "", "file,group\n\0,\n",
])
def test_a_table_of_batches_that_says_nothing_of_use(corpus, table):
    (corpus / "corpus.csv").write_text(table)
    with pytest.raises(ValueError, match="corpus"):
        group_profiles(corpus, "group")


def test_a_batch_is_not_unpickled(corpus):
    np.save(corpus / "x" / "a-0.npy", np.array([print], object), allow_pickle=True)
    with pytest.raises(ValueError, match="a-0.npy cannot be read"):
        group_profiles(corpus, "group")
