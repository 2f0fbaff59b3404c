"""Patterns: clusters of profiles, their members, statistics, assignment and files."""
import math

import hdbscan
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from sklearn.metrics import adjusted_rand_score
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.analysis import Patterns, find_patterns
from crp.analysis.unit_statistics import unit_statistics
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, ProfileConcept, aggregate
from crp.store import ReferenceStore, StoreError
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")


def planted(count=300, units=8, clusters=4, noise=0.1, spread=.03, seed=0):
    """Values in tight clusters, and rows of noise, with the cluster of each row (-1: noise)."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0, 1, (clusters, units))
    labels = random.integers(0, clusters, count)
    values = centres[labels] + random.normal(0, spread, (count, units))
    is_noise = random.random(count) < noise
    values[is_noise] = random.uniform(-1, 2, (is_noise.sum(), units))
    return values.astype(np.float32), np.where(is_noise, -1, labels)


@pytest.fixture(scope="module")
def values():
    return planted()[0]


@pytest.fixture(scope="module")
def patterns(values):
    return find_patterns(values, min_pattern_size=20)


def test_planted_clusters_are_found(values, patterns):
    truth = planted()[1]
    assert len(patterns) == 4 and adjusted_rand_score(truth, patterns.labels) > .95
    assert patterns.outlier_score[truth < 0].mean() > 3 * patterns.outlier_score[truth >= 0].mean()


@pytest.mark.parametrize("options", [
    {}, {"min_pattern_size": 12, "min_samples": 3}, {"method": "eom", "epsilon": .2}, {"metric": "manhattan"},
])
def test_equal_to_hdbscan_up_to_the_numbering(values, options):
    patterns = find_patterns(values, normalize=False, **options)
    names = {"min_pattern_size": "min_cluster_size", "method": "cluster_selection_method",
             "epsilon": "cluster_selection_epsilon"}
    given = {"min_pattern_size": 5, "min_samples": 5, "method": "leaf", **options}
    expected = hdbscan.HDBSCAN(**{names.get(key, key): value for key, value in given.items()}).fit(
        values.astype(np.float64)
    )
    assert len(patterns) > 1 and list(patterns.persistence) == sorted(expected.cluster_persistence_, reverse=True)
    np.testing.assert_allclose(patterns.probability, expected.probabilities_)
    np.testing.assert_allclose(patterns.outlier_score, expected.outlier_scores_)
    for pattern in range(len(patterns)):
        theirs = np.unique(expected.labels_[patterns.members(pattern)])
        assert len(theirs) == 1 and np.array_equal(
            patterns.members(pattern), np.flatnonzero(expected.labels_ == theirs[0])
        )
        assert expected.cluster_persistence_[theirs[0]] == patterns.persistence[pattern]
    assert np.array_equal(patterns.labels < 0, expected.labels_ < 0)


def test_units_are_divided_by_their_own_largest_value(values):
    stretched = values * np.array([1, 1e3, 1e-4, 1, 5, 1, 1, 1], np.float32)
    expected = find_patterns(values)
    assert np.array_equal(find_patterns(stretched).labels, expected.labels)
    assert not np.array_equal(find_patterns(stretched, normalize=False).labels, expected.labels)
    silent = np.concatenate([values, np.zeros((len(values), 1)), np.full((len(values), 1), 1e-20)], 1)
    assert np.array_equal(find_patterns(silent).labels, expected.labels)


def test_means_and_deviations_are_normalised_together(values):
    means, deviations = values, np.abs(values[:, ::-1]) + .1
    largest = np.abs(means).max(0)
    expected = np.concatenate([means / largest, deviations / np.sqrt(largest)], 1)
    found = find_patterns(np.concatenate([means, deviations], 1), normalize="mean_std")
    assert np.array_equal(found.labels, find_patterns(expected, normalize=False).labels)
    with pytest.raises(ValueError, match="as many deviations as means, not 7"):
        find_patterns(values[:, :7], normalize="mean_std")


def test_members_by_stability(patterns):
    for pattern in range(len(patterns)):
        members = patterns.members(pattern)
        assert len(members) == patterns.sizes[pattern] and (patterns.labels[members] == pattern).all()
        ranked = sorted(members, key=lambda row: (-patterns.probability[row], row))
        assert list(patterns.most_stable(pattern, 7)) == ranked[:7]
        assert list(patterns.least_stable(pattern, 7)) == ranked[::-1][:7]
        assert list(patterns.most_stable(pattern, 10**6)) == ranked
        scores = patterns.outlier_score
        bound = np.quantile(scores[members], .9)
        outliers = sorted((row for row in members if scores[row] > bound), key=lambda row: (-scores[row], row))
        assert list(patterns.outliers(pattern, .9)) == outliers and len(outliers) > 0


def test_samples_are_drawn_by_probability(patterns):
    drawn = patterns.sample(0, .1, random_state=3)
    assert len(drawn) == math.ceil(.1 * patterns.sizes[0]) and set(drawn) <= set(patterns.members(0))
    assert np.array_equal(drawn, patterns.sample(0, .1, random_state=3)) and np.array_equal(drawn, np.unique(drawn))
    assert np.array_equal(patterns.sample(0, 1.), patterns.members(0))
    often = np.concatenate([patterns.sample(0, .1, random_state=i) for i in range(300)])
    counts = np.bincount(often, minlength=len(patterns.labels))
    assert counts[patterns.most_stable(0, 5)].mean() > 1.3 * counts[patterns.least_stable(0, 5)].mean()


def statistics_by_loops(column):
    column = sorted(column)

    def quantile(q):
        place = q * (len(column) - 1)
        low = math.floor(place)
        return column[low] + (place - low) * (column[min(low + 1, len(column) - 1)] - column[low])

    q1, q3 = quantile(.25), quantile(.75)
    inside = [v for v in column if q1 - 1.5 * (q3 - q1) <= v <= q3 + 1.5 * (q3 - q1)]
    return (
        column[0], column[-1], sum(column) / len(column), q1, quantile(.5), q3, min(inside), max(inside)
    )


@pytest.mark.parametrize("pattern", [None, 0, 2])
def test_statistics_of_each_unit(values, patterns, pattern):
    rows = values if pattern is None else values[patterns.members(pattern)]
    statistics = patterns.statistics(pattern)
    for unit in range(values.shape[1]):
        expected = statistics_by_loops(rows[:, unit].astype(float).tolist())
        np.testing.assert_allclose([field[unit] for field in statistics], expected, rtol=1e-12, atol=1e-12)


def test_statistics_of_one_row():
    statistics = unit_statistics(np.array([[1., -2.]]))
    assert all(np.array_equal(field, [1, -2]) for field in statistics)


def test_label_counts(patterns):
    targets = np.array(["b", "a", "c"])[np.arange(300) % 3]
    classes, counts = patterns.label_counts(targets)
    assert list(classes) == ["a", "b", "c"]
    for pattern in range(len(patterns)):
        for column, name in enumerate(classes):
            assert counts[pattern, column] == sum(targets[row] == name for row in patterns.members(pattern))
    assert np.array_equal(patterns.label_counts(torch.arange(300) % 2)[1].sum(1), patterns.sizes)
    with pytest.raises(ValueError, match="300 rows"):
        patterns.label_counts(targets[:5])


def test_average_image(patterns):
    images = torch.rand(300, 1, 4, 4)
    average = patterns.average_image(1, TensorDataset(images, torch.arange(300)))
    torch.testing.assert_close(average, images[patterns.members(1)].mean(0))
    as_dicts = [{"x": image, "labels": 1} for image in images]
    torch.testing.assert_close(patterns.average_image(1, as_dicts)["x"], average)


def test_assignment_of_new_rows(values, patterns):
    labels, probability = patterns.assign(values)
    agrees = labels == patterns.labels
    assert agrees[patterns.probability > .5].all() and agrees.mean() > .95 and probability.max() <= 1
    fresh, truth = planted(seed=0, count=300, noise=0)
    labels, probability = patterns.assign(torch.from_numpy(values) + 1e-4)
    assert (labels == patterns.labels).mean() > .95
    far = np.full((3, values.shape[1]), 50.)
    assert (patterns.assign(far)[0] == -1).all() and not patterns.assign(far)[1].any()
    one_by_one = np.concatenate([patterns.assign(row[None])[0] for row in values[:20]])
    assert np.array_equal(one_by_one, patterns.assign(values[:20])[0])
    with pytest.raises(ValueError, match="8 units"):
        patterns.assign(values[:, :5])


def test_new_rows_are_assigned_as_hdbscan_does(values):
    patterns = find_patterns(values, normalize=False, min_pattern_size=20)
    fitted = hdbscan.HDBSCAN(min_cluster_size=20, min_samples=5, cluster_selection_method="leaf", prediction_data=True)
    fitted.fit(values.astype(np.float64))
    fresh = (values + np.random.default_rng(1).normal(0, .05, values.shape)).astype(np.float64)
    expected, strength = hdbscan.approximate_predict(fitted, fresh)
    labels, probability = patterns.assign(fresh)
    np.testing.assert_allclose(probability, strength)
    assert adjusted_rand_score(expected, labels) == 1 and np.array_equal(labels < 0, expected < 0)


def test_where_there_are_no_patterns():
    patterns = find_patterns(np.random.default_rng(0).random((40, 30)), min_pattern_size=19)
    assert len(patterns) == 0 and (patterns.labels == -1).all() and "0 patterns" in repr(patterns)
    assert (patterns.assign(np.ones((2, 30)))[0] == -1).all()
    with pytest.raises(IndexError, match="no pattern 0: there are 0"):
        patterns.members(0)
    with pytest.raises(ValueError, match="no patterns"):
        patterns.plot()


def test_large_data_are_clustered_by_a_sample():
    values, truth = planted(2000, units=60, clusters=5)
    everything = find_patterns(values, min_pattern_size=30)
    sampled = find_patterns(values, min_pattern_size=30, fit_samples=800, reduce=10, random_state=0)
    assert adjusted_rand_score(everything.labels, sampled.labels) > .9
    assert adjusted_rand_score(truth, sampled.labels) > .9
    assert sampled.options["fit_samples"] == 800 and sampled.options["reduce"] == 10
    again = find_patterns(values, min_pattern_size=30, fit_samples=800, reduce=10, random_state=0)
    for name in ("labels", "probability", "outlier_score", "persistence"):
        assert np.array_equal(getattr(sampled, name), getattr(again, name))
    assert sampled.outlier_score[truth < 0].mean() > 3 * sampled.outlier_score[truth >= 0].mean()


def test_reduction_keeps_the_principal_components(values):
    scaled = values.astype(float) / np.abs(values).max(0)
    centred = scaled - scaled.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = find_patterns(centred @ axes[:3].T, normalize=False)
    assert np.array_equal(find_patterns(values, reduce=3).labels, expected.labels)


@pytest.mark.parametrize("options, message", [
    ({"min_pattern_size": 1}, "min_pattern_size"), ({"min_samples": 0}, "min_samples"), ({"epsilon": -1}, "epsilon"),
    ({"method": "leaves"}, "'leaf' or 'eom'"), ({"normalize": "std"}, "'mean_std'"), ({"reduce": 9}, "1 to 8"),
    ({"fit_samples": 3}, "fit_samples=3"), ({"min_samples": 400}, "300 rows are too few"),
    ({"metric": "cosine"}, "not 'cosine'"), ({"metric": "minkowski"}, "not 'minkowski'"),
    ({"fit_samples": 0}, "fit_samples=0"),
])
def test_bad_options(values, options, message):
    with pytest.raises(ValueError, match=message):
        find_patterns(values, **options)


def test_bad_values(values):
    with pytest.raises(ValueError, match="aggregate"):
        find_patterns(np.zeros((20, 3, 4)))
    broken = values.copy()
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match="NaN.*unit 3"):
        find_patterns(broken)


def test_save_and_load(values, patterns, tmp_path):
    patterns.save(tmp_path / "patterns.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["patterns.npz"]
    loaded = Patterns.load(tmp_path / "patterns.npz")
    for name in ("labels", "probability", "outlier_score", "persistence", "samples"):
        assert np.array_equal(getattr(loaded, name), getattr(patterns, name))
    assert loaded.options == patterns.options
    fresh = values[:50] + .01
    assert all(np.array_equal(a, b) for a, b in zip(loaded.assign(fresh), patterns.assign(fresh)))
    with pytest.raises(ValueError, match="Patterns.load"):
        loaded.statistics(0)
    with_values = Patterns.load(tmp_path / "patterns.npz", values)
    assert np.array_equal(with_values.statistics(0).q1, patterns.statistics(0).q1)
    with pytest.raises(ValueError, match=r"\(300, 8\)"):
        Patterns.load(tmp_path / "patterns.npz", values[:5])


def test_files_that_hold_no_patterns(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="other.npz"):
        Patterns.load(path)
    np.savez(path, kind=np.array("crp-patterns 99"), settings=np.array("{}"))
    with pytest.raises(ValueError, match="crp-patterns 99"):
        Patterns.load(path)
    np.savez(path, kind=np.array("crp-patterns 1"), settings=np.array([{"format": 1}], dtype=object))
    with pytest.raises(ValueError, match="which no file of a store does"):
        Patterns.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other.npz"):
        Patterns.load(path)
    with pytest.raises(FileNotFoundError):
        Patterns.load(tmp_path / "absent.npz")


# Aggregations

def aggregate_by_loops(tensor, how, axis, channel):
    rows = []
    for sample in range(len(tensor)):
        channels = [tensor.select(axis, c)[sample].flatten().tolist() for c in range(tensor.shape[axis])]
        channels = channels if channel is None else [channels[channel]]
        if how == "none" or len(channels[0]) == 1:
            rows.append([value for values in channels for value in values])
            continue
        means = [sum(values) / len(values) for values in channels]
        deviations = [math.sqrt(sum((v - m) ** 2 for v in values) / len(values)) for values, m in zip(channels, means)]
        rows.append({
            "mean": means, "mean_std": means + deviations, "max": list(map(max, channels)),
            "min_max": list(map(min, channels)) + list(map(max, channels)),
        }[how])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("how", ["none", "mean", "mean_std", "max", "min_max"])
@pytest.mark.parametrize("shape, axis", [
    ((3, 4), 1), ((3, 4, 1), 1), ((3, 4, 5), 1), ((3, 5, 4), -1), ((3, 4, 5, 6), 1), ((2, 4, 3, 2, 2), 1),
])
@pytest.mark.parametrize("channel", [None, 2, -1])
def test_aggregations(how, shape, axis, channel):
    tensor = torch.randn(shape, dtype=torch.float64)
    expected = aggregate_by_loops(tensor, how, axis, channel)
    torch.testing.assert_close(aggregate(tensor, how, axis, channel), expected)
    concept = ProfileConcept(how, axis, channel)
    value, position = concept.read(tensor)
    torch.testing.assert_close(value, expected)
    assert position.shape == value.shape
    for column in range(value.shape[1]):
        masked = concept.mask(0, [column])(tensor.clone())
        assert torch.equal(masked[1:], tensor[1:])
        kept = masked[0] != 0
        assert torch.equal(masked[0][kept], tensor[0][kept])
        alone = aggregate(masked, how, axis, channel)[0]
        torch.testing.assert_close(alone[column], expected[0, column])
        per_column = 1 if how == "none" else math.prod(shape[1:]) // shape[axis]
        assert kept.sum() == per_column


def test_aggregations_that_do_not_exist():
    with pytest.raises(ValueError, match="'mean_std'.*not 'median'"):
        aggregate(torch.ones(1, 2), "median")
    with pytest.raises(ValueError, match="'median'"):
        ProfileConcept("median")
    with pytest.raises(IndexError, match="channel 4.*0 to 1"):
        aggregate(torch.ones(1, 2, 3), channel=4)


# In a store

@pytest.fixture(scope="module")
def visualization(tmp_path_factory):
    """A layer that tells bright, dark and striped images apart, swept over 120 of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)).eval()
    kind = torch.arange(120) % 3
    images = .05 * torch.rand(120, 1, 8, 8) + torch.stack([
        torch.ones(1, 8, 8), torch.zeros(1, 8, 8), (torch.arange(8) % 2).float().expand(1, 8, 8)
    ])[kind]
    layer_map = {"1": ChannelConcept(), "0": ProfileConcept("none", channel=2)}
    visualization = FeatureVisualization(
        CondAttribution(model), TensorDataset(images, kind), layer_map, path=tmp_path_factory.mktemp("store")
    )
    visualization.run(EpsilonPlusFlat(), 0, 120)
    return visualization


@pytest.mark.parametrize("layer", ["0", "1"])
@pytest.mark.parametrize("mode", ["activation", "relevance"])
def test_patterns_of_what_was_swept(visualization, layer, mode):
    patterns = visualization.find_patterns(layer, mode, min_pattern_size=20)
    store = ReferenceStore(visualization.path)
    expected = find_patterns(np.asarray(store.values(layer, mode)), min_pattern_size=20)
    assert np.array_equal(patterns.labels, expected.labels)
    if mode == "activation":
        assert adjusted_rand_score(patterns.labels, torch.arange(120) % 3) == 1
    read = Patterns.load(store, layer=layer, quantity=mode)
    assert np.array_equal(read.labels, patterns.labels) and np.array_equal(read.samples, store.rows(mode)["sample"])
    assert read.options["source"] == {"store": store.identity(), "layer": layer, "quantity": mode}
    np.testing.assert_array_equal(read.statistics(0).mean, patterns.statistics(0).mean)


def test_pattern_references(visualization):
    patterns = visualization.find_patterns("1", min_pattern_size=20)
    references = visualization.get_pattern_reference([2, 0], "1", r_range=(1, 5), composite=EpsilonPlusFlat(),
                                                     plot_fn=None)
    assert list(references) == [2, 0]
    for pattern, (images, heatmaps) in references.items():
        samples = patterns.most_stable(pattern, 5)[1:]
        expected = torch.stack([visualization.dataset[int(i)][0] for i in samples])
        assert torch.equal(images, expected)
        attribution = visualization.attribution(expected, [{}], EpsilonPlusFlat(), start_layer="1")
        torch.testing.assert_close(heatmaps, attribution.heatmap)
    pictures, _ = visualization.get_pattern_reference(1, "1", composite=EpsilonPlusFlat())[1]
    assert len(pictures) == 8
    with pytest.raises(IndexError, match="no pattern 3"):
        visualization.get_pattern_reference(3, "1")
    with pytest.raises(ValueError, match="starts at 500"):
        visualization.get_pattern_reference(1, "1", r_range=(500, 501))


def test_patterns_of_another_sweep_are_refused(visualization, tmp_path):
    fresh = FeatureVisualization(
        visualization.attribution, visualization.dataset, {"1": ChannelConcept()}, path=tmp_path / "store"
    )
    store = fresh.run(EpsilonPlusFlat(), 0, 120)
    none = r"no patterns of the activation of '1'.*find_patterns\(store, '1', 'activation'"
    with pytest.raises(StoreError, match=none):
        Patterns.load(store, layer="1")
    fresh.find_patterns("1")
    kept = {file.name: file.read_bytes() for file in (tmp_path / "store" / "patterns").iterdir()}
    store = fresh.run(EpsilonPlusFlat(), 0, 120, batch_size=7, overwrite=True)
    assert not (store.path / "patterns").exists()
    folder = store.place.folder / "patterns"
    assert not folder.exists()
    folder.mkdir()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    with pytest.raises(StoreError, match="of another sweep"):
        Patterns.load(store, layer="1")


def test_figures(patterns, values):
    figure = patterns.plot(np.arange(300) % 3)
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {str(count) for count in patterns.label_counts(np.arange(300) % 3)[1].flat if count}
    assert len(patterns.plot_units(0, [2, 5]).axes[0].get_xticks()) == 2
    images = TensorDataset(torch.rand(300, 1, 4, 4), torch.arange(300))
    figure = patterns.plot_exemplars(images, [0, 1], n=3)
    assert sum(len(axis.images) for axis in figure.axes) == 2 * 7


def test_equal_rows_belong_to_the_same_pattern():
    rare = np.repeat([[0., 0, 0, 0], [9, 0, 0, 0], [0, 9, 0, 0]], 60, axis=0)  # as sparse layers give them
    values = np.concatenate([rare, np.random.default_rng(2).uniform(3, 6, (120, 4))])
    patterns = find_patterns(values)
    repeated = [p for p in range(len(patterns)) if len(np.unique(values[patterns.members(p)], axis=0)) == 1]
    assert set(patterns.labels[:180]) == set(repeated) and len(repeated) >= 3
    labels, probability = patterns.assign(values)
    for pattern in repeated:
        members = patterns.members(pattern)
        assert set(labels[members]) <= set(repeated) and probability[members].min() > 0
        for found in np.unique(labels[members]):  # hdbscan may divide equal rows
            assert np.array_equal(values[patterns.members(found)[0]], values[members[0]])


def test_joined_patterns_take_no_new_rows(values):
    patterns = find_patterns(values, epsilon=.3)
    with pytest.raises(ValueError, match="epsilon=0"):
        patterns.assign(values)
    with pytest.raises(ValueError, match="epsilon=0"):
        find_patterns(values, epsilon=.3, fit_samples=100)


def test_values_of_any_type(values):
    expected = find_patterns(values.astype(np.float64)).labels
    for given in (
        torch.tensor(values, requires_grad=True), list(torch.tensor(values).double()), values.tolist(), values * 1e-30,
    ):
        assert np.array_equal(find_patterns(given).labels, expected)
    assert len(find_patterns(torch.tensor(values).bfloat16(), min_pattern_size=20)) == 4
    precise = values.astype(np.float64) + 1e8
    assert np.array_equal(
        find_patterns(torch.tensor(precise), normalize=False).labels, find_patterns(precise, normalize=False).labels
    )


def test_numbers_of_numpy_as_options(values, tmp_path):
    patterns = find_patterns(values, min_pattern_size=np.int64(20), normalize=np.bool_(True), epsilon=np.float32(0))
    patterns.save(tmp_path / "patterns.npz")
    assert Patterns.load(tmp_path / "patterns.npz").options["min_pattern_size"] == 20


def test_damaged_files(patterns, tmp_path):
    path = tmp_path / "patterns.npz"
    patterns.save(path)
    content = path.read_bytes()
    for damaged in (content[:len(content) // 2], content[:1000] + b"??" + content[1002:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="patterns.npz"):
            Patterns.load(path)


def test_profile_concepts_know_their_ids():
    for how, count in (("mean", 5), ("min_max", 10), ("none", 15)):
        concept = ProfileConcept(how)
        concept.mask(0, [count - 1])(torch.ones(1, 5, 3))
        with pytest.raises(IndexError, match=f"0 to {count - 1}"):
            concept.mask(0, [count], "layer")(torch.ones(1, 5, 3))


@pytest.mark.parametrize("units, copies", [(2, 30), (2, 100), (2, 1000), (8, 300)])
def test_equal_rows_are_in_one_pattern(units, copies):
    random = np.random.default_rng(0)
    points = random.normal(size=(3, units))
    which = random.permutation(np.repeat(np.arange(3), copies))
    patterns = find_patterns(points[which])
    labels, probability, outlier_score = patterns.labels, patterns.probability, patterns.outlier_score
    assert len(patterns) == 3 and set(labels) == {0, 1, 2} and (np.diff(patterns.persistence) <= 0).all()
    for point in range(3):
        for values in (labels, probability, outlier_score):
            assert len(set(values[which == point])) == 1
    assert np.array_equal(patterns.assign(points)[0], [labels[which == point][0] for point in range(3)])


@pytest.mark.parametrize("zeros", [3, 50, 200])
def test_rows_of_zeros_among_others_stay_together(zeros, tmp_path):
    random = np.random.default_rng(0)
    groups = random.normal(size=(2, 100, 16)) * .3 + np.array([3, -3])[:, None, None]
    values = np.concatenate([*groups, np.zeros((zeros, 16))])
    patterns = find_patterns(values, normalize=False)
    assert len(set(patterns.labels[200:])) == 1 and (zeros < 5 or patterns.labels[-1] >= 0)
    of_groups = [set(part) - {-1} for part in np.split(patterns.labels, [100, 200])]
    assert all(of_groups[:2]) and not of_groups[0] & of_groups[1]
    assert zeros < 5 or not of_groups[2] & set.union(*of_groups[:2])
    assert len(patterns) == len(patterns.sizes) and (patterns.sizes > 0).all()
    patterns.save(tmp_path / "patterns.npz")
    loaded = Patterns.load(tmp_path / "patterns.npz")
    assert np.array_equal(loaded.assign(values)[0], patterns.assign(values)[0])
    assert np.array_equal(patterns.assign(values[200:])[0], patterns.labels[200:])


@pytest.mark.parametrize("item, kinds", [
    (lambda row: (torch.rand(3, 9, 9), 0), 1), (lambda row: (np.zeros((9, 9)), 0), 1),
    (lambda row: (torch.tensor(row), 0), 2), (lambda row: (torch.rand(1, 200), 0), 2),
    (lambda row: {"input_ids": torch.arange(5), "labels": 0}, 2),
], ids=["images", "arrays", "tables", "signals", "tokens"])
def test_exemplars_of_any_kind_are_drawn(item, kinds):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(mean, 0.1, (60, 4)) for mean in range(3)]).astype(np.float32)
    patterns = find_patterns(values, min_pattern_size=20)
    figure = patterns.plot_exemplars([item(row) for row in values], [0, 2], n=3)
    assert len([axis for axis in figure.axes if axis.images]) == 2 * (6 if kinds == 2 else 7)
    plt.close(figure)
