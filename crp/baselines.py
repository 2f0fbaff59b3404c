"""Other attribution methods, to compare with: their heatmaps have the form of those of ``CondAttribution``."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crp.attribution import AttributionResult, CondAttribution
from crp.inputs import map_tensors


def gradient_x_input(
    attribution: CondAttribution, data: Any, conditions: list[dict], *, absolute_gradient: bool = False
) -> AttributionResult:
    """The gradient of an output times the input (A. Shrikumar et al., 2016), or its absolute value alone.

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
        With its model, ``output`` and ``heatmap_axis``.
    data : torch.Tensor, tuple or dict
        Floating-point inputs of the model, [N, ...].
    conditions : list of dict
        One, or one per sample, with outputs under "y".
    absolute_gradient : bool, default False
        Give the absolute gradient (K. Simonyan et al., 2014) instead of the product.

    Returns
    -------
    AttributionResult
    """
    inputs = attribution.broadcast(data, conditions)[0]
    return _with_heatmaps(
        attribution, _gradients(attribution, data, conditions), inputs,
        (lambda gradient, x: gradient.abs()) if absolute_gradient else (lambda gradient, x: gradient * x),
    )


def integrated_gradients(
    attribution: CondAttribution, data: Any, conditions: list[dict], *, baseline: Any = 0., steps: int = 32
) -> AttributionResult:
    """Gradients along the straight way from a baseline, times that way (M. Sundararajan et al., 2017).

    The sum of a heatmap is what the output is above that of the baseline, up to an error that shrinks with the steps.

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
    data : torch.Tensor, tuple or dict
        Floating-point inputs of the model, [N, ...].
    conditions : list of dict
        One, or one per sample, with outputs under "y".
    baseline : number or tensor, default 0
        Where the way begins; a tensor has the shape of one input, or of all.
    steps : int, default 32
        Gradients are taken in the middle of each of so many equal steps.

    Returns
    -------
    AttributionResult
        The prediction is that of the data.

    Raises
    ------
    ValueError
        If there is no step.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    inputs = attribution.broadcast(data, conditions)[0]
    total = None
    for step in range(steps):
        part = (step + 0.5) / steps
        there = map_tensors(lambda x, part=part: baseline + (x.detach() - baseline) * part, data)
        gradients = _gradients(attribution, there, conditions).heatmap
        total = gradients if total is None else _combine(lambda a, b: a + b, total, gradients)
    result = _gradients(attribution, data, conditions)
    mean = map_tensors(lambda tensor: tensor / steps, total)
    return _with_heatmaps(
        attribution, result._replace(heatmap=mean), inputs, lambda gradient, x: gradient * (x - baseline)
    )


def grad_cam(attribution: CondAttribution, data: Any, conditions: list[dict], layer: str) -> AttributionResult:
    """Channels of a layer weighted by their mean gradient, without the negative part (R. Selvaraju et al., 2017).

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
    data : torch.Tensor, tuple or dict
    conditions : list of dict
        One, or one per sample, with outputs under "y".
    layer : str
        A layer [B, C, H, W].

    Returns
    -------
    AttributionResult
        Heatmaps [B, H, W], of the layer's size.

    Raises
    ------
    ValueError
        If the layer has no positions.
    """
    result = attribution(
        data, conditions, None, [layer], init_rel=1., exclude_parallel=False, heatmap=False
    )
    activation, gradient = result.activations[layer], result.relevances[layer]
    if activation.ndim < 3:
        raise ValueError(f"layer {layer!r} has no positions: {tuple(activation.shape)}")
    weights = gradient.flatten(2).mean(2).view(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
    return result._replace(heatmap=(weights * activation).sum(1).clamp(min=0))


def attention_rollout(attentions: list[torch.Tensor]) -> torch.Tensor:
    """How much of each token attention mixes into each other one over all layers (S. Abnar & W. Zuidema, 2020).

    Heads are averaged, and half of each token is taken to come along its residual connection.

    Parameters
    ----------
    attentions : list of torch.Tensor
        Per layer, from first to last, attention weights [B, heads, T, T], as ``nn.MultiheadAttention`` (with
        ``average_attn_weights=False``) and ``output_attentions=True`` of transformers give them.

    Returns
    -------
    torch.Tensor
        [B, T, T]: row t holds the shares of the input's tokens in token t of the output, and sums to 1.
    """
    mixed = None
    for weights in attentions:
        mean = weights.mean(1)
        layer = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        mixed = layer if mixed is None else layer @ mixed
    if mixed is None:
        raise ValueError("attentions holds the weights of one layer at least")
    return mixed


def _gradients(attribution: CondAttribution, data: Any, conditions: list[dict]) -> AttributionResult:
    """Plain gradients of outputs, with all axes of the input."""
    plain = CondAttribution(
        attribution.model, attribution.device, output=attribution.output, heatmap_axis=None
    )
    return plain(data, conditions, None, init_rel=1., exclude_parallel=False)


def _with_heatmaps(
    attribution: CondAttribution, result: AttributionResult, inputs: Any,
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> AttributionResult:
    """A result whose heatmaps are a function of gradients and inputs, summed as the attribution sums them."""
    def finish(gradient, x):
        heatmap = function(gradient, x.detach().to(gradient))
        axis = attribution.heatmap_axis
        return heatmap if axis is None or heatmap.ndim < 2 else heatmap.sum(axis)

    return result._replace(heatmap=_combine(finish, result.heatmap, inputs))


def _combine(function: Callable, first: Any, second: Any) -> Any:
    """Apply a function to the tensors of two inputs of the same structure."""
    remaining = []
    map_tensors(remaining.append, second)
    others = iter(remaining)
    return map_tensors(lambda tensor: function(tensor, next(others)), first)
