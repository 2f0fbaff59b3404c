"""Which picture suits which input."""
import numpy as np
import pytest
import torch

from crp.image import vis_by_kind, vis_features, vis_frames, vis_img_heatmap, vis_inputs, vis_signal
from crp.text import vis_tokens

IDS = torch.randint(0, 99, (2, 7))
KINDS = {
    "colour images": (torch.rand(2, 3, 9, 12), torch.randn(2, 9, 12), vis_img_heatmap),
    "grey images": (torch.rand(2, 1, 9, 12), torch.randn(2, 9, 12), vis_img_heatmap),
    "matrices": (torch.rand(2, 9, 12), torch.randn(2, 9, 12), vis_img_heatmap),
    "images of bytes": (torch.randint(0, 255, (2, 3, 9, 12)).byte(), torch.randn(2, 9, 12), vis_img_heatmap),
    "signals": (torch.rand(2, 100), torch.randn(2, 100), vis_signal),
    "signals of many channels": (torch.rand(2, 20, 40), torch.randn(2, 40), vis_signal),
    "features": (torch.rand(2, 64), torch.randn(2, 64), vis_features),
    "tokens": (IDS, torch.randn(2, 7), vis_tokens),
    "videos": (torch.rand(2, 3, 5, 9, 12), torch.randn(2, 5, 9, 12), vis_frames),
    "tokens with a mask": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 7)},
        {"input_ids": torch.randn(2, 7), "attention_mask": None}, vis_tokens,
    ),
}


def in_bytes(pictures):
    parts = pictures if isinstance(pictures, tuple) else (pictures,)
    return [np.asarray(picture.convert("RGB")).tobytes() for part in parts for picture in part]


@pytest.mark.parametrize("rf", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_input_has_its_picture(kind, rf):
    data, heatmaps, plot_fn = KINDS[kind]
    assert in_bytes(vis_by_kind(data, heatmaps, rf)) == in_bytes(plot_fn(data, heatmaps, rf))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_common_scale(kind):
    data, heatmaps, plot_fn = KINDS[kind]
    (heatmaps["input_ids"] if isinstance(heatmaps, dict) else heatmaps)[1] *= 0.3
    common = in_bytes(vis_by_kind(data, heatmaps, common_scale=True))
    assert common == in_bytes(plot_fn(data, heatmaps, common_scale=True))
    assert common != in_bytes(vis_by_kind(data, heatmaps))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_each_kind_are_shown_alone(kind):
    pictures = vis_inputs(KINDS[kind][0])
    assert len(pictures) == 2
    assert len(set(in_bytes(pictures))) == 2


@pytest.mark.parametrize("data, heatmaps, error", [
    (torch.rand(2, 5, 9, 12), torch.rand(2, 9, 12), ValueError), (torch.rand(2), torch.rand(2), ValueError),
    (torch.rand(2, 1, 1, 1, 1, 1), torch.rand(2, 1, 1, 1, 1), ValueError),
    ({"image": torch.rand(2, 3, 9, 9)}, {"image": torch.rand(2, 9, 9)}, TypeError),
    ((torch.rand(2, 9), torch.rand(2, 9)), (torch.rand(2, 9), torch.rand(2, 9)), TypeError),
    ([{"input": torch.rand(9)}], torch.rand(1, 9), TypeError),
])
def test_of_what_there_is_no_picture_the_error_names_plot_fn(data, heatmaps, error):
    with pytest.raises(error, match="plot_fn"):
        vis_by_kind(data, heatmaps)


def test_features_and_signals_whose_relevance_was_summed_say_how_to_keep_it():
    for length in (9, 900):
        with pytest.raises(ValueError, match="heatmap_axis=None"):
            vis_by_kind(torch.rand(2, length), torch.rand(2))
