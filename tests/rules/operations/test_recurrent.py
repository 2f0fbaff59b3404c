"""Recurrent layers give what PyTorch's give, and relevance as their equations do with gates that are constants."""
import pytest
import torch
from operations_by_contribution import composite, random
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.composites import LanguageModel

KINDS = {
    "lstm": lambda **options: nn.LSTM(5, 4, **options), "gru": lambda **options: nn.GRU(5, 4, **options),
    "rnn": lambda **options: nn.RNN(5, 4, **options),
    "rnn of relu": lambda **options: nn.RNN(5, 4, nonlinearity="relu", **options),
    "lstm with projection": lambda **options: nn.LSTM(5, 4, proj_size=3, **options),
}
OPTIONS = [
    {}, {"bias": False}, {"num_layers": 2}, {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True, "bias": False},
]


class Sequence(nn.Module):
    """The mean of what a recurrent layer gives, and its final states."""

    def __init__(self, layer, lengths=None):
        super().__init__()
        self.layer, self.lengths = layer, lengths

    def forward(self, x):
        if self.lengths is None:
            output, state = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
            output = output if self.layer.batch_first else output.transpose(0, 1)
        else:
            packed = pack_padded_sequence(x, self.lengths, batch_first=True, enforce_sorted=False)
            output, state = self.layer(packed)
            output = pad_packed_sequence(output, batch_first=True)[0]
        states = state if isinstance(state, tuple) else (state,)
        return torch.cat([output.flatten(1), *(part.transpose(0, 1).flatten(1) for part in states)], 1)


@pytest.mark.parametrize("lengths", [None, [2, 6, 3]])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_stay_and_books_close(kind, options, lengths):
    torch.manual_seed(0)
    model, x = Sequence(KINDS[kind](batch_first=True, **options), lengths).double().eval(), random(3, 6, 5)
    size = model(x).shape[1]
    attribution = CondAttribution(model, heatmap_axis=None)
    result = attribution(x, [{"y": list(range(0, size, 3))}], LanguageModel())
    torch.testing.assert_close(result.prediction, model(x))
    audit = attribution.audit(x, LanguageModel(), [{"y": list(range(size))}] * 3)
    assert audit.accounted == pytest.approx(1, abs=1e-6) and not audit.faults
    assert not any("remainder" in name and abs(amount) > 1e-9 for name, amount in audit.sinks.items())
    if lengths is not None:
        assert not result.heatmap[0, 2:].any() and (result.heatmap[1, 5].any() or "relu" in kind)


def test_time_first_and_one_sequence_alone():
    torch.manual_seed(0)
    first = Sequence(nn.LSTM(5, 4)).double().eval()
    second = Sequence(nn.LSTM(5, 4, batch_first=True)).double().eval()
    second.load_state_dict(first.state_dict())
    x = random(3, 6, 5)
    found, expected = (
        CondAttribution(model, heatmap_axis=None)(x, [{"y": [1]}], LanguageModel()) for model in (first, second)
    )
    torch.testing.assert_close(found.heatmap, expected.heatmap)


class ByHand(nn.Module):
    """An LSTM, or a GRU, whose gates are constants."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.is_lstm = layer, isinstance(layer, nn.LSTM)
        self.of_input, self.of_state = nn.Linear(5, 4), nn.Linear(4, 4)
        for name, module in (("ih", self.of_input), ("hh", self.of_state)):
            module.weight, module.bias = getattr(layer, f"weight_{name}_l0"), getattr(layer, f"bias_{name}_l0")

    def forward(self, x):
        h = c = torch.zeros(len(x), 4, dtype=x.dtype)
        for step in x.unbind(1):
            parts = [module(value).chunk(4 if self.is_lstm else 3, 1) for module, value in
                     ((self.of_input, step), (self.of_state, h))]
            gate = [(a + b).sigmoid().detach() for a, b in zip(*parts)]
            if self.is_lstm:
                c = gate[1] * c + gate[0] * (parts[0][2] + parts[1][2]).tanh()
                h = gate[3] * c.tanh()
            else:
                new = (parts[0][2] + gate[0] * parts[1][2]).tanh()
                h = (1 - gate[1]) * new + gate[1] * h
        return h


class Last(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0][:, -1]


class Cells(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("rules", [composite, EpsilonPlus, LanguageModel])
@pytest.mark.parametrize("kind, cell", [(nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell)])
def test_relevance_is_that_of_the_equations_with_constant_gates(kind, cell, rules):
    torch.manual_seed(0)
    layer, steps = kind(5, 4, batch_first=True).double(), cell(5, 4).double()
    steps.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    x = random(2, 4, 5)
    found, by_cell, expected = (
        CondAttribution(model.eval(), heatmap_axis=None)(x, [{"y": [2]}], rules())
        for model in (Last(layer), Cells(steps), ByHand(layer))
    )
    torch.testing.assert_close(found.prediction, expected.prediction)
    torch.testing.assert_close(found.heatmap, expected.heatmap)
    torch.testing.assert_close(by_cell.heatmap, expected.heatmap)


@pytest.mark.parametrize("cell", [
    nn.RNNCell(5, 4), nn.RNNCell(5, 4, nonlinearity="relu"), nn.LSTMCell(5, 4, bias=False),
])
def test_cells(cell):
    model, x = Cells(cell).double().eval(), random(2, 4, 5)
    attribution = CondAttribution(model, heatmap_axis=None)
    torch.testing.assert_close(attribution(x, [{"y": [1]}], LanguageModel()).prediction, model(x))
    audit = attribution.audit(x, LanguageModel())
    assert audit.accounted == pytest.approx(1, abs=1e-6) and not audit.faults
