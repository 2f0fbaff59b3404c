"""Responses of neurons: the mean activation of each channel to each input."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from crp.attribution.sample_finder import SampleFinder
from crp.attribution.taps import LayerTaps
from crp.concepts import aggregate
from crp.concepts.padding import axes_of_positions, where_counted
from crp.model.inputs import call_model, device_of, map_tensors
from crp.model.positions import ATTENTION_MASK, PositionMask, counting_positions
from crp.rules.attach import run_exclusively
from crp.rules.restoring import TensorState


def inner_layers(model: nn.Module) -> list[str]:
    """Names of a model's modules without children, but the first and the last."""
    names = [name for name, module in model.named_modules() if next(module.children(), None) is None and name]
    if len(names) < 3:
        raise ValueError(f"the model has no layers between its first and its last ({names}): name layers")
    return names[1:-1]


def layer_responses(
    model: nn.Module, inputs: Any, layers: list[str] | None = None, axis: int = 1, batch_size: int = 64, *,
    position_mask: PositionMask = ATTENTION_MASK,
) -> dict[str, np.ndarray]:
    """Mean activation over positions of each channel: layer -> [N, C].

    Parameters
    ----------
    model : torch.nn.Module
    inputs : torch.Tensor, tuple or dict, or an iterable of batches of them
        Of a list [inputs, targets], as a DataLoader gives it, the inputs are taken.
    layers : list of str, optional
        By default :func:`inner_layers`, as far as the model uses them.
    axis : int, default 1
    batch_size : int, default 64
        For inputs in one piece.
    position_mask : str, callable or None, default "attention_mask"
        Which positions count, as for :class:`crp.visualization.FeatureVisualization`.
    """
    chosen = inner_layers(model) if layers is None else layers
    reader = _Reader(model, chosen, axis, position_mask)
    found: dict[str, list[np.ndarray]] = {}
    for batch in _batches(inputs, batch_size):
        means = run_exclusively(model, lambda: reader.read(batch), TensorState(model).restore)
        unused = [layer for layer in chosen if layer not in means]
        if unused and layers is not None:
            raise ValueError(f"layer {unused[0]!r} is not used in the forward pass of the model")
        for layer, mean in means.items():
            found.setdefault(layer, []).append(mean)
    if not found:
        raise ValueError("there are no inputs, or the model uses none of its layers")
    return {layer: np.concatenate(found[layer]) for layer in chosen if layer in found}


class _Reader:
    """Reads mean activations over the positions that count, of a module that is called again at its last call."""

    def __init__(self, model: nn.Module, layers: list[str], axis: int, position_mask: PositionMask):
        self.model, self.layers, self.axis, self.position_mask = model, layers, axis, position_mask
        self._device, self._finder = device_of(model), SampleFinder(model)
        self._axes: dict[str, tuple[int, ...]] | None = None

    def read(self, batch: Any) -> dict[str, np.ndarray]:
        """Layer -> [B, C], of the layers that the model uses."""
        data = map_tensors(lambda tensor: tensor.to(self._device), batch)
        counts = counting_positions(self.position_mask, data)
        axes = {} if counts is None else self._axes_of_positions(data)

        def mean(tensor: torch.Tensor, layer: str) -> np.ndarray:
            tensor = tensor.float()
            if counts is None or layer not in axes:
                return aggregate(tensor, "mean", self.axis).cpu().numpy()
            shown = where_counted(counts, axes[layer], tensor.ndim).expand_as(tensor)
            total, share = (aggregate(each, "mean", self.axis) for each in (tensor.where(shown, 0), shown.float()))
            return (total / share).cpu().numpy()

        return self._run(data, mean)

    def _axes_of_positions(self, data: Any) -> dict[str, tuple[int, ...]]:
        if self._axes is None:
            self._axes = axes_of_positions(
                self.position_mask, data, lambda data: self._run(data, lambda tensor, layer: tensor.shape)
            )
        return self._axes

    def _run(self, data: Any, record: Callable[[torch.Tensor, str], Any]) -> dict[str, Any]:
        rows = self._finder.find(self.layers, data, self.layers if self.axis > 0 else ())
        taps = LayerTaps(self.model, (), self.layers, record, rows=rows)
        with torch.no_grad(), taps:
            call_model(self.model, data)
        return taps.activations


def _batches(inputs: Any, batch_size: int) -> Iterable[Any]:
    if isinstance(inputs, (torch.Tensor, tuple, Mapping)):
        tensor = inputs if isinstance(inputs, torch.Tensor) else next(iter(
            inputs.values() if isinstance(inputs, Mapping) else inputs
        ))
        for first in range(0, len(tensor), batch_size):
            yield map_tensors(lambda tensor: tensor[first:first + batch_size], inputs)
        return
    for batch in inputs:
        batch = batch[0] if isinstance(batch, list) else batch
        if not isinstance(batch, (torch.Tensor, tuple, Mapping)):
            raise TypeError(f"inputs are tensors (for arrays: torch.from_numpy), not {type(batch).__name__}")
        yield batch
