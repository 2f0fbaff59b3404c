"""Other attribution methods, to compare with: their heatmaps have the form of those of ``CondAttribution``.

Those that captum has are captum's: ``pip install 'crp-concepts[captum]'``.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crp.attach import frozen_parameters
from crp.attribution import AttributionResult, CondAttribution
from crp.conditions import check_conditions, check_targets, layers_of
from crp.inputs import call_model, list_tensors, map_tensors
from crp.layers import resolve_layer, select_output


def gradient_x_input(
    attribution: CondAttribution, data: Any, conditions: list[dict], *, absolute_gradient: bool = False
) -> AttributionResult:
    """The gradient of an output times the input (A. Shrikumar et al., 2016), or its absolute value alone.

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
        With its model, ``output`` and ``heatmap_axis``.
    data : torch.Tensor, tuple or dict
        Inputs of the model, [N, ...]. Those that are not floating-point get None for a heatmap.
    conditions : list of dict
        Outputs under "y"; as many as samples, or each sample is attributed under every condition.
    absolute_gradient : bool, default False
        Give the absolute gradient (K. Simonyan et al., 2014) instead of the product.

    Returns
    -------
    AttributionResult

    Raises
    ------
    ImportError
        If captum is not installed.
    TypeError, ValueError, IndexError
        If no input is floating-point, or conditions name layers, or outputs that do not exist.
    """
    call = _Call(attribution, data, conditions)
    method = "Saliency" if absolute_gradient else "InputXGradient"
    return call.result(lambda captum: getattr(captum, method)(call.chosen_output).attribute(
        call.inputs, additional_forward_args=call.rows
    ))


def integrated_gradients(
    attribution: CondAttribution, data: Any, conditions: list[dict], *, baseline: Any = 0., steps: int = 32
) -> AttributionResult:
    """Gradients along the straight way from a baseline, times that way (M. Sundararajan et al., 2017).

    The sum of a heatmap is what the output is above that of the baseline, up to an error that shrinks with the steps.

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
    data : torch.Tensor, tuple or dict
        Inputs of the model, [N, ...]. Those that are not floating-point get None for a heatmap.
    conditions : list of dict
        Outputs under "y"; as many as samples, or each sample is attributed under every condition.
    baseline : number or tensor, default 0
        Where the way begins; a tensor has the shape of one input, or of all.
    steps : int, default 32
        How many gradients are taken (Gauss-Legendre quadrature).

    Returns
    -------
    AttributionResult
        The prediction is that of the data.

    Raises
    ------
    ImportError, TypeError, ValueError, IndexError
        As :func:`gradient_x_input`; also if there is no step.
    """
    if steps < 1:
        raise ValueError(f"steps is at least 1, not {steps}")
    starts = map_tensors(lambda x: torch.as_tensor(baseline).to(x).expand_as(x), data)
    call = _Call(attribution, data, conditions)
    baselines = _floating(attribution.broadcast(starts, conditions)[0])
    return call.result(lambda captum: captum.IntegratedGradients(call.chosen_output).attribute(
        call.inputs, tuple(baselines), additional_forward_args=call.rows, n_steps=steps,
        internal_batch_size=len(call.rows),
    ))


def grad_cam(attribution: CondAttribution, data: Any, conditions: list[dict], layer: str) -> AttributionResult:
    """Channels of a layer weighted by their mean gradient, without the negative part (R. Selvaraju et al., 2017).

    Parameters
    ----------
    attribution : crp.attribution.CondAttribution
    data : torch.Tensor, tuple or dict
        Inputs of the model, [N, ...].
    conditions : list of dict
        Outputs under "y"; as many as samples, or each sample is attributed under every condition.
    layer : str
        A layer [B, C, H, W].

    Returns
    -------
    AttributionResult
        Heatmaps [B, H, W], of the layer's size.

    Raises
    ------
    ImportError, TypeError, ValueError, IndexError
        As :func:`gradient_x_input`; also if the layer does not exist or has no positions.
    """
    address = resolve_layer(attribution.model, layer)
    call = _Call(attribution, data, conditions)
    heatmaps = _captum().LayerGradCam(call.chosen_output, address.module).attribute(
        call.inputs, additional_forward_args=call.rows, attribute_to_layer_input=address.is_input,
        relu_attributions=True,
    )
    heatmap = heatmaps[address.output_index or 0] if isinstance(heatmaps, tuple) else heatmaps
    if heatmap.ndim < 3:
        raise ValueError(f"layer {layer!r} has no positions: GradCAM needs [B, C, H, W]")
    return AttributionResult(heatmap.detach()[:, 0], {}, {}, call.prediction)


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


class _Call:
    """A call of an attribution in captum's terms.

    Attributes
    ----------
    inputs : tuple of torch.Tensor
        The floating-point inputs, with a row for each pair of sample and condition.
    rows : torch.Tensor
        Numbers of the rows. captum repeats them beside the inputs, so that each row finds its other inputs and outputs.
    prediction : torch.Tensor
    """

    def __init__(self, attribution: CondAttribution, data: Any, conditions: list[dict]):
        name = attribution.MODEL_OUTPUT_NAME
        conditions = check_conditions(conditions, name, y_needed=True)
        if any(layers_of(condition, name) for condition in conditions):
            raise ValueError(f"this method has no masks: conditions name outputs under {name!r} only")
        data = map_tensors(lambda x: x.detach().to(attribution.device), data)
        self.attribution = attribution
        self.data, conditions = attribution.broadcast(data, conditions)
        self.inputs = tuple(x.detach().requires_grad_() for x in _floating(self.data))
        if not self.inputs:
            raise TypeError("no input is floating-point: give embedded tokens (inputs_embeds), not their ids")
        self.rows = torch.arange(len(conditions), device=attribution.device)
        self.targets = [condition[name] for condition in conditions]
        with torch.no_grad():
            self.prediction = self._output(self.inputs, self.rows)
        check_targets(conditions, name, self.prediction.shape)

    def chosen_output(self, *arguments: torch.Tensor) -> torch.Tensor:
        """[B]: the sum of the outputs that each row's condition names."""
        *inputs, rows = arguments
        output = self._output(inputs, rows)
        chosen = self.attribution.relevance_init(output.detach(), [self.targets[row] for row in rows.tolist()], 1.)
        return (output * chosen).flatten(1).sum(1)

    def _output(self, inputs, rows):
        remaining = iter(inputs)
        data = map_tensors(lambda x: next(remaining) if x.is_floating_point() else x[rows], self.data)
        return select_output(
            call_model(self.attribution.model, data), self.attribution.output, self.attribution.MODEL_OUTPUT_NAME
        )

    def result(self, attribute: Callable[[Any], tuple[torch.Tensor, ...]]) -> AttributionResult:
        """What a method of captum gives, with axes summed as the attribution sums them."""
        with frozen_parameters(self.attribution.model):
            remaining = iter(attribute(_captum()))
        axis = self.attribution.heatmap_axis

        def finish(x):
            if not x.is_floating_point():
                return None
            heatmap = next(remaining).detach()
            return heatmap if axis is None or heatmap.ndim < 2 else heatmap.sum(axis)

        return AttributionResult(map_tensors(finish, self.data), {}, {}, self.prediction)


def _floating(data: Any) -> list[torch.Tensor]:
    return [x for x in list_tensors(data) if x.is_floating_point()]


def _captum():
    try:
        from captum import attr
    except ImportError:
        raise ImportError("this method is captum's: pip install 'crp-concepts[captum]'") from None
    return attr
