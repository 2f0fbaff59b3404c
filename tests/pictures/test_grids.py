"""Grids of pictures: how much room they take, and what is written in them."""
import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from PIL import Image

from crp.analysis import find_patterns
from crp.image import plot_grid, vis_img_heatmap, vis_opaque_img
from crp.pictures.plotting import ink_on, new_figure, show_picture


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(figure):
    content = io.BytesIO()
    figure.savefig(content)
    return np.asarray(Image.open(content).convert("RGBA")).astype(int)


def box(axis):
    """Where a picture is: left, bottom, width and height in inches."""
    inches = axis.figure.get_size_inches()
    place = axis.get_position(original=True)
    return np.array([place.x0, place.y0, place.width, place.height]) * [*inches, *inches]


def boxes_of(figure):
    return np.array([box(axis) for axis in figure.axes])


def pil(count, width=9, height=7, colour=(90, 90, 90)):
    return [Image.new("RGB", (width, height), colour) for _ in range(count)]


# Room

@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("height, width", [(48, 192), (192, 48), (64, 64)])
def test_little_of_a_grid_is_blank(height, width, padding):
    pictures = vis_img_heatmap(torch.rand(4, 3, height, width) * 0.9, torch.randn(4, height, width))
    figure = plot_grid({0: pictures, 1: pictures}, figsize=(9, 5) if width > height else (3, 9), padding=padding)
    assert (drawn(figure)[..., :3] == 255).all(2).mean() < 0.35


def test_padding_is_left_out_alike_from_images_and_heatmaps():
    pictures = vis_img_heatmap(torch.rand(3, 3, 10, 40), torch.randn(3, 10, 40))
    figure = plot_grid({0: pictures})
    shapes = {axis.images[0].get_array().shape[:2] for axis in figure.axes}
    assert shapes == {(10, 40)}
    square = np.asarray(pictures[0][0])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), square[15:25])


def test_only_what_all_pictures_were_padded_with_is_left_out():
    wide, tall = torch.rand(3, 10, 40) * 0.9, torch.rand(3, 40, 10) * 0.9
    heatmaps = [torch.rand(10, 40), torch.rand(40, 10)]
    figure = plot_grid({0: vis_img_heatmap([wide, tall], heatmaps)})
    assert {axis.images[0].get_array().shape[:2] for axis in figure.axes} == {(10, 40), (40, 10)}
    boxes = boxes_of(figure)
    np.testing.assert_allclose(boxes[:, 2], boxes[:, 3])  # in places that are square
    framed = torch.ones(1, 3, 20, 20)
    framed[..., 5:15, 5:15] = 0  # white around it belongs to the image
    assert plot_grid({0: framed}).axes[0].images[0].get_array().shape == (20, 20, 3)
    assert plot_grid({0: torch.ones(1, 3, 20, 20)}, vmin=0, vmax=1).axes


def test_rows_of_a_grid_are_as_high_as_their_pictures():
    wide, square = Image.new("RGB", (200, 20)), Image.new("RGB", (20, 20))
    figure = plot_grid({0: [wide] * 2, 1: [square] * 2}, padding=False, figsize=(6, 20))
    boxes = boxes_of(figure)
    np.testing.assert_allclose(boxes[:, 3] / boxes[:, 2], [0.1, 0.1, 1, 1], rtol=1e-6)
    assert boxes[:, 2].min() > 2.5 and 2.9 < figure.get_size_inches()[1] < 3.4


@pytest.mark.parametrize("concepts, figsize", [(1, (6, 6)), (3, (4, 2)), (60, (6, 6)), (2, (12, 3))])
@pytest.mark.parametrize("has_captions", [False, True])
def test_pictures_stay_inside_do_not_overlap_and_are_never_tiny(concepts, figsize, has_captions):
    captions = {concept: ["#1234 · target 7\nvalue 0.25"] * 3 for concept in range(concepts)} if has_captions else None
    figure = plot_grid({concept: pil(3) for concept in range(concepts)}, figsize=figsize, captions=captions)
    width, height = figure.get_size_inches()
    left, bottom, wide, high = boxes_of(figure).T
    assert width == figsize[0] and left.min() > 0 and bottom.min() > 0
    assert (left + wide).max() < width and (bottom + high).max() < height and high.min() > 0.45
    rows = boxes_of(figure).reshape(concepts, 3, 4)
    assert (np.diff(rows[0, :, 0]) > wide[0]).all()
    assert (-np.diff(rows[:, 0, 1]) > high[0]).all()


# Words

def test_captions_stand_above_pictures_and_a_title_above_all():
    captions = {5: ["#1", "#2"], "5:3": ["#3", "#4"]}
    figure = plot_grid({5: (pil(2), pil(2)), "5:3": (pil(2), pil(2))}, captions=captions, title="relu3")
    assert [axis.get_title() for axis in figure.axes] == ["#1", "#2", "", "", "#3", "#4", "", ""]
    assert [text.get_text() for text in figure.texts] == ["relu3"]
    figure.canvas.draw()
    extents = [axis.title.get_window_extent() for axis in figure.axes if axis.get_title()]
    assert all(0 < extent.y0 and extent.y1 < figure.bbox.height for extent in extents)
    assert max(extent.y1 for extent in extents) < figure.texts[0].get_window_extent().y0 + 1


def test_long_captions_and_labels_are_broken_and_stay_inside():
    name = "a very long name of a concept that has no end and no meaning in any language that is spoken anywhere"
    figure = plot_grid({name: pil(6)}, figsize=(6, 3), captions={name: ["target of many words and a number 0.123"] * 6})
    figure.canvas.draw()
    titles = [axis.title.get_window_extent() for axis in figure.axes]
    assert all(left.x1 < right.x0 for left, right in zip(titles, titles[1:]))
    label = figure.axes[0].yaxis.label.get_window_extent()
    assert label.x0 > 0 and label.x1 < figure.axes[0].bbox.x0 and label.y0 >= 0
    assert figure.axes[0].get_ylabel().endswith("…")


def test_one_caption_is_needed_for_each_picture():
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        plot_grid({5: pil(2)}, captions={5: ["#1"]})
    with pytest.raises(ValueError, match="captions of 6"):
        plot_grid({5: pil(2)}, captions={5: ["#1", "#2"], 6: ["#1", "#2"]})
    titles = [axis.get_title() for axis in plot_grid({5: pil(2), 6: pil(2)}, captions={5: ["#1", "#2"]}).axes]
    assert titles == ["#1", "#2", "", ""]


# Grounds

STYLES = {
    "usual": {}, "transparent": {"figure.facecolor": "none"}, "half transparent": {"figure.facecolor": (1, 1, 1, 0.5)},
    "dark": {"figure.facecolor": "black", "text.color": "white", "axes.labelcolor": "white"},
    "dark and transparent": {"figure.facecolor": "none", "text.color": "white", "axes.labelcolor": "white"},
}


@pytest.mark.parametrize("style", STYLES)
def test_letters_can_be_read_on_any_ground(style):
    with plt.rc_context(STYLES[style]):
        picture = drawn(plot_grid({5: pil(2)}, captions={5: ["#1", "#2"]}, title="relu3"))
        ground, ink = new_figure((1, 1)).get_facecolor(), to_rgb(plt.rcParams["text.color"])
    assert (picture[..., 3] == 255).all()
    assert ground[3] == 1 and abs(np.mean(ground[:3]) - np.mean(ink)) > 0.9


def test_ink_contrasts():
    assert [ink_on(colour) for colour in ("white", "yellow", "#cccccc", "#3050b0", "red", "black")] == [
        "black", "black", "black", "white", "white", "white",
    ]


@pytest.mark.parametrize("style", STYLES)
def test_counts_of_patterns_can_be_read_in_squares_of_any_size(style):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(mean, 0.1, (60, 4)) for mean in range(3)])
    targets = np.repeat(np.arange(3), 60)
    targets[::15] = 0
    with plt.rc_context(STYLES[style]):
        figure = find_patterns(values, min_pattern_size=20).plot(targets)
        ground = figure.get_facecolor()
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    inside, small = texts["60"], texts["4"]
    assert inside.get_color() == "white" and not inside.get_path_effects()
    squares = [patch.get_bbox() for patch in figure.axes[0].patches]
    x, y = small.get_position()
    assert small.get_va() == "top" and any(box.x0 < x < box.x1 and y >= box.y1 for box in squares)  # y points down
    assert abs(np.mean(to_rgb(small.get_color())) - np.mean(to_rgb(ground))) > 0.9


def test_padding_of_squares_is_not_drawn_and_frames_are():
    bright = torch.ones(1, 3, 10, 30)
    bright[..., 0] = 0
    (picture,) = vis_opaque_img(bright, torch.ones(1, 10, 30))
    assert picture.size == (30, 30)
    axis = new_figure((1, 1)).subplots()
    show_picture(axis, picture)
    assert axis.images[0].get_array().shape[:2] == (10, 30)
    show_picture(axis, picture.crop((0, 0, 30, 15)))  # another picture, although made of the padded one
    assert axis.images[1].get_array().shape[:2] == (15, 30)
    assert all(spine.get_visible() for spine in axis.spines.values())
    letters = Image.new("RGB", (20, 20))
    letters.info["dpi"] = (150, 150)
    show_picture(axis, letters)
    assert not any(spine.get_visible() for spine in axis.spines.values())
