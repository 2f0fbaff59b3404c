import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

import crp
from crp.image import (
    get_crop_range,
    imgify,
    plot_grid,
    upsample_patches,
    vis_features,
    vis_img_heatmap,
    vis_inputs,
    vis_opaque_img,
    vis_signal,
)
from crp.pictures.heatmaps import divide_by_maximum
from crp.text import vis_tokens


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pixels(picture):
    return np.asarray(picture.convert("RGB"))


def test_crp_does_not_import_torchvision():
    for file in Path(crp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torchvision" for name in names), file


# imgify

@pytest.mark.parametrize("shape, size", [
    ((5, 7), (7, 5)), ((1, 5, 7), (7, 5)), ((3, 5, 7), (7, 5)), ((5, 7, 1), (7, 5)), ((5, 7, 3), (7, 5)),
    ((3, 5, 3), (3, 5)), ((1, 5, 1), (1, 5)), ((3, 3, 3), (3, 3)), ((1, 1), (1, 1)), ((2, 9), (9, 2)),
])
@pytest.mark.parametrize("form", ["tensor", "array", "float32", "integers", "gradient"])
def test_images_of_any_layout(shape, size, form):
    array = np.random.default_rng(0).normal(size=shape)
    image = {
        "tensor": torch.tensor(array), "array": array, "float32": array.astype(np.float32),
        "integers": (array * 100).astype(int), "gradient": torch.tensor(array, requires_grad=True),
    }[form]
    picture = imgify(image)
    assert isinstance(picture, Image.Image) and picture.size == size


def test_a_grey_ramp_has_its_lowest_value_black_and_its_highest_white():
    ramp = np.linspace(-3, 5, 9)[None]
    assert pixels(imgify(ramp, cmap="gray"))[0, :, 0].tolist() == [0, 32, 64, 96, 128, 159, 191, 223, 255]


def test_colour_channels_keep_their_places():
    colours = np.zeros((3, 2, 4))
    colours[0, 0, 1] = colours[1, 1, 2] = colours[2, 0, 3] = 1
    expected = (np.moveaxis(colours, 0, 2) * 255).astype(np.uint8)
    np.testing.assert_array_equal(pixels(imgify(colours)), expected)
    np.testing.assert_array_equal(pixels(imgify(np.moveaxis(colours, 0, 2))), expected)
    np.testing.assert_array_equal(pixels(imgify(torch.tensor(colours))), expected)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("shape", [(4, 6, 3), (3, 4, 6)])
def test_bytes_are_shown_as_they_are(make, shape):
    array = np.random.default_rng(0).integers(50, 90, shape, dtype=np.uint8)
    expected = array if shape[2] == 3 else np.moveaxis(array, 0, 2)
    np.testing.assert_array_equal(pixels(imgify(make(array))), expected)


def test_a_pil_image_stays_as_it_is():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8))
    np.testing.assert_array_equal(pixels(imgify(picture)), pixels(picture))


RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


def is_reddish(pixel):
    return int(pixel[0]) > int(pixel[2]) + 20


def is_bluish(pixel):
    return int(pixel[2]) > int(pixel[0]) + 20


def test_a_symmetric_map_has_zero_in_its_middle():
    picture = pixels(imgify(np.array([[-1.0, 0.0, 4.0]]), symmetric=True))[0]
    assert is_bluish(picture[0]) and is_reddish(picture[2])
    assert picture[1].min() >= 250
    assert picture[2].tolist() == list(RED)
    assert picture[0].tolist() != list(BLUE)


def test_limits_of_the_colour_map():
    picture = pixels(imgify(np.array([[0.0, 1.0, 2.0, 3.0]]), cmap="gray", vmin=1, vmax=2))[0, :, 0]
    assert picture.tolist() == [0, 0, 255, 255]
    assert pixels(imgify(np.array([[0.0, 1.0]]), cmap="gray", vmax=2))[0, :, 0].tolist() == [0, 128]
    assert pixels(imgify(np.array([[0.0, 1.0]]), cmap="gray", vmin=-1))[0, :, 0].tolist() == [128, 255]
    symmetric = pixels(imgify(np.array([[-1.0, 0.0, 1.0]]), vmin=-4, vmax=4, symmetric=True))[0]
    assert symmetric[1].min() >= 250 and is_reddish(symmetric[2]) and symmetric[2].tolist() != list(RED)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e30])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_constant_images(value, symmetric, shape):
    picture = pixels(imgify(np.full(shape, value), symmetric=symmetric))
    assert picture.shape == (4, 5, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_no_relevance_is_white():
    assert pixels(imgify(torch.zeros(4, 5), symmetric=True)).min() >= 250


def test_level_steepens_the_colour_map():
    ramp = np.linspace(-1, 1, 11)[None]
    usual, steep = pixels(imgify(ramp, symmetric=True)), pixels(imgify(ramp, symmetric=True, level=2.0))
    assert steep[0, 7, 1] < usual[0, 7, 1]


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), resize=st.integers(1, 100), channels=st.sampled_from([1, 3])
)
def test_resizing_keeps_the_proportions_and_padding_makes_a_square(height, width, resize, channels):
    image = torch.rand(channels, height, width)
    resized = imgify(image, resize=resize)
    assert max(resized.size) == resize
    assert abs(min(resized.size) - resize * min(height, width) / max(height, width)) <= 1
    assert (resized.width >= resized.height) == (width >= height) or min(resized.size) == max(resized.size)
    assert imgify(image, resize=resize, padding=True).size == (resize, resize)
    assert imgify(image, padding=True).size == (max(height, width),) * 2


def test_padding_is_white_and_keeps_the_image_in_the_middle():
    picture = pixels(imgify(np.zeros((2, 6, 3), np.uint8), padding=True))
    assert (picture[:2] == 255).all() and (picture[2:4] == 0).all() and (picture[4:] == 255).all()


def test_a_pil_image_is_resized_and_padded():
    picture = imgify(Image.new("L", (10, 20)), resize=40, padding=True)
    assert picture.size == (40, 40)


def test_resizing_keeps_sharp_pixels():
    assert set(np.unique(pixels(imgify(np.array([[0.0, 1.0]]), cmap="gray", resize=11)))) == {0, 255}


@pytest.mark.parametrize("shape, cells", [((6, 4, 5), 6), ((6, 1, 4, 5), 6), ((6, 3, 4, 5), 6), ((6, 4, 5, 3), 6)])
def test_a_grid_holds_every_image_with_its_own_limits(shape, cells):
    batch = np.random.default_rng(0).random(shape) * np.arange(1, 7).reshape(-1, *[1] * (len(shape) - 1))
    picture = pixels(imgify(batch, cmap="gray", grid=(2, 3)))
    assert picture.shape == (8, 15, 3)
    for i in range(cells):
        row, column = divmod(i, 3)
        cell = picture[row * 4:row * 4 + 4, column * 5:column * 5 + 5]
        np.testing.assert_array_equal(cell, pixels(imgify(batch[i], cmap="gray")))


def test_a_grid_of_its_own_choice_has_room_for_all():
    picture = imgify(torch.rand(7, 4, 4), grid=True)
    assert picture.width * picture.height >= 7 * 16


def test_empty_places_of_a_grid_are_filled():
    picture = pixels(imgify(torch.rand(3, 3, 4, 4), grid=(2, 2), gridfill=7))
    assert (picture[4:, 4:] == 7).all()


@pytest.mark.parametrize("shape", [(5,), (2, 5, 7), (4, 5, 7), (1, 3, 5, 7), (5, 7, 4)])
def test_arrays_that_are_no_images_are_refused(shape):
    with pytest.raises(ValueError, match="vis_signal"):
        imgify(torch.rand(shape))


# Crops

@settings(deadline=None, max_examples=100)
@given(height=st.integers(1, 12), width=st.integers(1, 12), data=st.data())
def test_known_bug_a_crop_keeps_the_last_row_and_column(height, width, data):
    places = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    marked = data.draw(st.lists(places, min_size=1, max_size=4))
    heatmap = torch.zeros(height, width)
    for row, column in marked:
        heatmap[row, column] = 1
    row1, row2, col1, col2 = get_crop_range(heatmap, 0.5)
    assert torch.count_nonzero(heatmap[row1:row2, col1:col2]) == len(set(marked))
    assert (row1, row2 - 1) == (min(r for r, _ in marked), max(r for r, _ in marked))
    assert (col1, col2 - 1) == (min(c for _, c in marked), max(c for _, c in marked))


def test_a_crop_is_by_threshold_and_whole_where_nothing_exceeds_it():
    heatmap = torch.tensor([[0.1, 0.2, 0.1], [0.1, 0.5, 0.9]])
    assert get_crop_range(heatmap, 0.4) == (1, 2, 1, 3)
    assert get_crop_range(heatmap, 0.15) == (0, 2, 1, 3)
    assert get_crop_range(heatmap, 1.0) == (0, 2, 0, 3)


SIZES = [(8, 8), (20, 31), (31, 20), (1, 9), (9, 1), (1, 1), (40, 3)]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rf", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pictures_of_images_of_any_size(height, width, channels, rf, dtype):
    data = torch.rand(2, channels, height, width, dtype=dtype)
    heatmaps = torch.randn(2, height, width, dtype=dtype)
    opaque = vis_opaque_img(data, heatmaps, rf)
    pairs = vis_img_heatmap(data, heatmaps, rf)
    assert isinstance(pairs, tuple) and len(pairs) == 2
    for pictures in (opaque, *pairs):
        assert len(pictures) == 2
        for picture in pictures:
            assert isinstance(picture, Image.Image) and picture.width == picture.height <= max(height, width)
            assert rf or picture.width == max(height, width)


def spot(height, width, rows, columns):
    heatmap = torch.zeros(1, height, width)
    heatmap[0, rows, columns] = 1
    return heatmap


def test_known_bug_a_receptive_field_in_the_corner_keeps_its_last_pixel():
    data = torch.zeros(1, 3, 12, 16)
    data[0, :, -1, -1] = 1
    images, maps = vis_img_heatmap(data, spot(12, 16, slice(9, 12), slice(13, 16)), rf=True, kernel_size=1)
    assert images[0].size == maps[0].size == (3, 3)
    assert (pixels(images[0])[-1, -1] == 255).all() and (pixels(images[0])[:-1] == 0).all()
    opaque = vis_opaque_img(data, spot(12, 16, slice(9, 12), slice(13, 16)), rf=True, kernel_size=1)
    assert opaque[0].size == (3, 3) and (pixels(opaque[0])[-1, -1] == 255).all()


def test_a_receptive_field_is_smoothed_before_it_is_cropped():
    data = torch.rand(1, 3, 60, 60)
    sizes = [
        vis_img_heatmap(data, spot(60, 60, 30, 30), True, kernel_size=kernel_size)[0][0].width
        for kernel_size in (1, 9, 19)
    ]
    assert sizes == sorted(sizes) and sizes[0] == 1 < sizes[1] < sizes[2] < 25
    higher = vis_img_heatmap(data, spot(60, 60, 30, 30), True, crop_th=0.8)[0][0].width
    assert higher < sizes[2]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_opaque_image_is_as_it_is_where_relevance_is_strong_and_darker_elsewhere(channels):
    data = torch.ones(1, channels, 40, 40)
    data[..., 0, 0] = 0
    picture = pixels(vis_opaque_img(data, spot(40, 40, slice(25, 30), slice(25, 30)), alpha=0.3)[0])
    assert (picture[27, 27] == 255).all()
    assert (picture[5, 5] == 76).all()
    brighter = pixels(vis_opaque_img(data, spot(40, 40, slice(25, 30), slice(25, 30)), alpha=0.5)[0])
    assert (brighter[5, 5] == 127).all()
    everything = pixels(vis_opaque_img(data, torch.ones(1, 40, 40))[0])
    assert (everything[1:] == 255).all()


def test_negative_relevance_counts_in_an_opaque_image():
    data, heatmap = torch.rand(1, 3, 20, 20), spot(20, 20, slice(2, 9), slice(4, 9))
    one, other = vis_opaque_img(data, heatmap)[0], vis_opaque_img(data, -heatmap)[0]
    np.testing.assert_array_equal(pixels(one), pixels(other))


def test_the_threshold_of_an_opaque_image():
    data, heatmap = torch.ones(1, 3, 20, 20), spot(20, 20, 10, 10)
    data[..., 0, 0] = 0
    shown = [int((pixels(vis_opaque_img(data, heatmap, vis_th=th)[0]) == 255).sum()) for th in (0.1, 0.5, 0.9)]
    assert shown[0] > shown[1] > shown[2] > 0


def test_heatmaps_are_red_where_positive_and_blue_where_negative():
    heatmap = torch.zeros(1, 4, 4)
    heatmap[0, 0, 1], heatmap[0, 2, 3] = 2, -1
    images, maps = vis_img_heatmap(torch.rand(1, 1, 4, 4), heatmap)
    picture = pixels(maps[0])
    assert is_reddish(picture[0, 1]) and is_bluish(picture[2, 3]) and picture[1, 1].min() >= 250
    grey = pixels(images[0])
    assert (grey == grey[..., :1]).all()


def test_colours_of_heatmaps_can_be_chosen():
    heatmap = torch.tensor([[[0.0, 1.0, 2.0]]])
    _, maps = vis_img_heatmap(torch.rand(1, 1, 1, 3), heatmap, cmap="gray", vmin=0, vmax=1, symmetric=False)
    assert pixels(maps[0])[1, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("plot_fn", [vis_opaque_img, vis_img_heatmap])
@pytest.mark.parametrize("rf", [False, True])
def test_heatmaps_without_relevance(plot_fn, rf):
    assert plot_fn(torch.rand(1, 3, 9, 9), torch.zeros(1, 9, 9), rf)


def test_images_and_heatmaps_of_different_size_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        vis_opaque_img(torch.rand(1, 3, 9, 9), torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="differ in size"):
        vis_img_heatmap(torch.rand(1, 3, 9, 9), torch.rand(1, 8, 8), rf=True)
    with pytest.raises(ValueError, match="differ in size"):
        vis_img_heatmap(torch.rand(1, 3, 9, 9), torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="differ in size"):
        vis_signal(torch.rand(1, 3, 9), torch.rand(1, 8))


@pytest.mark.parametrize("plot_fn, shape", [(vis_opaque_img, (9, 9)), (vis_img_heatmap, (9, 9)), (vis_signal, (9,))])
def test_none_of_several_images_or_heatmaps_is_left_out(plot_fn, shape):
    for samples, heatmaps in [(2, 1), (1, 2)]:
        with pytest.raises(ValueError, match=f"{samples} samples and {heatmaps} heatmaps"):
            plot_fn(torch.rand(samples, 3, *shape), torch.rand(heatmaps, *shape))


@pytest.mark.parametrize("plot_fn, options", [
    (vis_opaque_img, {"alpha": 1.5}), (vis_opaque_img, {"alpha": -0.1}), (vis_opaque_img, {"vis_th": 1}),
    (vis_opaque_img, {"vis_th": -0.1}), (vis_opaque_img, {"crop_th": 1.}), (vis_img_heatmap, {"crop_th": -1}),
    (vis_img_heatmap, {"crop_th": float("nan")}), (vis_opaque_img, {"kernel_size": 4}),
    (vis_img_heatmap, {"kernel_size": -1}), (vis_signal, {"crop_th": 1}), (vis_tokens, {"crop_th": 1.5}),
])
def test_numbers_that_mean_nothing_are_refused(plot_fn, options):
    name, = options
    shapes = {vis_signal: [(1, 3, 9), (1, 9)], vis_tokens: [(1, 9), (1, 9)]}.get(plot_fn, [(1, 3, 9, 9), (1, 9, 9)])
    with pytest.raises(ValueError, match=name):
        plot_fn(*map(torch.ones, shapes), rf=True, **options)


def test_lists_of_images_of_different_size():
    data = [torch.rand(3, 8, 9), torch.rand(3, 12, 7)]
    heatmaps = [torch.rand(8, 9), torch.rand(12, 7)]
    assert [picture.width for picture in vis_opaque_img(data, heatmaps)] == [9, 12]


@pytest.mark.parametrize("plot_fn", [vis_opaque_img, vis_img_heatmap])
def test_plotting_changes_neither_data_nor_heatmaps(plot_fn):
    data, heatmaps = torch.rand(2, 3, 9, 9), torch.randn(2, 9, 9)
    before = data.clone(), heatmaps.clone()
    plot_fn(data, heatmaps, rf=True)
    assert torch.equal(data, before[0]) and torch.equal(heatmaps, before[1])


# Signals and vectors

@pytest.mark.parametrize("rf", [False, True])
@pytest.mark.parametrize("channels", [1, 4])
def test_signals_are_lines_over_red_and_blue_relevance(rf, channels):
    heatmaps = torch.zeros(2, 50)
    heatmaps[:, 10:15], heatmaps[:, 30:35] = 1, -1
    pictures = vis_signal(torch.rand(2, channels, 50), heatmaps, rf)
    assert len(pictures) == 2
    for picture in pictures:
        colours = pixels(picture).reshape(-1, 3)
        assert any(map(is_reddish, np.unique(colours, axis=0))) and any(map(is_bluish, np.unique(colours, axis=0)))
        assert (colours < 60).all(1).sum() > 20


def test_a_signal_is_cropped_to_its_relevance():
    signal, heatmaps = torch.zeros(1, 1, 50), torch.zeros(1, 50)
    signal[0, 0, 5], heatmaps[0, 30:40] = 9, 1
    whole, cropped = vis_signal(signal, heatmaps)[0], vis_signal(signal, heatmaps, True)[0]
    red = [np.mean([is_reddish(pixel) for pixel in pixels(picture).reshape(-1, 3)]) for picture in (whole, cropped)]
    assert red[1] > 2 * red[0]


def test_features_are_bars_coloured_by_relevance():
    pictures = vis_features(torch.tensor([[1.0, -2.0, 3.0]]), torch.tensor([[1.0, -1.0, 0.0]]))
    colours = np.unique(pixels(pictures[0]).reshape(-1, 3), axis=0)
    assert any(map(is_reddish, colours)) and any(map(is_bluish, colours))
    with pytest.raises(ValueError, match="heatmap_axis=None"):
        vis_features(torch.rand(2, 3), torch.rand(2))


@pytest.mark.parametrize("plot", [
    lambda: vis_signal(torch.rand(1, 1, 9), torch.zeros(1, 9)),
    lambda: vis_features(torch.rand(1, 3), torch.zeros(1, 3)),
    lambda: vis_signal(torch.rand(1, 2, 1), torch.ones(1, 1), True),
    lambda: vis_signal(torch.rand(1, 1, 9, requires_grad=True), torch.rand(1, 9).double()),
])
def test_small_figures_of_odd_data(plot):
    picture, = plot()
    assert isinstance(picture, Image.Image)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("shape", [(2, 3, 9, 12), (2, 1, 9, 12), (2, 20, 12), (2, 2, 30), (2, 7)])
def test_inputs_of_any_kind_have_a_picture(shape):
    pictures = vis_inputs(torch.rand(shape))
    assert len(pictures) == 2 and all(isinstance(picture, Image.Image) for picture in pictures)


def test_inputs_of_several_parts_have_no_picture():
    with pytest.raises(TypeError, match="plot_fn"):
        vis_inputs({"image": torch.rand(2, 3, 9, 9)})


# Grids

def pil(count):
    return [Image.new("RGB", (9, 7)) for _ in range(count)]


REFERENCES = {
    "pictures": ({1: pil(4), 2: pil(4)}, 2 * 4), "pairs": ({1: (pil(3), pil(3)), 7: (pil(3), pil(3))}, 4 * 3),
    "tensors": ({0: torch.rand(5, 3, 8, 9)}, 5), "grey tensors": ({0: torch.rand(5, 1, 8, 9)}, 5),
    "inputs and heatmaps": ({0: (torch.rand(4, 3, 8, 9), torch.randn(4, 8, 9))}, 2 * 4),
    "class references": ({"1:3": pil(2), "1:4": pil(2)}, 2 * 2), "unequal": ({1: pil(4), 2: pil(2)}, 2 * 4),
    "arrays": ({0: np.random.default_rng(0).random((3, 8, 9, 3))}, 3), "one": ({3: pil(1)}, 1),
    "list of tensors": ({0: [torch.rand(3, 8, 9), torch.rand(3, 9, 8)]}, 2),
}


@pytest.mark.parametrize("cmap_dim", [None, 0, 1])
@pytest.mark.parametrize("kind", REFERENCES)
def test_known_bug_every_documented_cmap_dim_gives_a_figure(kind, cmap_dim):
    references, places = REFERENCES[kind]
    figure = plot_grid(references, cmap_dim)
    assert isinstance(figure, Figure)
    assert len(figure.axes) == places
    shown = sum(len(axis.images) for axis in figure.axes)
    assert shown == sum(
        sum(map(len, found)) if isinstance(found, tuple) else len(found) for found in references.values()
    )
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == [str(key) for key in references]


def test_cmap_dim_says_which_part_is_coloured():
    parts = torch.randn(2, 1, 6, 6), torch.randn(2, 6, 6)
    for cmap_dim, coloured in [(None, [False, False]), (0, [True, False]), (1, [False, True])]:
        figure = plot_grid({0: parts}, cmap_dim)
        shown = [axis.images[0].get_array() for axis in figure.axes]
        is_coloured = [bool((image[..., 0] != image[..., 2]).any()) for image in (shown[0], shown[2])]
        assert is_coloured == coloured


def test_other_parameters_of_a_grid():
    heatmaps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])
    figure = plot_grid({0: (torch.rand(1, 3, 2, 2), heatmaps)}, cmap="gray", vmin=0, vmax=1, symmetric=False,
                       resize=20, figsize=(3, 2))
    assert figure.get_size_inches().tolist() == [3, 2]
    image = figure.axes[1].images[0].get_array()
    assert image.shape == (20, 20, 3)
    assert (image[0, 0] == 0).all() and (image[0, 19] == 255).all() and (image[19, 0] == 255).all()
    unpadded = plot_grid({0: torch.rand(1, 3, 4, 8)}, padding=False)
    assert unpadded.axes[0].images[0].get_array().shape == (4, 8, 3)


@pytest.mark.parametrize("cmap_dim", [2, -1, "1"])
def test_another_cmap_dim_is_refused(cmap_dim):
    with pytest.raises(ValueError, match="cmap_dim"):
        plot_grid({0: pil(1)}, cmap_dim)


@pytest.mark.parametrize("references", [{}, {1: []}])
def test_an_empty_grid_is_refused(references):
    with pytest.raises(ValueError, match="empty"):
        plot_grid(references)
    assert plt.get_fignums() == []


def test_pictures_divide_by_a_maximum_only_where_it_is_positive():
    assert divide_by_maximum(torch.tensor([-1.0, -2.0])).tolist() == [-1.0, -2.0]
    assert divide_by_maximum(torch.zeros(2)).tolist() == [0.0, 0.0]
    assert divide_by_maximum(torch.tensor([1.0, -4.0, 2.0])).tolist() == [0.5, -2.0, 1.0]


def test_upsampled_patches_lie_where_they_are_in_the_image():
    values = torch.arange(8.)[None]  # class token and a register, then 2 x 3 patches
    found = upsample_patches(values, (4, 9), (2, 3))
    assert found.shape == (1, 4, 9)
    for row in range(4):
        for column in range(9):
            assert found[0, row, column] == 2 + row // 2 * 3 + column // 3
    smooth = upsample_patches(values, (4, 9), (2, 3), mode="bilinear")
    assert smooth.shape == found.shape and (smooth.diff(dim=2) >= 0).all() and not smooth.equal(found)
    assert upsample_patches(values[:, 4:], (8, 8), 4).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="not made of patches"):
        upsample_patches(values, (4, 9), 2)
    with pytest.raises(ValueError, match="2 x 3 = 6 patches"):
        upsample_patches(values[:, :5], (4, 9), (2, 3))
