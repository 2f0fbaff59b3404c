"""Concepts that are not channels on axis 1."""
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from visualizations import (
    CLASSES,
    MODES,
    SAMPLES,
    TARGETS,
    heatmap_of,
    images,
    ranking,
    restate,
    restate_stats,
    single,
    strengths,
    swept,
)
from zennit.composites import EpsilonPlusFlat

from crp.concepts import ChannelConcept, Concept, Reading

pytestmark = pytest.mark.usefixtures("quick")


class Groups(Concept):
    """Two groups of channels."""

    members = [[0, 3], [1, 2, 4]]

    def _channels(self, groups):
        return [channel for group in groups for channel in self.members[group]]

    def mask(self, batch_id, concept_ids, layer_name=None):
        return ChannelConcept.mask(batch_id, self._channels(concept_ids), layer_name)

    def mask_rf(self, batch_id, neurons, layer_name=None):
        return ChannelConcept.mask_rf(
            batch_id, {channel: at for group, at in neurons.items() for channel in self.members[group]}, layer_name
        )

    def read(self, tensor, layer_name=None, max_target="sum"):
        grouped = torch.stack([tensor[:, channels].sum(1).flatten(1) for channels in self.members], 1)
        return Reading(grouped.sum(2) if max_target == "sum" else grouped.amax(2), grouped.argmax(2))


class SortedGroups(Concept):
    """The same groups, by the methods of zennit-crp only."""

    mask = Groups.mask
    members = Groups.members
    _channels = Groups._channels

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        value, position = Groups.read(self, relevance, layer_name, max_target)
        if abs_norm:
            value = value / value.abs().sum(1, keepdim=True)
        order = torch.argsort(value, dim=0, descending=True)
        return order, torch.gather(value, 0, order), torch.gather(position, 0, order)


class OldGroups(ChannelConcept):
    """A subclass whose static methods hide those of the base class, as users of zennit-crp wrote them."""

    members = Groups.members

    @staticmethod
    def mask(batch_id, concept_ids, layer_name=None):
        return Groups().mask(batch_id, concept_ids, layer_name)

    @staticmethod
    def mask_rf(batch_id, neurons, layer_name=None):
        return Groups().mask_rf(batch_id, neurons, layer_name)

    def reference_sampling(self, relevance, layer_name=None, max_target="sum", abs_norm=True):
        return SortedGroups.reference_sampling(self, relevance, layer_name, max_target, abs_norm)


# Concepts that are not channels on axis 1

def test_known_bug_channels_on_the_last_axis_are_honoured_everywhere(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict([
        ("token", nn.Linear(4, 6)), ("relu", nn.ReLU()), ("flatten", nn.Flatten()), ("out", nn.Linear(30, CLASSES)),
    ])).double().eval()
    data = TensorDataset(torch.rand(SAMPLES, 5, 4, dtype=torch.float64), TARGETS)
    fv = swept(tmp_path, model=model, data=data, layer_map={"token": ChannelConcept(axis=-1)})
    fv.attribution.heatmap_axis = -1
    for mode in MODES:
        strength, pairs = restate(model, data.tensors[0], single(), "token", mode, axis=-1)
        assert strength.shape == (SAMPLES, 6, 5)
        for rf in (False, True):
            found = fv.get_max_reference([5, 0], "token", mode, (0, 4), EpsilonPlusFlat(), rf, None)
            for concept, (inputs, heatmaps) in found.items():
                samples, _, positions = ranking(strength, pairs, concept)
                torch.testing.assert_close(inputs, data.tensors[0][samples[:4]])
                assert heatmaps.shape == (4, 5)
                expected = torch.stack([
                    heatmap_of(fv, sample, "token", concept, int(position) if rf else None)
                    for sample, position in zip(samples[:4], positions)
                ])
                torch.testing.assert_close(heatmaps, expected)
                if rf:
                    assert torch.equal(heatmaps.abs().argmax(1), torch.as_tensor(positions[:4]))
                    assert torch.all(torch.count_nonzero(heatmaps, 1) <= 1)


@pytest.mark.parametrize("concept", [Groups(), SortedGroups(), OldGroups()])
@pytest.mark.parametrize("max_target", ["sum", "max"])
@pytest.mark.parametrize("mode", MODES)
def test_known_bug_custom_concepts_are_honoured_everywhere(tmp_path, concept, max_target, mode):
    fv = swept(tmp_path, layer_map={"conv": concept}, max_target=max_target)
    strength, pairs = strengths("conv", mode)
    grouped = np.stack([strength[:, channels].sum(1) for channels in Groups.members], 1)
    found = fv.get_max_reference([0, 1], "conv", mode, (0, 5), EpsilonPlusFlat(), plot_fn=None)
    for group, (inputs, heatmaps) in found.items():
        samples, _, positions = ranking(grouped, pairs, group, max_target)
        torch.testing.assert_close(inputs, images()[samples[:5]])
        expected = torch.cat([
            fv.attribution(
                images()[sample][None], [{"conv": Groups.members[group]}], EpsilonPlusFlat(), start_layer="conv"
            ).heatmap for sample in samples[:5]
        ])
        torch.testing.assert_close(heatmaps, expected)
    targets, values = fv.compute_stats(1, "conv", mode, mean_N=3)
    expected_targets, expected_values = restate_stats(grouped, pairs, single(), 1, 3, max_target)
    assert targets.tolist() == expected_targets
    np.testing.assert_allclose(values, expected_values, rtol=1e-5)
    if not isinstance(concept, SortedGroups):
        _, heatmaps = fv.get_max_reference(0, "conv", mode, (0, 1), EpsilonPlusFlat(), True, None)[0]
        samples, _, positions = ranking(grouped, pairs, 0, max_target)
        at = {channel: [int(positions[0])] for channel in Groups.members[0]}
        expected = fv.attribution(images()[samples[:1]], [{"conv": at}], EpsilonPlusFlat(), start_layer="conv",
                                  mask_map=ChannelConcept.mask_rf)
        torch.testing.assert_close(heatmaps, expected.heatmap)


def test_layer_maps_as_pairs(tmp_path):
    concept = ChannelConcept()
    fv = swept(tmp_path, layer_map={("conv", concept), ("out", concept)})
    assert len(fv.get_max_reference(0, "conv", plot_fn=None)[0]) == 8
