"""Recurrent layers in plain PyTorch, step by step, where PyTorch's own functions hide what they do.

Gates count as constants: relevance goes to what they let through (L. Arras, G. Montavon, K.-R. Müller, W. Samek,
2017, Explaining recurrent neural network predictions in sentiment analysis, WASSA).
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State, Sequence[Tensor]], State]
"""``(x [B, F], state of tensors [B, H], weights) -> next state``; what is given on comes first."""


def _gate(x: Tensor) -> Tensor:
    return x.sigmoid().detach()


def _from_input_and_state(x: Tensor, h: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    biases = weights[2:4] if len(weights) >= 4 else (None, None)
    return functional.linear(x, weights[0], biases[0]), functional.linear(h, weights[1], biases[1])


def _lstm_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    h, c = state
    of_input, of_state = _from_input_and_state(x, h, weights)
    i, f, g, o = (of_input + of_state).chunk(4, -1)
    c = _gate(f) * c + _gate(i) * g.tanh()
    h = _gate(o) * c.tanh()
    return (functional.linear(h, weights[-1]) if len(weights) in (3, 5) else h), c


def _gru_cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
    h, = state
    (reset, update, new), (h_reset, h_update, h_new) = (
        part.chunk(3, -1) for part in _from_input_and_state(x, h, weights)
    )
    kept = _gate(update + h_update)
    new = (new + _gate(reset + h_reset) * h_new).tanh()
    return ((1 - kept) * new + kept * h,)


def _simple_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    def cell(x: Tensor, state: State, weights: Sequence[Tensor]) -> State:
        of_input, of_state = _from_input_and_state(x, state[0], weights)
        return (activation(of_input + of_state),)

    return cell


def _run(cell: Cell, steps: list[Tensor], state: State, weights: Sequence[Tensor]) -> tuple[list[Tensor], State]:
    """Through steps [B, F] of which none has more rows than the one before: rows that have ended keep their state."""
    outputs, ended = [], []
    for x in steps:
        if len(x) < len(state[0]):
            ended.append(tuple(part[len(x):] for part in state))
            state = tuple(part[:len(x)] for part in state)
        state = cell(x, state, weights)
        outputs.append(state[0])
    parts = [state, *reversed(ended)]
    return outputs, tuple(torch.cat(part) for part in zip(*parts)) if ended else state


def _run_backwards(
    cell: Cell, steps: list[Tensor], first: State, weights: Sequence[Tensor]
) -> tuple[list[Tensor], State]:
    """Through the same steps from the last: rows join with their first state where they begin."""
    outputs: list[Tensor] = []
    state = tuple(part[:len(steps[-1])] for part in first)
    for x in reversed(steps):
        begun = len(state[0])
        if len(x) > begun:
            state = tuple(torch.cat([part, new[begun:len(x)]]) for part, new in zip(state, first))
        state = cell(x, state, weights)
        outputs.append(state[0])
    return outputs[::-1], state


def _layers(
    cell: Cell, steps: list[Tensor], first: State, weights: Sequence[Tensor], count: int, dropout: float,
    training: bool, bidirectional: bool,
) -> tuple[list[Tensor], list[State]]:
    """Through layers of one or two directions each; the outputs of the last and the final states of all."""
    directions = [_run, _run_backwards][:1 + bidirectional]
    size, final = len(weights) // (count * len(directions)), []
    for layer in range(count):
        found = []
        for direction, run in enumerate(directions):
            place = layer * len(directions) + direction
            state = tuple(part[place] for part in first)
            outputs, state = run(cell, steps, state, weights[place * size:(place + 1) * size])
            found.append(outputs)
            final.append(state)
        steps = [torch.cat(both, -1) if bidirectional else both[0] for both in zip(*found)]
        if layer < count - 1 and dropout and training:
            steps = [functional.dropout(x, dropout) for x in steps]
    return steps, final


def _recurrent(cell: Cell) -> Callable:
    """A function with the arguments of ``torch.lstm`` and its like, for padded and for packed sequences."""
    def padded(
        input: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool,
    ) -> tuple[Tensor, ...]:
        steps = list(input.unbind(1 if batch_first else 0))
        steps, final = _layers(cell, steps, _state(hx), params, num_layers, dropout, train, bidirectional)
        return torch.stack(steps, 1 if batch_first else 0), *(torch.stack(part) for part in zip(*final))

    def packed(
        data: Tensor, batch_sizes: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool, num_layers: int,
        dropout: float, train: bool, bidirectional: bool,
    ) -> tuple[Tensor, ...]:
        steps = list(data.split(batch_sizes.tolist()))
        steps, final = _layers(cell, steps, _state(hx), params, num_layers, dropout, train, bidirectional)
        return torch.cat(steps), *(torch.stack(part) for part in zip(*final))

    def function(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        is_packed = "batch_sizes" in kwargs or len(args) > 2 and isinstance(args[3], (list, tuple))
        return (packed if is_packed else padded)(*args, **kwargs)

    return function


def _state(hx: Any) -> State:
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def _of_cell(cell: Cell) -> Callable:
    """A function with the arguments of ``torch.lstm_cell`` and its like."""
    def function(
        input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
    ) -> Any:
        weights = [weight for weight in (w_ih, w_hh, b_ih, b_hh) if weight is not None]
        state = cell(input, _state(hx), weights)
        return state if len(state) > 1 else state[0]

    return function


_CELLS: dict[str, Cell] = {
    "lstm": _lstm_cell, "gru": _gru_cell, "rnn_tanh": _simple_cell(torch.tanh), "rnn_relu": _simple_cell(torch.relu),
}
RECURRENT: dict[Callable, Callable] = {
    **{getattr(torch, name): _recurrent(cell) for name, cell in _CELLS.items()},
    **{getattr(torch, f"{name}_cell"): _of_cell(cell) for name, cell in _CELLS.items()},
}
