"""References of networks whose inputs are no images, shown without a plot_fn."""
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from visualizations import visualization
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.image import vis_features, vis_frames, vis_img_heatmap, vis_signal
from crp.text import vis_tokens
from crp.visualization import FeatureVisualization

COUNT = 9


class Mean(nn.Module):
    """The mean over all positions of each channel."""

    def forward(self, inputs):
        return inputs.flatten(2).mean(2)


def network(layer):
    """A layer whose channels are concepts, and two classes."""
    return nn.Sequential(layer, nn.ReLU(), Mean(), nn.Linear(4, 2))


class Words(nn.Module):
    """Words, whose features come first."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)

    def forward(self, ids):
        return self.embedding(ids).movedim(-1, 1)


KINDS = {
    "signals": ((1, 200), nn.Conv1d(1, 4, 9), vis_signal), "channels": ((12, 40), nn.Conv1d(12, 4, 9), vis_signal),
    "features": ((6,), nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (4, 1))), vis_features),
    "long vectors": ((90,), nn.Sequential(nn.Linear(90, 4), nn.Unflatten(1, (4, 1))), vis_signal),
    "videos": ((3, 5, 8, 8), nn.Conv3d(3, 4, 3), vis_frames),
    "images": ((3, 9, 9), nn.Conv2d(3, 4, 3), vis_img_heatmap),
    "tokens": (None, Words(), vis_tokens),
}


def swept(path, kind):
    torch.manual_seed(0)
    shape, layer, plot_fn = KINDS[kind]
    data = torch.randint(0, 20, (COUNT, 7)) if shape is None else torch.randn(COUNT, *shape)
    attribution = CondAttribution(network(layer).eval())
    dataset = TensorDataset(data, torch.arange(COUNT) % 2)
    fv = FeatureVisualization(attribution, dataset, {"0": ChannelConcept()}, path=path)
    fv.run(EpsilonPlus(), 0, COUNT)
    return fv, plot_fn


def in_bytes(pictures):
    parts = pictures if isinstance(pictures, tuple) else (pictures,)
    return [np.asarray(picture.convert("RGB")).tobytes() for part in parts for picture in part]


@pytest.mark.parametrize("rf", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_references_have_the_picture_of_their_kind(tmp_path, kind, rf):
    fv, plot_fn = swept(tmp_path, kind)
    arguments = [1], "0", "activation", (0, 3), EpsilonPlus(), rf
    found = fv.get_max_reference(*arguments)[1]
    inputs, heatmaps = fv.get_max_reference(*arguments, plot_fn=None)[1]
    assert in_bytes(found) == in_bytes(plot_fn(inputs, heatmaps, rf))


@pytest.mark.parametrize("kind", KINDS)
def test_without_rules_the_inputs_are_shown(tmp_path, kind):
    fv, _ = swept(tmp_path, kind)
    assert len(fv.get_max_reference([1], "0", "activation", (0, 3))[1]) == 3


def test_for_images_nothing_changes(tmp_path):
    fv = visualization(tmp_path)
    fv.run(EpsilonPlus(), 0, COUNT)
    arguments = [1], "conv", "activation", (0, 3), EpsilonPlus()
    inputs, heatmaps = fv.get_max_reference(*arguments, plot_fn=None)[1]
    assert in_bytes(fv.get_max_reference(*arguments)[1]) == in_bytes(vis_img_heatmap(inputs, heatmaps))


@pytest.mark.parametrize("kind", ["features", "long vectors"])
def test_heatmaps_of_references_keep_the_only_axis(tmp_path, kind):
    fv, _ = swept(tmp_path, kind)
    data, heatmaps = fv.get_max_reference([0], "0", "relevance", (0, 3), EpsilonPlus(), plot_fn=None)[0]
    keeping = CondAttribution(fv.attribution.model, heatmap_axis=None)
    for sample, heatmap in zip(data, heatmaps):
        expected = keeping(sample[None], [{"0": [0]}], EpsilonPlus(), start_layer="0").heatmap[0]
        torch.testing.assert_close(heatmap, expected)
    assert fv.attribution.heatmap_axis == 1
