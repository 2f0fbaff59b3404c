"""Which layers feed which: the layer graph of a model, from the edges that autograd records in one forward pass."""
from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from crp.attribution.leaves import InputLeaves, LookupMode
from crp.model.inputs import Inputs, call_model, gradient_mode
from crp.model.layers import (
    LayerAddress,
    as_layer_list,
    flatten_tensors,
    leaf_index,
    resolve_layer,
    unflatten_tensors,
)
from crp.model.names import unknown_layer_message
from crp.model.successors import Successor
from crp.rules.attach import run_exclusively
from crp.rules.operations.mode import OperationMode


class Call(NamedTuple):
    """One call of a module in a forward pass, or what it was called with.

    Attributes
    ----------
    module : str
        Name of the module, followed by ``:in`` for its input.
    inputs : list of int
        The calls whose outputs reach it directly, by their number in the forward pass.
    """

    module: str
    inputs: list[int]


class ModelGraph(Successor):
    """The layers of a model and what they take their input from.

    Parameters
    ----------
    calls : list of Call
        All module calls of a forward pass, in order.
    layer_names : list of str
        The layers to show; the modules between them are passed through.
    """

    replaced = dict.fromkeys(
        ["_add_node", "_add_connection", "_recursive_search"], "override find_input_layers or set_layer_names"
    )

    def __init__(self, calls: list[Call], layer_names: Iterable[str]):
        self._calls = calls
        self.set_layer_names(layer_names)

    def set_layer_names(self, layer_names: Iterable[str]) -> None:
        """Choose the layers that :meth:`find_input_layers` knows.

        Raises
        ------
        ValueError
            If a layer was not used in the traced forward pass.
        """
        first_call = {call.module: i for i, call in reversed(list(enumerate(self._calls)))}
        layer_names = set(layer_names)
        for layer in layer_names:
            if layer not in first_call:
                known = sorted(first_call, key=first_call.__getitem__)
                raise ValueError(f"in the forward pass there is {unknown_layer_message(layer, known)}")
        self.layer_names = sorted(layer_names, key=first_call.__getitem__)

    def find_input_layers(self, layer_name: str) -> list[str]:
        """The nearest layers before a layer, in forward order; empty for the first.

        Parameters
        ----------
        layer_name : str

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            If the layer is not in ``layer_names``.
        """
        if layer_name not in self.layer_names:
            raise ValueError(unknown_layer_message(layer_name, self.layer_names))
        shown, found, visited = set(self.layer_names), set(), set()
        waiting = [before for call in self._calls if call.module == layer_name for before in call.inputs]
        while waiting:
            number = waiting.pop()
            if number in visited:
                continue
            visited.add(number)
            call = self._calls[number]
            if call.module not in shown:
                waiting.extend(call.inputs)
            elif call.module != layer_name:
                found.add(call.module)
        return [name for name in self.layer_names if name in found]

    def __str__(self) -> str:
        width = max((len(name) for name in self.layer_names), default=0)
        return "\n".join(
            textwrap.fill(
                f"{name:<{width}} <- {', '.join(self.find_input_layers(name)) or '(input)'}",
                120, subsequent_indent=" " * (width + 4), break_long_words=False, break_on_hyphens=False,
            )
            for name in self.layer_names
        )

    __repr__ = __str__


def trace_model_graph(model: nn.Module, sample: Inputs, layer_names: Iterable[str], debug: bool = False) -> ModelGraph:
    """Find out which layers feed which, with one forward pass.

    Parameters
    ----------
    model : torch.nn.Module
    sample : torch.Tensor, tuple or dict
        Input of the model; one sample is enough.
    layer_names : list of str
        Names as in ``model.named_modules()``, or ``name:in`` for the input of a module. Those of modules that the
        forward pass does not call are left out, with a warning.
    debug : bool, default False
        Print every module call and the calls that feed it.

    Returns
    -------
    ModelGraph

    Raises
    ------
    ValueError
        If a layer does not exist, or is a single output.
    """
    layer_names = as_layer_list(layer_names)
    addresses = [resolve_layer(model, layer) for layer in layer_names]
    for address in addresses:
        if address.output_index is not None:
            raise ValueError(f"the graph knows modules and their inputs, not single outputs as {address.layer!r}")
    calls = _trace_calls(model, sample, [address for address in addresses if address.is_input])
    called = {call.module for call in calls}
    unused = [layer for layer in layer_names if layer not in called]
    if unused:
        warnings.warn(f"left out, because the forward pass does not call them: {', '.join(unused)}", stacklevel=2)
    if debug:
        for call in calls:
            print(f"{call.module} <- {', '.join(calls[before].module for before in call.inputs) or '(input)'}")
    return ModelGraph(calls, [layer for layer in layer_names if layer in called])


def _trace_calls(model: nn.Module, sample: Inputs, inputs_to_mark: list[LayerAddress]) -> list[Call]:
    """Run the model and read off, from autograd, which module calls feed which."""
    names: list[str] = []
    call_of_node: dict[Any, int] = {}

    def mark(name: str, value: Any, which: int | None = None) -> Any:
        leaves = flatten_tensors(value)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad and which in (None, i):
                leaves[i] = leaf.clone()  # a node of its own, even where the module returns its input
                call_of_node[leaves[i].grad_fn] = len(names)
        names.append(name)
        return unflatten_tensors(value, leaves)

    def mark_input(module: nn.Module, args: tuple, kwargs: dict, address: LayerAddress) -> Any:
        return mark(address.layer, (args, kwargs), leaf_index(flatten_tensors((args, kwargs)), address))

    def run() -> None:
        for name, module in model.named_modules():
            if name:
                module.register_forward_hook(lambda module, args, output, name=name: mark(name, output))
        for address in inputs_to_mark:
            address.module.register_forward_pre_hook(partial(mark_input, address=address), with_kwargs=True)
        with gradient_mode():
            leaves = InputLeaves(sample)
            with OperationMode(model), LookupMode(leaves):
                call_model(model, leaves.data)

    run_exclusively(model, run)

    inputs: list[set[int]] = [set() for _ in names]
    for node, call in call_of_node.items():
        inputs[call] |= _calls_before(node, call_of_node)
    return [Call(name, sorted(before)) for name, before in zip(names, inputs)]


def _calls_before(node: Any, call_of_node: dict[Any, int]) -> set[int]:
    """The calls that autograd's edges lead to from a node, without passing another call."""
    found, visited, waiting = set(), set(), [node]
    while waiting:
        for before, _ in waiting.pop().next_functions:
            if before is None or before in visited:
                continue
            visited.add(before)
            if before in call_of_node:
                found.add(call_of_node[before])
            else:
                waiting.append(before)
    return found
