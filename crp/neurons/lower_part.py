"""The part of a model below some layers, which runs once for several passes of the rest."""
from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from zennit.core import RemovableHandleList

from crp.model.edits import without_edits
from crp.model.inputs import call_model
from crp.model.layers import LayerAddress, flatten_tensors, unflatten_tensors
from crp.rules.restoring import undoing


class LowerPart:
    """Runs a model on the same inputs again and again, while it is entered: modules that end below layers run once.

    Later passes get copies of what they gave. Modules in train mode, and those that are called several times, run each
    time.

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
        self._ended: dict[nn.Module, list[tuple[int, Any]]] = {}
        self._begun: dict[nn.Module, int] = {}
        self._replaced: dict[nn.Module, Any] = {}
        self.output: Any = None

    def __enter__(self) -> LowerPart:
        handles = RemovableHandleList()
        guard = undoing(handles.remove)
        try:
            next(guard)
            for module in self.model.modules():
                handles += [
                    module.register_forward_pre_hook(lambda module, args: self._begin(module)),
                    module.register_forward_hook(lambda module, args, output: self._end(module, output)),
                ]
            with torch.no_grad(), without_edits():
                self.output = call_model(self.model, self.inputs)
        finally:
            guard.close()
        try:
            self._replace()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        for module, before in self._replaced.items():
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before

    def run(self) -> Any:
        """What the model gives, with the edits that stand on it now."""
        with torch.no_grad():
            return call_model(self.model, self.inputs)

    def _begin(self, module: nn.Module) -> None:
        self._moment += 1
        self._begun.setdefault(module, self._moment)

    def _end(self, module: nn.Module, output: Any) -> None:
        self._moment += 1
        self._ended.setdefault(module, []).append((self._moment, _copied(output)))

    def _replace(self) -> None:
        """Let modules that end before the first of the layers give what they gave; of nested ones the outermost."""
        starts = [
            self._begun[address.module] if address.is_input else self._ended[address.module][0][0]
            for address in self.addresses if address.module in self._ended
        ]
        first = min(starts, default=0)
        parents = {child: module for module in self.model.modules() for child in module.children()}
        below = {
            module for module, calls in self._ended.items()
            if len(calls) == 1 and calls[0][0] <= first and not module.training
        }
        for module in below:
            if parents.get(module) not in below:
                self._replaced[module] = vars(module).get("forward")
                vars(module)["forward"] = partial(_copy_of, self._ended[module][0][1])
        self._ended = {}


def _copied(value: Any) -> Any:
    return unflatten_tensors(value, [
        leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in flatten_tensors(value)
    ])


def _copy_of(output: Any, *args: Any, **kwargs: Any) -> Any:
    return _copied(output)
