"""Ids of concepts in all forms in which users have them."""
import numpy as np
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, as_id, as_ids


class OnAnotherDevice(torch.Tensor):
    """As a tensor on a GPU: numpy cannot read it, the rest works."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def numpy(self, *args, **kwargs):
        self.__array__()


def on_another_device(*ids):
    return torch.tensor(*ids).as_subclass(OnAnotherDevice)


@pytest.mark.parametrize("ids", [
    on_another_device([1, 4]), list(on_another_device([1, 4])), tuple(on_another_device([1, 4])),
    [1, on_another_device(4)], [np.int64(1), torch.tensor(4)], np.array([1, 4]), range(1, 5, 3),
], ids=str)
def test_ids_on_any_device(ids):
    assert as_ids(ids) == [1, 4] and all(type(i) is int for i in as_ids(ids))


def test_one_id_on_any_device():
    assert as_id(on_another_device(3)) == as_id([on_another_device(3)]) == 3


def test_conditions_masks_and_targets_with_ids_on_any_device():
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    data, attribution = torch.rand(1, 3, 8, 8), CondAttribution(net)
    conditions = [{"0": [i], "y": [on_another_device(2)]} for i in on_another_device([1, 4])]
    expected = attribution(data, [{"0": [1], "y": [2]}, {"0": [4], "y": [2]}], EpsilonPlusFlat())
    torch.testing.assert_close(attribution(data, conditions, EpsilonPlusFlat()).heatmap, expected.heatmap)
    neurons = {on_another_device(1): [on_another_device(3)]}
    assert ChannelConcept.mask_rf(0, neurons).kept == {1: [3]}


@pytest.mark.parametrize("ids", [
    1.0, [1.0], "1", None, True, [True], [torch.tensor(True)], [[1]], torch.tensor([[1]]), torch.tensor([0.5]),
    [torch.tensor([1, 2])],
], ids=str)
def test_what_is_no_list_of_ids(ids):
    with pytest.raises(TypeError, match="concept ids are integers"):
        as_ids(ids)
