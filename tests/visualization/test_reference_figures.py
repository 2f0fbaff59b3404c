"""Figures of references: what is written beside the pictures is true."""
import warnings

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch.utils.data import TensorDataset
from visualizations import CLASSES, MULTI_HOT, SAMPLES, TARGETS, images, small_model, swept
from zennit.composites import EpsilonPlusFlat

from crp.image import vis_opaque_img

pytestmark = pytest.mark.usefixtures("quick")
COMPOSITE = EpsilonPlusFlat()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def words(figure):
    """The captions and row labels of a figure, and its title."""
    captions = [axis.get_title() for axis in figure.axes if axis.get_title()]
    labels = [axis.get_ylabel().replace("\n", " ") for axis in figure.axes if axis.get_ylabel()]
    return captions, labels, figure.texts[0].get_text().replace("\n", " ")


@pytest.mark.parametrize("mode", ["relevance", "activation"])
@pytest.mark.parametrize("common_scale", [False, True])
def test_captions_tell_sample_target_value_and_scale(tmp_path, mode, common_scale):
    fv = swept(tmp_path)
    figure = fv.plot_references([3, 1], "conv2", mode, (1, 4), COMPOSITE, common_scale=common_scale)
    captions, labels, title = words(figure)
    assert labels == ["concept 3", "concept 1"] and "conv2" in title and mode in title
    expected = []
    for concept in (3, 1):
        samples, values, _ = (part[1:] for part in fv._results(mode).top("conv2", concept, mode, 4))
        _, heatmaps = fv.get_max_reference(concept, "conv2", mode, (1, 4), COMPOSITE, plot_fn=None)[concept]
        limits = heatmaps.abs().amax((1, 2))
        limits = limits.max().expand(3) if common_scale else limits
        expected += [
            f"#{sample} · target {TARGETS[sample]}\n{100 * value:.1f}% · ±{limit:.2g}"
            for sample, value, limit in zip(samples, values, limits.tolist())
        ]
    assert captions == expected


def test_several_targets_values_and_inputs_alone(tmp_path):
    fv = swept(tmp_path, data=TensorDataset(images(), MULTI_HOT), abs_norm=False)
    captions, _, title = words(fv.plot_references(2, "conv", "activation", (0, 5)))
    samples, values, _ = fv._results("activation").top("conv", 2, "activation", 5, normalised=False)
    for caption, sample, value in zip(captions, samples, values):
        classes = [str(i) for i in range(CLASSES) if MULTI_HOT[sample, i]]
        named = f" · target{'s' * (len(classes) > 1)} {', '.join(classes)}" if classes else ""
        assert caption == f"#{sample}{named}\n{value:.3g}"
    assert "share" not in title and "heatmap" not in title


def test_a_common_scale_is_drawn(tmp_path):
    fv = swept(tmp_path)
    own, common = (
        [axis.images[0].get_array() for axis in
         fv.plot_references(1, "conv2", "activation", (0, 3), COMPOSITE, common_scale=scale).axes[3:]]
        for scale in (False, True)
    )
    assert all(picture.max() == 255 and picture.min() == 0 for picture in own)
    assert sum(picture.min() == 0 for picture in common) == 1
    with pytest.raises(TypeError, match="common_scale"):
        fv.plot_references(1, "conv2", "activation", (0, 3), COMPOSITE, plot_fn=vis_opaque_img, common_scale=True)


def test_pictures_are_those_of_the_plot_fn(tmp_path):
    fv = swept(tmp_path)
    arguments = 1, "conv2", "relevance", (0, 2), COMPOSITE, True, vis_opaque_img
    found = fv.get_max_reference(*arguments)[1]
    shown = [axis.images[0].get_array() for axis in fv.plot_references(*arguments).axes]
    for picture, array in zip(found, shown, strict=True):
        inside = np.asarray(picture.convert("RGB"))
        assert {tuple(colour) for colour in array.reshape(-1, 3)} <= {tuple(colour) for colour in inside.reshape(-1, 3)}


def with_idle_concepts():
    """Channels 0 and 1 of the first layer are negative everywhere, and so never active behind the ReLU."""
    model = small_model()
    with torch.no_grad():
        for channel in (0, 1):
            model.conv.weight[channel] = 0
            model.conv.bias[channel] = -1
    return model


@pytest.mark.parametrize("layer, mode, said", [
    ("relu", "activation", "never active"), ("conv", "activation", "no positive activation"),
    ("relu", "relevance", "no positive relevance"),
])
def test_concepts_that_are_never_active_say_so(tmp_path, layer, mode, said):
    fv = swept(tmp_path, model=with_idle_concepts(), layer_map=["conv", "relu"])
    _, labels, _ = words(fv.plot_references([0, 2], layer, mode, (0, 2), COMPOSITE))
    assert labels == [f"concept 0: {said}", "concept 2"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fv.get_max_reference([0, 2, 1], layer, mode, (0, 2), COMPOSITE)
    if layer == "conv":  # where values are negative, references still have an order
        assert not caught
    else:
        assert f"positive {mode}: 0, 1; " in str(caught[0].message) and len(caught) == 1


def test_what_cannot_be_is_refused(tmp_path):
    fv = swept(tmp_path)
    with pytest.raises(ValueError, match="r_range"):
        fv.plot_references(1, "conv2", r_range=(SAMPLES, SAMPLES + 1))
    with pytest.raises(ValueError, match="mode"):
        fv.plot_references(1, "conv2", "both")
    with pytest.raises(ValueError, match="conv2"):
        fv.plot_references(1, "conv3")
