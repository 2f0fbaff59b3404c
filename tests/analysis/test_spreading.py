"""Maps on which nothing overlaps keep neighbours, and say how well."""
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.manifold import trustworthiness

from crp.analysis import ResponseMap, TopographicMap
from crp.analysis.layouts import spread_over_disc
from crp.analysis.spreading import even_spacing, exchange, move_apart, neighbour_ranks, spread_evenly

pytestmark = pytest.mark.usefixtures("quick")
SHAPES = ["uniform", "few groups", "clusters", "low rank"]


def twins(shape, seed, pairs=32, noise=1e-3):
    """Profiles [G, 2 * pairs] of pairs of channels that are nearly alike, in random order, and the pair of each."""
    random = np.random.default_rng(seed)
    base = {
        "uniform": lambda: random.random((pairs, 10)),
        "few groups": lambda: random.random((pairs, 4)),
        "clusters": lambda: random.normal(size=(5, 10))[random.integers(0, 5, pairs)] + .3 * random.normal(
            size=(pairs, 10)),
        "low rank": lambda: random.normal(size=(pairs, 3)) @ random.normal(size=(3, 10)),
    }[shape]()
    pair = random.permutation(np.repeat(np.arange(pairs), 2))
    return (base[pair] + noise * base.std() * random.normal(size=(len(pair), base.shape[1]))).T, pair


def twin_among(points, pair, count):
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return (pair[np.argsort(distances, axis=1)[:, :count]] == pair[:, None]).any(1).mean()


def map_of(profiles, method, spread):
    return TopographicMap(method, spread).fit(profiles)


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("shape", SHAPES)
def test_even_maps_keep_twins_side_by_side(shape, method):
    kept = []
    for seed in range(3):
        profiles, pair = twins(shape, seed)
        even = map_of(profiles, method, "even")
        kept.append(twin_among(even.coordinates, pair, 6))
        loss = trust(profiles, map_of(profiles, method, False)) - trust(profiles, even)
        assert loss < .06
    assert np.mean(kept) >= (.98 if method == "tsne" else .95)


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_of_channels_moved_apart_keep_twins_nearest(shape, method):
    nearest, losses = [], []
    for seed in range(3):
        profiles, pair = twins(shape, seed)
        apart = map_of(profiles, method, "apart")
        nearest.append(twin_among(apart.coordinates, pair, 1))
        losses.append(trust(profiles, map_of(profiles, method, False)) - trust(profiles, apart))
    assert np.mean(nearest) >= .9 and np.mean(losses) < .02


def trust(profiles, layout):
    return trustworthiness(profiles.T, layout.coordinates, n_neighbors=5)


@pytest.mark.parametrize("count", [2, 3, 5, 20, 200])
@pytest.mark.parametrize("kind", ["different", "alike", "crowded", "on a line"])
def test_no_two_points_are_too_near(count, kind):
    random = np.random.default_rng(0)
    points = {
        "different": lambda: random.normal(size=(count, 2)), "alike": lambda: np.zeros((count, 2), np.float32),
        "crowded": lambda: np.exp(4 * random.normal(size=(count, 2))),
        "on a line": lambda: np.linspace(0, 1, count)[:, None] * [1, 0],
    }[kind]()
    ranks = neighbour_ranks(np.linalg.norm(points[:, None] - points[None], axis=2))
    even, apart = spread_evenly(points, ranks), move_apart(points, ranks)
    assert pdist(even).min() >= .7 * even_spacing(count) - 1e-9 and np.linalg.norm(even, axis=1).max() <= 1 + 1e-9
    assert pdist(apart).min() >= .5 * even_spacing(count) - 1e-9 and np.abs(apart).max() <= 1
    assert np.array_equal(apart, move_apart(points, ranks)) and np.array_equal(even, spread_evenly(points, ranks))


def test_points_that_do_not_overlap_stay_where_they_are():
    points = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)), -1).reshape(-1, 2)
    ranks = neighbour_ranks(np.linalg.norm(points[:, None] - points[None], axis=2))
    assert np.abs(move_apart(points, ranks) - points).max() < .1


def test_exchanges_bring_neighbours_together():
    random = np.random.default_rng(0)
    truth = spread_over_disc(random.normal(size=(100, 2)))
    ranks = neighbour_ranks(np.linalg.norm(truth[:, None] - truth[None], axis=2))
    shaken = truth.copy()
    for first in range(0, 100, 10):  # some are where others belong
        shaken[[first, first + 5]] = shaken[[first + 5, first]]
    mended = exchange(shaken, ranks, beside=6, reward=.5)
    assert sorted(map(tuple, mended)) == sorted(map(tuple, truth))
    trust_of = [trustworthiness(truth, places, n_neighbors=5) for places in (shaken, mended)]
    assert trust_of[0] < .95 and trust_of[1] > .99


def test_spreads_are_named():
    assert repr(TopographicMap("pca", True)) == "TopographicMap('pca', spread='even', random_state=0)"
    assert repr(TopographicMap(spread="apart")) == "TopographicMap('tsne', spread='apart', random_state=0)"
    profiles, _ = twins("uniform", 0)
    of_true, even = map_of(profiles, "pca", True), map_of(profiles, "pca", "even")
    np.testing.assert_array_equal(of_true.coordinates, even.coordinates)
    for unknown in ("disc", None, 1.5, 1):
        with pytest.raises(ValueError, match="'even', 'apart' or False"):
            TopographicMap(spread=unknown)


def test_quality_is_that_of_scikit_learn():
    profiles, pair = twins("clusters", 0)
    even, unspread = map_of(profiles, "pca", "even"), map_of(profiles, "pca", False)
    quality = even.quality()
    assert quality.trustworthiness == pytest.approx(trust(profiles, even), abs=1e-9)
    assert quality.unspread == pytest.approx(trust(profiles, unspread), abs=1e-9)
    assert quality.nearest_kept == twin_among(even.coordinates, pair, 6)
    assert unspread.quality().unspread is None
    expected = trustworthiness(profiles.T, even.coordinates, n_neighbors=9)
    assert even.quality(9).trustworthiness == pytest.approx(expected, abs=1e-9)
    text = f"MapQuality(trustworthiness={quality.trustworthiness:.3f}, unspread={quality.unspread:.3f}, nearest_kept="
    assert repr(quality).startswith(text) and repr(quality).endswith("%, n_neighbors=5)")
    for wrong in (0, 32):
        with pytest.raises(ValueError, match="fewer than half of the 64"):
            even.quality(wrong)
    with pytest.raises(ValueError, match="call fit"):
        TopographicMap().quality()


def test_any_of_equally_near_neighbours_will_do():
    profiles = np.repeat(np.random.default_rng(0).random((8, 10)), 10, 0).T  # ten at each place
    assert map_of(profiles, "tsne", "even").quality().nearest_kept > .95


def test_quality_of_response_maps(tmp_path):
    responses, pair = twins("low rank", 0)
    response_map = ResponseMap().fit_values({"a": responses[:, :30], "b": responses[:, 30:]})
    quality = response_map.quality(3)
    assert quality.unspread is None and quality.nearest_kept > .95
    rounded = response_map.round().quality(3)
    assert rounded.unspread == quality.trustworthiness and rounded.trustworthiness > quality.trustworthiness - .06
    response_map.save(tmp_path / "map.npz")
    with pytest.raises(ValueError, match="measure it before save"):
        ResponseMap.load(tmp_path / "map.npz").quality()
