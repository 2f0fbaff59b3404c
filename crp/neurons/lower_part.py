"""The part of a model below some layers, which runs once for several passes of the rest."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from crp.model.inputs import call_model, copied_inputs, device_of
from crp.model.layers import LayerAddress, flatten_tensors, unflatten_tensors


class _Call(NamedTuple):
    """When a module began and ended, whether it wrote to what it takes, and a copy of what it gave."""

    begun: int
    ended: int
    writes: bool
    output: Any


class LowerPart:
    """Runs a model on the same inputs again and again, while it is entered: modules that end below layers run once.

    Later passes get copies of what they gave. Modules in train mode, those that are called several times and those that
    write to what they take run each time.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : torch.Tensor, tuple or dict
    addresses : list of LayerAddress
        The layers from which on passes will differ.

    Attributes
    ----------
    output
        What the model gave in the first pass.
    """

    def __init__(self, model: nn.Module, inputs: Any, addresses: list[LayerAddress]):
        self.model, self.inputs, self.addresses = model, inputs, addresses
        self._moment = 0
        self._calls: dict[nn.Module, list[_Call]] = {}
        self._replaced: dict[nn.Module, Any] = {}
        self.output: Any = None

    def __enter__(self) -> LowerPart:
        try:
            for module in self.model.modules():
                self._give(module, partial(self._watched, module, module.forward))
            self.output = self.run()
            self._take_back()
            self._replace()
        except BaseException:
            self._take_back()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._take_back()

    def run(self) -> Any:
        """What the model gives, with the edits that stand on it now."""
        with torch.inference_mode(False), torch.no_grad():
            return call_model(self.model, copied_inputs(self.inputs, device_of(self.model)))

    def _give(self, module: nn.Module, forward: Callable) -> None:
        """Let a module do something else for a while."""
        self._replaced[module] = vars(module).get("forward")
        vars(module)["forward"] = forward

    def _take_back(self) -> None:
        for module, before in self._replaced.items():
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before
        self._replaced = {}

    def _watched(self, module: nn.Module, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        """What a module gives, of which a copy is kept, and whether it wrote to what it takes."""
        self._moment += 1
        begun, taken = self._moment, _tensors_in((args, kwargs))
        versions = [tensor._version for tensor in taken]
        output = forward(*args, **kwargs)
        self._moment += 1
        writes = versions != [tensor._version for tensor in taken]
        self._calls.setdefault(module, []).append(_Call(begun, self._moment, writes, _copied(output)))
        return output

    def _replace(self) -> None:
        """Let modules that end before the first of the layers give what they gave; of nested ones the outermost."""
        starts = [
            self._calls[address.module][0].begun if address.is_input else self._calls[address.module][0].ended
            for address in self.addresses if address.module in self._calls
        ]
        first = min(starts, default=0)
        parents = {child: module for module in self.model.modules() for child in module.children()}
        below = {
            module for module, calls in self._calls.items()
            if len(calls) == 1 and calls[0].ended <= first and not calls[0].writes and not module.training
        }
        for module in below:
            if parents.get(module) not in below:
                self._give(module, partial(_copy_of, self._calls[module][0].output))
        self._calls = {}


def _tensors_in(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in flatten_tensors(value) if isinstance(leaf, torch.Tensor)]


def _copied(value: Any) -> Any:
    return unflatten_tensors(value, [
        leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in flatten_tensors(value)
    ])


def _copy_of(output: Any, *args: Any, **kwargs: Any) -> Any:
    return _copied(output)
