"""The steps of an attribution that users override: who meets whom, where relevance starts, how it goes and ends."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from crp.attribution.conditions import output_indices
from crp.attribution.contrast import Contrast
from crp.model.inputs import Inputs, count_samples, map_tensors
from crp.model.layers import OutputChoice

InitialRelevance: TypeAlias = torch.Tensor | float | Callable[[torch.Tensor], torch.Tensor | float] | None


class LayerOutputs(dict[str, torch.Tensor]):
    """Layer -> its tensor at its last call, in the order of these calls; ``calls`` holds the tensors of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[torch.Tensor]] = {}

    def add(self, layer: str, tensor: torch.Tensor) -> None:
        """Add a call of a layer."""
        self.pop(layer, None)
        self[layer] = tensor
        self.calls.setdefault(layer, []).append(tensor)


class Steps:
    """What an attribution does before, at the start of, in and after the backward pass.

    Parameters
    ----------
    model : torch.nn.Module
    output, heatmap_axis
        As for :class:`crp.attribution.CondAttribution`.
    """

    MODEL_OUTPUT_NAME = "y"

    def __init__(self, model: nn.Module, output: OutputChoice, heatmap_axis: int | tuple[int, ...] | None):
        self.model, self.output, self.heatmap_axis = model, output, heatmap_axis

    def broadcast(self, data: Inputs, conditions: list[dict]) -> tuple[Any, list[dict]]:
        """Bring samples and conditions to the same number.

        Parameters
        ----------
        data : torch.Tensor, tuple or dict
            [N, ...]
        conditions : list of dict
            M conditions.

        Returns
        -------
        data, conditions
            As they are if N equals M. Otherwise N * M of both: the first sample with every condition, then the next.
        """
        samples = count_samples(data)
        if samples == len(conditions):
            return data, conditions
        repeats = len(conditions)
        return map_tensors(lambda tensor: tensor.repeat_interleave(repeats, 0), data), conditions * samples

    def relevance_init(
        self, prediction: torch.Tensor, target_list: list | None, init_rel: InitialRelevance
    ) -> torch.Tensor:
        """The relevance to start with.

        Parameters
        ----------
        prediction : torch.Tensor
            [B, ...], output of the model or activation of the start layer.
        target_list : list or None
            Per row the ids or the :class:`Contrast` under "y", or None in a row without. None or an empty list
            selects everything.
        init_rel : torch.Tensor, number or callable, optional

        Returns
        -------
        torch.Tensor
            The shape of ``prediction``, zero where no target is; with the other sign at what a contrast is against.
        """
        start = prediction if init_rel is None else init_rel(prediction) if callable(init_rel) else init_rel
        relevance = torch.as_tensor(start, dtype=prediction.dtype, device=prediction.device)
        try:
            relevance = relevance.expand(prediction.shape)
        except RuntimeError:
            raise ValueError(
                f"init_rel has the shape {tuple(relevance.shape)}, which does not fit {tuple(prediction.shape)}"
            ) from None
        if not target_list:
            return relevance
        selected = torch.zeros_like(prediction, dtype=torch.bool)
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for row, targets in enumerate(target_list):
            for index in [()] if targets is None else output_indices(targets, prediction.shape):
                by_length.setdefault(len(index), []).append((row, *index))
        for indices in by_length.values():
            selected[tuple(torch.tensor(indices, device=selected.device).T)] = True
        relevance = relevance.where(selected, 0)
        for row, targets in enumerate(target_list):
            for index in output_indices(targets.against, prediction.shape) if isinstance(targets, Contrast) else ():
                relevance[(row, *index)] *= -1
        return relevance

    def backward(
        self,
        pred: torch.Tensor,
        grad_mask: torch.Tensor,
        partial_backward: bool,
        layer_names: list[str],
        layer_out: dict[str, torch.Tensor],
        generate: bool = False,
    ) -> None:
        """Send relevance back to the input, where it is left as ``.grad``.

        Through a layer that runs several times, relevance goes at each of its calls.

        Parameters
        ----------
        pred : torch.Tensor
            Where relevance starts.
        grad_mask : torch.Tensor
            The relevance to start with, of the same shape.
        partial_backward : bool
            Go from layer to layer of ``layer_names``, so that nothing flows around them.
        layer_names : list of str
            Layers of the condition from last to first.
        layer_out : dict
            Layer -> its tensor, of its last call where there are several.
        generate : bool, default False
            Keep the graph for another pass.
        """
        tensors, relevances = [pred], [grad_mask.to(pred)]
        for layer in layer_names if partial_backward else []:
            calls = layer_out.calls[layer] if isinstance(layer_out, LayerOutputs) else [layer_out[layer]]
            arrived = _relevance_at(calls, tensors, relevances)
            if not arrived:
                raise ValueError(
                    f"no relevance reaches {layer!r} through the layers before it in the condition {layer_names}. "
                    "exclude_parallel=False lets relevance flow along parallel paths too"
                )
            tensors, relevances = [calls[call] for call in arrived], list(arrived.values())
        torch.autograd.backward(tensors, relevances, retain_graph=generate)

    def heatmap_modifier(
        self, data: torch.Tensor, on_device: str | torch.device | None = None
    ) -> torch.Tensor:
        """Heatmap of an input whose ``grad`` holds the relevance.

        Parameters
        ----------
        data : torch.Tensor
            An input of the model; or what its integers looked up, with an attribute ``feature_axis``: the axes that are
            not those of the integers.
        on_device : str or torch.device, optional

        Returns
        -------
        torch.Tensor
        """
        heatmap = cast(torch.Tensor, data.grad).detach()
        axis = getattr(data, "feature_axis", self.heatmap_axis if heatmap.ndim > 1 else ())  # [B] has nothing to sum
        if self.heatmap_axis is not None and axis != ():
            heatmap = heatmap.sum(axis)
        return heatmap if on_device is None else heatmap.to(on_device)


def _relevance_at(
    calls: list[torch.Tensor], tensors: list[torch.Tensor], relevances: list[torch.Tensor]
) -> dict[int, torch.Tensor]:
    """Call of a layer -> relevance that reaches it from tensors, not through another call: that one hands it on."""
    arrived: dict[int, torch.Tensor] = {}

    def stop(relevance: torch.Tensor | None, call: int) -> torch.Tensor | None:
        if relevance is None:
            return None
        arrived[call] = relevance
        return torch.zeros_like(relevance)

    reachable = [call for call, tensor in enumerate(calls) if tensor.requires_grad]
    handles = [calls[call].register_hook(partial(stop, call=call)) for call in reachable]
    try:
        torch.autograd.grad(tensors, [calls[call] for call in reachable], relevances, True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return arrived
