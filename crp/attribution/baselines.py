"""Other attribution methods, to compare with: their heatmaps have the form of those of ``CondAttribution``.

Gradient x input and integrated gradients are captum's: ``pip install 'crp-concepts[captum]'``.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from crp.attribution.conditional import AttributionResult, CondAttribution
from crp.attribution.conditions import check_conditions, check_targets, layers_of
from crp.model.inputs import Inputs, call_model, gradient_mode, list_tensors, map_tensors, prepare_inputs
from crp.model.layers import select_output
from crp.model.training import modules_in_training
from crp.rules.attach import check_nothing_registered, freeze_parameters
from crp.rules.restoring import TensorState, in_gradient_mode, run_undone


def gradient_x_input(
    attribution: CondAttribution, data: Inputs, conditions: list[dict], *, absolute_gradient: bool = False
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
    attribution: CondAttribution, data: Inputs, conditions: list[dict], *, baseline: Any = 0., steps: int = 32
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
    baseline : number, tensor, tuple or dict, default 0
        Where the way begins: a number for all inputs; a tensor for the only floating-point input, of the shape of one
        sample or of all; or for several inputs the structure of the data, with None for those that are not
        floating-point.
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
    call = _Call(attribution, data, conditions)
    starts = _baselines(baseline, data)
    repeated = attribution.broadcast((*starts, *list_tensors(data)), conditions)[0]
    baselines = [start.to(attribution.device) for start in repeated[:len(starts)]]
    return call.result(lambda captum: captum.IntegratedGradients(call.chosen_output).attribute(
        call.inputs, tuple(baselines), additional_forward_args=call.rows, n_steps=steps,
        internal_batch_size=len(call.rows),
    ))


def grad_cam(attribution: CondAttribution, data: Inputs, conditions: list[dict], layer: str) -> AttributionResult:
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
    TypeError, ValueError, IndexError
        As for ``CondAttribution``; also if the layer is not [B, C, H, W].
    """
    check_nothing_registered(attribution.model)
    result = attribution(data, conditions, None, [layer], init_rel=1., exclude_parallel=False, heatmap=False)
    activation, gradient = result.activations[layer], result.relevances[layer]
    if activation.ndim != 4:
        raise ValueError(f"GradCAM needs a layer [B, C, H, W], but {layer!r} is {tuple(activation.shape)}")
    weights = gradient.mean((2, 3), keepdim=True)
    return AttributionResult((weights * activation).sum(1).clamp(min=0), {}, {}, result.prediction)


def attention_rollout(attentions: list[torch.Tensor]) -> torch.Tensor:
    """How much of each token attention mixes into each other one over all layers (S. Abnar & W. Zuidema, 2020).

    Heads are averaged, and half of each token is taken to come along its residual connection.

    Parameters
    ----------
    attentions : list of torch.Tensor
        Per layer, from first to last, attention weights [B, heads, T, T], as ``nn.MultiheadAttention`` (with
        ``average_attn_weights=False``) and ``output_attentions=True`` of transformers (loaded with
        ``attn_implementation="eager"``) give them.

    Returns
    -------
    torch.Tensor
        [B, T, T]: row t holds the shares of the input's tokens in token t of the output, and sums to 1.

    Raises
    ------
    ValueError
        If there are no weights, or not those of each head.
    """
    mixed = None
    for weights in attentions:
        if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
            raise ValueError(f"attention weights of a layer are [B, heads, T, T], not {tuple(weights.shape)}")
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

    def __init__(self, attribution: CondAttribution, data: Inputs, conditions: list[dict]):
        name = attribution.MODEL_OUTPUT_NAME
        conditions = check_conditions(conditions, name, y_needed=True)
        if any(layers_of(condition, name) for condition in conditions):
            raise ValueError(f"this method has no masks: conditions name outputs under {name!r} only")
        if modules_in_training(attribution.model):
            warnings.warn("modules are in train mode: call model.eval()", stacklevel=4)
        self.attribution = attribution
        self.data, conditions = in_gradient_mode(lambda: self._prepared(data, conditions))
        self.inputs = tuple(_floating(self.data))
        if not self.inputs:
            raise TypeError("no input is floating-point: give embedded tokens (inputs_embeds), not their ids")
        self.rows = torch.arange(len(conditions), device=attribution.device)
        self.targets = [condition[name] for condition in conditions]
        self.prediction = run_undone(
            lambda: torch.no_grad()(self._output)(self.inputs, self.rows), TensorState(attribution.model).restore
        )
        check_targets(conditions, name, self.prediction.shape)

    def _prepared(self, data: Inputs, conditions: list[dict]) -> tuple[Inputs, list[dict]]:
        data, conditions = self.attribution.broadcast(prepare_inputs(data, self.attribution.device), conditions)
        data = map_tensors(lambda x: x.detach(), data)
        for tensor in _floating(data):
            tensor.requires_grad_()
        return data, conditions

    def chosen_output(self, *arguments: torch.Tensor) -> torch.Tensor:
        """[B]: the sum of the outputs that each row's condition names."""
        *inputs, rows = arguments
        output = self._output(inputs, rows)
        chosen = self.attribution.relevance_init(output.detach(), [self.targets[row] for row in rows.tolist()], 1.)
        unused = sum(x.reshape(len(x), -1).sum(1) * 0 for x in inputs)  # so that all inputs are in the graph
        return (output * chosen).reshape(len(output), -1).sum(1) + unused

    def _output(self, inputs: Sequence[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        remaining = iter(inputs)
        # copies, since a model may write to its inputs
        data = map_tensors(lambda x: next(remaining).clone() if x.is_floating_point() else x[rows], self.data)
        return select_output(
            call_model(self.attribution.model, data), self.attribution.output, self.attribution.MODEL_OUTPUT_NAME
        )

    def result(self, attribute: Callable[[Any], tuple[torch.Tensor, ...]]) -> AttributionResult:
        """What a method of captum gives, with axes summed as the attribution sums them."""
        model = self.attribution.model

        def run() -> tuple[torch.Tensor, ...]:
            freeze_parameters(model)
            with gradient_mode():
                return attribute(_captum())

        remaining = iter(run_undone(run, TensorState(model).restore))
        axis = self.attribution.heatmap_axis

        def finish(x: torch.Tensor) -> torch.Tensor | None:
            if not x.is_floating_point():
                return None
            heatmap = next(remaining).detach()
            return heatmap if axis is None or heatmap.ndim < 2 else heatmap.sum(axis)

        return AttributionResult(map_tensors(finish, self.data), {}, {}, self.prediction)


def _baselines(baseline: Any, data: Inputs) -> list[torch.Tensor]:
    """Where the way of each floating-point input begins, in the shape of the input."""
    inputs = _floating(data)
    if isinstance(baseline, (dict, tuple, list)):
        starts = _floating(baseline)
    elif isinstance(baseline, torch.Tensor) and baseline.ndim:
        starts = [baseline]
    else:
        starts = [torch.as_tensor(baseline)] * len(inputs)
    if len(starts) != len(inputs):
        raise ValueError(f"there are {len(inputs)} floating-point inputs, but {len(starts)} baselines")
    try:
        return [start.to(x).expand_as(x) for start, x in zip(starts, inputs)]
    except RuntimeError:
        raise ValueError(
            f"baselines {[tuple(start.shape) for start in starts]} do not fit inputs "
            f"{[tuple(x.shape) for x in inputs]}"
        ) from None


def _floating(data: Any) -> list[torch.Tensor]:
    return [x for x in list_tensors(data) if x.is_floating_point()]


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError:
        raise ImportError("this method is captum's: pip install 'crp-concepts[captum]'") from None
    return attr
