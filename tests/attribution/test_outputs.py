"""Which tensor of an output is explained, and at which of its entries."""
import pytest
import torch
from inputs_of_any_kind import gradient, select
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution


def test_an_id_selects_all_of_the_remaining_axes():
    net, data = nn.Linear(6, 3).eval(), torch.randn(2, 4, 6)
    leaf = data.clone().requires_grad_()
    output = net(leaf)
    result = CondAttribution(net)(data, [{"y": [1]}])
    torch.testing.assert_close(result.heatmap, gradient(output, leaf, select(output, (1,))).sum(1))


class ManyOutputs(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body, self.kind = nn.Linear(3, 2), kind

    def forward(self, x):
        first, second = self.body(x), self.body(x) ** 2
        return {"a": first, "b": second} if self.kind is dict else self.kind([first, second])


@pytest.mark.parametrize("kind, output", [
    (dict, "b"), (tuple, 1), (list, 1), (tuple, -1), (dict, lambda found: found["b"]), (tuple, lambda found: found[1]),
])
def test_which_output_is_y(kind, output):
    net, data = ManyOutputs(kind).eval(), torch.randn(2, 3)
    leaf = data.clone().requires_grad_()
    y = net.body(leaf) ** 2
    result = CondAttribution(net, output=output, heatmap_axis=None)(data, [{"y": [1]}])
    torch.testing.assert_close(result.heatmap, gradient(y, leaf, select(y, (1,))))
    torch.testing.assert_close(result.prediction, y.detach())


@pytest.mark.parametrize("kind, output, message", [
    (dict, None, r"dict with \['a', 'b'\].*output="), (tuple, None, "tuple with 2 tensors.*output="),
    (dict, "c", r"output='c'.*\['a', 'b'\]"), (tuple, 2, "output=2.*2 tensors"), (tuple, "a", "output='a'"),
])
def test_an_output_that_is_not_clear_is_an_error(kind, output, message, model_state):
    net = ManyOutputs(kind).eval()
    before = model_state(net)
    with pytest.raises(ValueError, match=message):
        CondAttribution(net, output=output)(torch.ones(1, 3), [{"y": [0]}])
    assert model_state(net) == before


def test_a_function_chooses_from_a_plain_tensor_too():
    net, data = nn.Linear(3, 2).eval(), torch.randn(1, 3)
    leaf = data.clone().requires_grad_()
    y = net(leaf).softmax(1)
    result = CondAttribution(net, output=lambda logits: logits.softmax(1), heatmap_axis=None)(data, [{"y": [0]}])
    torch.testing.assert_close(result.heatmap, gradient(y, leaf, select(y, (0,))))


def test_the_only_tensor_of_an_output_needs_no_name():
    class Wrapped(nn.Module):
        def forward(self, x):
            return {"logits": x * 3, "loss": None}

    assert CondAttribution(Wrapped().eval(), heatmap_axis=None)(
        torch.ones(1, 2), [{"y": [1]}]
    ).heatmap.tolist() == [[0., 9.]]


@pytest.mark.parametrize("ids", [[0], 0, [], [()]])
def test_outputs_of_one_axis(ids):
    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(3, 1)

        def forward(self, x):
            return self.body(x).squeeze(-1)

    net, data = Scalar().eval(), torch.randn(4, 3)
    result = CondAttribution(net, heatmap_axis=None)(data, [{"y": ids}])
    expected = net.body.weight.detach() * net(data).detach()[:, None]
    torch.testing.assert_close(result.heatmap, expected * 0 if ids == [] else expected)
    with pytest.raises(IndexError, match="1"):
        CondAttribution(net)(data, [{"y": [1]}])


def test_complex_numbers_are_refused_where_relevance_starts_and_ends():
    class Fourier(nn.Linear):
        def forward(self, x):
            return torch.fft.fft(super().forward(x))

    model, x = Fourier(4, 4).eval(), torch.randn(2, 4)
    with pytest.raises(ValueError, match="output is complex.*output=torch.real"):
        CondAttribution(model)(x, [{"y": [1]}], EpsilonPlus())
    result = CondAttribution(model, output=torch.real, heatmap_axis=None)(x, [{"y": [1]}], EpsilonPlus())
    torch.testing.assert_close(result.prediction, model(x).real)
    assert result.heatmap.any() and not result.heatmap.is_complex()
    with pytest.raises(TypeError, match="data is complex.*view_as_real"):
        CondAttribution(model)(x + 1j * x, [{"y": [1]}], EpsilonPlus())
