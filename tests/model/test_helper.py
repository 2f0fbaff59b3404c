import importlib

import pytest
import torch
from torch import nn

from crp.helper import abs_norm, get_layer_names, get_output_shapes


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        self.lstm = nn.LSTM(16, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, image):
        states, _ = self.lstm(self.features(image).flatten(2))
        return self.head(states[:, -1])


def test_names_of_layers_of_given_types():
    model = Nested()
    assert get_layer_names(model, [nn.Conv2d, nn.Linear]) == ["features.0", "features.2", "head"]
    assert get_layer_names(model, (nn.LSTM,)) == ["lstm"]
    assert get_layer_names(model, [nn.Module])[0] == "features"
    assert get_layer_names(model, [nn.Tanh]) == []


def test_shapes_of_layers_without_the_batch_axis():
    model = Nested().eval()
    shapes = get_output_shapes(model, torch.rand(1, 1, 8, 8), ["features.0", "head", "lstm", "lstm:in", "lstm:1"])
    assert shapes["features.0"] == (4, 6, 6) and shapes["head"] == (3,)
    assert shapes["lstm"] == (2, 5) and shapes["lstm:in"] == (2, 16)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Bilinear(3, 4, 5)

    def forward(self, one, other):
        return self.inner(one, other)


@pytest.mark.parametrize("data", [
    (torch.rand(1, 3), torch.rand(1, 4)), {"other": torch.rand(1, 4), "one": torch.rand(1, 3)},
])
def test_shapes_with_inputs_of_several_parts(data):
    assert get_output_shapes(TwoInputs(), data, ["inner"]) == {"inner": (5,)}


def test_shapes_of_an_unknown_layer():
    with pytest.raises(ValueError, match="did you mean 'head'"):
        get_output_shapes(Nested(), torch.rand(1, 1, 8, 8), ["heat"])


RELEVANCE = torch.tensor([[1.0, -3.0], [0.0, 4.0]])


def test_abs_norm_divides_by_the_sum_of_all_absolute_values():
    assert abs_norm(RELEVANCE).tolist() == [[0.125, -0.375], [0.0, 0.5]]
    assert abs_norm(torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert abs_norm(RELEVANCE, 8).tolist() == abs_norm(RELEVANCE, stabilize=8).tolist() == (RELEVANCE / 16).tolist()


@pytest.mark.parametrize("name", ["crp.helper", "crp.image"])
def test_max_norm_divides_by_the_largest_value_whatever_its_sign(name):
    max_norm = importlib.import_module(name).max_norm
    assert max_norm(RELEVANCE).tolist() == [[0.25, -0.75], [0.0, 1.0]]
    assert max_norm(torch.tensor([-2.0, -4.0])).tolist() == [1.0, 2.0]
    assert max_norm(torch.zeros(2, 2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert max_norm(RELEVANCE, 4).tolist() == max_norm(RELEVANCE, stabilize=4).tolist() == (RELEVANCE / 8).tolist()
