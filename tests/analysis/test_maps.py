"""Topographic maps, response maps and projections."""
import sys

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.analysis import NeuralResponseMap, ResponseMap, TopographicMap, group_profiles, plot_projection, project
from crp.analysis.layer_responses import inner_layers, layer_responses
from crp.analysis.layouts import spread_over_disc
from crp.analysis.rank_correlation import spearman
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.visualization import FeatureVisualization

pytestmark = pytest.mark.usefixtures("quick")
METHODS = ["tsne", pytest.param("umap", marks=pytest.mark.slow), "pca"]  # umap compiles itself first


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def planted_profiles(channels=200, kinds=4, groups=6, spread=.05):
    """Channels of four kinds, each with a profile of its own, and the kind of each."""
    random = np.random.default_rng(0)
    kind = np.arange(channels) % kinds
    profiles = random.random((kinds, groups))[kind].T + random.normal(0, spread, (groups, channels))
    return profiles, kind


def share_of_like_neighbours(points, kind, neighbours=5):
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :neighbours]
    return (kind[nearest] == kind[:, None]).mean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spread", [True, False])
def test_like_channels_lie_side_by_side(method, spread):
    profiles, kind = planted_profiles()
    layout = TopographicMap(method, spread).fit(profiles)
    assert layout.coordinates.shape == (200, 2)
    assert layout.coordinates.min() == 0 and layout.coordinates.max() == 1
    assert share_of_like_neighbours(layout.coordinates, kind) > (.85 if spread else .99)
    again = TopographicMap(method, spread).fit(profiles)
    assert np.array_equal(layout.coordinates, again.coordinates)


def test_spread_channels_do_not_overlap():
    random = np.random.default_rng(0)
    points = spread_over_disc(np.repeat(random.random((10, 2)), 20, 0))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 9 * np.eye(200)
    assert distances.min() > 1 / np.sqrt(200) and np.linalg.norm(points, axis=1).max() <= 1
    distinct = random.random((200, 2))
    np.testing.assert_allclose(spread_over_disc(5 * distinct + 3), spread_over_disc(distinct))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 15])
@pytest.mark.parametrize("spread", [True, False])
def test_small_layers(method, channels, spread):
    profiles = np.random.default_rng(0).random((3, channels, 2))
    layout = TopographicMap(method, spread).fit(profiles)
    assert layout.coordinates.shape == (channels, 2) and np.isfinite(layout.coordinates).all()
    pictures = layout.interpolate(layout.values(), 20)
    assert pictures.shape == (3, 20, 20) and np.isfinite(pictures).all()
    np.testing.assert_allclose(layout.values(), profiles.mean(2))


def test_rounding_is_not_stretched():
    contrast_of_two = np.random.default_rng(0).random(40) * np.array([[1.], [-1.]])
    coordinates = TopographicMap("pca", spread=False).fit(contrast_of_two).coordinates
    assert (coordinates[:, 1] == .5).all()
    with pytest.raises(ValueError, match="NaN"):
        TopographicMap().fit(np.full((2, 20), np.nan))


def test_channels_that_are_all_alike():
    layout = TopographicMap().fit(np.ones((2, 30)))
    assert len(np.unique(layout.coordinates, axis=0)) == 30
    assert TopographicMap().fit(np.zeros((2, 30))).coordinates.shape == (30, 2)


def test_positions_where_nothing_happens_do_not_count():
    profiles, _ = planted_profiles()
    silent = np.stack([profiles, np.zeros_like(profiles), 1e-12 * np.random.default_rng(0).random(profiles.shape)], 2)
    assert np.array_equal(TopographicMap().fit(silent).coordinates, TopographicMap().fit(profiles).coordinates)


def test_interpolation_restores_a_plane():
    profiles, _ = planted_profiles()
    layout = TopographicMap().fit(profiles)
    x, y = layout.coordinates.T
    picture = layout.interpolate(2 * x - 3 * y + 5, resolution=40)
    ticks = np.linspace(0, 1, 40)
    expected = 2 * ticks[None] - 3 * ticks[:, None] + 5
    inside = picture != 0
    assert .6 < inside.mean() < .9
    np.testing.assert_allclose(picture[inside], expected[inside], rtol=1e-9)
    assert not picture[0, 0] and not picture[-1, -1]


@pytest.fixture(scope="module")
def profiles():
    values = np.random.default_rng(0).normal(size=(50, 20, 3))
    return group_profiles({"a": values, "b": values[:, :8]}, np.arange(50) % 5)


def test_maps_of_group_profiles(profiles):
    with pytest.raises(ValueError, match="which layer.*a, b"):
        TopographicMap().fit(profiles)
    layout = TopographicMap().fit(profiles, "a")
    np.testing.assert_allclose(layout.values(), profiles["a"].mean(2))
    figure = layout.plot(groups=["4", "1"])
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == ["4", "1"]
    limits = {axis.images[0].get_clim() for axis in drawn}
    largest = np.abs(profiles["a"].mean(2)[[4, 1]]).max()
    assert limits == {(-largest, largest)}
    np.testing.assert_allclose(drawn[0].images[0].get_array(), layout.interpolate(layout.values()[4]))
    assert len([axis for axis in layout.plot(arrange="grid").axes if axis.images]) == 5
    assert len(layout.plot(arrange="single")) == 5
    with pytest.raises(ValueError, match="'row', 'grid' or 'single'"):
        layout.plot(arrange="column")
    with pytest.raises(KeyError, match="no group '7'"):
        layout.plot(groups=["7"])
    with pytest.raises(ValueError, match="20 channels, but the profiles of 8"):
        layout.values(profiles["b"])
    with pytest.raises(ValueError, match="call fit"):
        TopographicMap().plot(profiles=profiles)


def test_umap_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r"crp-concepts\[umap\].*'tsne' does not"):
        TopographicMap("umap").fit(planted_profiles()[0])
    assert TopographicMap().method == "tsne"
    with pytest.raises(ValueError, match="'umap', 'tsne', 'pca'"):
        TopographicMap("mds")


@pytest.mark.parametrize("method", METHODS)
def test_projection_of_samples(method):
    values, kind = planted_profiles(spread=.02)
    points = project(values.T, method)
    assert points.shape == (200, 2) and share_of_like_neighbours(points, kind) > .95
    for labels in (None, kind, kind / 2, np.array(list("abcd"))[kind]):
        assert plot_projection(points, labels).axes[0].collections
    assert share_of_like_neighbours(project(1e-25 * values.T, method), kind) > .95
    with pytest.raises(ValueError, match="NaN"):
        project(np.full((4, 3), np.nan), method)


# Response maps

@pytest.mark.parametrize("shape", [(30, 7), (200, 40), (5, 2)])
@pytest.mark.parametrize("ties", [True, False])
def test_rank_correlation(shape, ties):
    values = np.random.default_rng(0).normal(size=shape)
    values = values.round() if ties else values
    values[0], values[1] = 9, -9  # no column is constant
    expected = np.atleast_2d(spearmanr(values).statistic)
    expected = expected if expected.shape[0] > 1 else np.array([[1, expected[0, 0]], [expected[0, 0], 1]])
    np.testing.assert_allclose(spearman(values, block=3), expected, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10), nn.ReLU(),
        nn.Linear(10, 3),
    ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def test_responses_are_means_over_positions(model, images, model_state):
    state = model_state(model)
    found = layer_responses(model, images, ["1", "6"], batch_size=13)
    with torch.no_grad():
        np.testing.assert_allclose(found["1"], model[:2](images).mean((2, 3)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["6"], model[:7](images), rtol=1e-5, atol=1e-6)
    batches = [images[:50], [images[50:], torch.zeros(30)]]
    for layer, values in layer_responses(model, batches, ["1", "6"]).items():
        np.testing.assert_allclose(values, found[layer], rtol=1e-5, atol=1e-6)
    assert model_state(model) == state
    assert inner_layers(model) == ["1", "2", "3", "4", "5", "6"]
    with pytest.raises(ValueError, match="no layer '9'"):
        layer_responses(model, images, ["9"])


def test_a_module_that_is_called_twice_is_read_at_its_last_call():
    relu, first, second = nn.ReLU(), nn.Linear(4, 5), nn.Linear(5, 5)
    model = nn.Sequential(first, relu, second, relu, nn.Linear(5, 2))
    inputs = torch.randn(30, 4)
    with torch.no_grad():
        expected = relu(second(relu(first(inputs))))
    np.testing.assert_allclose(layer_responses(model, inputs, ["1"], batch_size=8)["1"], expected, rtol=1e-5, atol=1e-6)


def test_correlated_neurons_lie_side_by_side():
    random = np.random.default_rng(0)
    kind = np.arange(60) % 5
    causes = random.normal(size=(400, 5))
    values = np.exp(causes[:, kind] + .3 * random.normal(size=(400, 60)))  # alike in rank
    response_map = ResponseMap().fit_values({"a": values[:, :25], "b": values[:, 25:]})
    assert share_of_like_neighbours(response_map.coordinates, kind) > .95
    assert response_map.neurons[24:26] == [("a", 24), ("b", 0)]
    again = ResponseMap().fit_values({"a": values[:, :25], "b": values[:, 25:]})
    assert np.array_equal(again.coordinates, response_map.coordinates)
    assert response_map.coordinates.min() == -1 and response_map.coordinates.max() == 1


def test_anticorrelated_neurons_lie_far_apart():
    random = np.random.default_rng(0)
    cause = random.normal(size=(300, 1))
    values = cause * np.where(np.arange(40) % 2, 1, -1) + .2 * random.normal(size=(300, 40))
    assert share_of_like_neighbours(ResponseMap().fit_values({"a": values}).coordinates, np.arange(40) % 2) == 1


@pytest.fixture(scope="module")
def response_map(model, images):
    return ResponseMap().fit(model, images)


def test_scaled_responses(response_map, model, images):
    values = layer_responses(model, images, response_map.layers)
    columns = np.concatenate(list(values.values()), 1).astype(np.float64)
    changing = columns.max(0) > columns.min(0)
    columns = columns[:, changing]
    assert len(response_map.neurons) == changing.sum()
    bright = images[:10] * 3
    new = np.concatenate(list(layer_responses(model, bright, response_map.layers).values()), 1)[:, changing]
    scaled = (new - columns.min(0)) / (columns.max(0) - columns.min(0))
    np.testing.assert_allclose(response_map.responses(bright), scaled.clip(0, 1).mean(0), rtol=1e-5, atol=1e-6)
    by_values = response_map.responses(layer_responses(model, bright, response_map.layers))
    np.testing.assert_array_equal(by_values, response_map.responses(bright))


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_pictures_of_responses(response_map, images, method, tmp_path):
    picture = response_map.interpolate(images, method, resolution=60)
    inside = np.isfinite(picture)
    assert .3 < inside.mean() < 1 and not inside[0, 0]
    responses = response_map.responses(images)
    assert picture[inside].min() >= responses.min() - 1e-9 and picture[inside].max() <= responses.max() + 1e-9
    if method == "nearest":
        assert np.isin(picture[inside], responses).all()
    figure = response_map.plot(images, method, file=tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 0 and figure.axes[0].images[0].get_clim() == (0, 1)
    assert figure.axes[0].get_title().startswith(f"{len(response_map.neurons)} neurons of 1, 2")
    assert figure.axes[1].get_xlabel().startswith("mean response")
    assert response_map.plot(images, title="all images").axes[0].get_title() == "all images"
    with pytest.raises(ValueError, match="'linear' or 'nearest'"):
        response_map.plot(images, "cubic")


def test_neurons_are_found_by_place(response_map):
    for i in (0, 5, len(response_map.neurons) - 1):
        assert response_map.neuron_at(*response_map.coordinates[i] + 1e-6) == response_map.neurons[i]


def test_responses_of_any_type():
    values = np.random.default_rng(0).integers(-128, 128, (60, 8)).astype(np.int8)
    of_integers, of_floats = (ResponseMap().fit_values({"a": array}) for array in (values, values.astype(float)))
    assert np.array_equal(of_integers.coordinates, of_floats.coordinates)
    assert np.array_equal(of_integers.responses({"a": values}), of_floats.responses({"a": values.astype(float)}))
    assert np.array_equal(of_floats.responses({"a": values, "b": values}), of_floats.responses({"a": values}))


def test_unused_modules_and_train_mode():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.unused = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(2, 2)
            self.relu, self.last = nn.ReLU(), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.relu(self.norm(self.first(x))))

    model, inputs = Model().train(), torch.randn(30, 4)
    mean = model.norm.running_mean.clone()
    assert ResponseMap().fit(model, inputs).layers == ["norm", "relu"]
    assert torch.equal(model.norm.running_mean, mean) and model.training
    for bad, error, message in (
        (inputs.numpy(), TypeError, "from_numpy"), ([], ValueError, "no inputs"),
    ):
        with pytest.raises(error, match=message):
            ResponseMap().fit(model, bad)


def test_round_maps_do_not_depend_on_the_order_of_neurons():
    random = np.random.default_rng(0)
    response_map, shuffled = ResponseMap(), ResponseMap()
    points, order = random.uniform(-1, 1, (200, 2)), random.permutation(200)
    response_map.coordinates, shuffled.coordinates = points.copy(), points[order].copy()
    rounded = response_map.round().coordinates
    np.testing.assert_array_equal(shuffled.round().coordinates, rounded[order])
    radius = np.linalg.norm(rounded, axis=1)
    sector = np.floor((np.arctan2(*points.T[::-1]) + np.pi) / (2 * np.pi) * 36).astype(int) % 36
    assert radius.max() <= 1 + 1e-12
    for number in np.unique(sector):
        assert radius[sector == number].max() == pytest.approx(1)
    cross = points[:, 0] * rounded[:, 1] - points[:, 1] * rounded[:, 0]
    np.testing.assert_allclose(cross, 0, atol=1e-12)


def test_save_and_load_of_response_maps(response_map, model, images, tmp_path):
    response_map.save(tmp_path / "map.npz")
    loaded = ResponseMap.load(tmp_path / "map.npz", model)
    assert loaded.neurons == response_map.neurons and loaded.layers == response_map.layers
    np.testing.assert_array_equal(loaded.interpolate(images), response_map.interpolate(images))
    with pytest.raises(ValueError, match="has no model"):
        ResponseMap.load(tmp_path / "map.npz").plot(images)
    (tmp_path / "map.npz").write_bytes(b"?")
    with pytest.raises(ValueError, match="no 'crp-response-map 1'"):
        ResponseMap.load(tmp_path / "map.npz")


def test_the_names_that_users_know(model, images, tmp_path):
    old = NeuralResponseMap(model)
    old.TrainMap(images, ["1", "3"])
    old.CircleProjection()
    figure = old.GenerateMap(images[:5], method="linear", cmap="magma", size=(4, 4), file=tmp_path / "map.png")
    assert (tmp_path / "map.png").exists() and tuple(figure.get_size_inches()) == (4, 4)


def test_response_map_of_a_store(model, images, tmp_path):
    layer_map = {"1": ChannelConcept(), "6": ChannelConcept()}
    visualization = FeatureVisualization(
        CondAttribution(model), TensorDataset(images, torch.arange(80) % 3), layer_map, path=tmp_path
    )
    store = visualization.run(EpsilonPlusFlat(), 0, 80)
    response_map = ResponseMap().fit_store(store)
    expected = ResponseMap().fit_values({layer: np.asarray(store.values(layer, "activation")) for layer in layer_map})
    assert np.array_equal(response_map.coordinates, expected.coordinates)
    assert ResponseMap().fit_store(store, ["1"], "relevance").layers == ["1"]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_few_neurons(count):
    values = np.random.default_rng(0).random((50, count))
    response_map = ResponseMap().fit_values({"a": values})
    assert np.isfinite(response_map.coordinates).all()
    assert np.isfinite(response_map.interpolate({"a": values}, resolution=10)).any()


def test_responses_that_make_no_map():
    with pytest.raises(ValueError, match="1 neurons"):
        ResponseMap().fit_values({"a": np.stack([np.arange(5), np.ones(5)], 1)})
    with pytest.raises(ValueError, match="NaN"):
        ResponseMap().fit_values({"a": np.full((5, 3), np.nan)})
    with pytest.raises(ValueError, match="not of the shapes"):
        ResponseMap().fit_values({"a": np.ones((5, 3)), "b": np.ones((4, 3))})
    with pytest.raises(ValueError, match="call fit"):
        ResponseMap().plot({"a": np.ones((5, 3))})
    with pytest.raises(ValueError, match="no layers between"):
        ResponseMap().fit(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.rand(5, 2))
