"""Do heatmaps hold the relevance that they started from, and tell something?"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from crp.attribution.audit import EXPLOSION, Audit
from crp.attribution.conditions import layers_of
from crp.attribution.passes import AttributionResult, Flow
from crp.attribution.steps import Steps
from crp.model.inputs import Inputs, list_tensors
from crp.model.layers import flatten_tensors
from crp.model.positions import ATTENTION_MASK
from crp.rules.composites import gives_relevance

_SHORTEST_TEXT = 4
_OVERRIDABLE = ("broadcast", "relevance_init", "backward", "heatmap_modifier")


def seems_right(steps: Steps, conditions: list[dict], flow: Flow, result: AttributionResult) -> bool:
    """Whether heatmaps hold half to twice the relevance of the outputs they start from, or need not.

    None starts from a softmax, or from a sigmoid below a half.

    They need not with masks, with steps of the user's own, from a start layer, or without rules of relevance. Absolute
    relevance may not be a thousand times that of the outputs.

    Parameters
    ----------
    steps : Steps
    conditions : list of dict
        One for each row.
    flow : Flow
        With a composite.
    result : AttributionResult
    """
    has_masks = any(layers_of(condition, steps.MODEL_OUTPUT_NAME) for condition in conditions)
    own = any(getattr(type(steps), name) is not getattr(Steps, name) for name in _OVERRIDABLE)
    if has_masks or own or flow.start_layer is not None or not flow.heatmap:
        return True
    return _holds_what_it_started_from(steps, conditions, flow, result) or not gives_relevance(
        flow.composite, steps.model
    )


def _holds_what_it_started_from(
    steps: Steps, conditions: list[dict], flow: Flow, result: AttributionResult
) -> bool:
    named = all(steps.MODEL_OUTPUT_NAME in condition for condition in conditions)
    targets = [condition[steps.MODEL_OUTPUT_NAME] for condition in conditions] if named else []
    if not result.prediction.any() or looks_like_softmax(result.prediction):
        return False
    relevance = steps.relevance_init(result.prediction.clone(), targets, flow.init_rel)
    start, started = _sum_of_samples(relevance), float(relevance.abs().sum(dtype=torch.float64))
    if looks_like_sigmoid(result.prediction) and starts_below_half(result.prediction, relevance):
        return False
    heatmaps = list_tensors(result.heatmap)
    if sum(float(heatmap.detach().abs().sum(dtype=torch.float64)) for heatmap in heatmaps) > EXPLOSION * started:
        return False
    ratio = float((sum(map(_sum_of_samples, heatmaps)) * start.sign()).sum() / start.abs().sum())
    return not abs(ratio) < float("inf") or 0.5 <= ratio <= 2


def looks_like_softmax(output: torch.Tensor) -> bool:
    """Whether an output [B, classes] may be probabilities that a softmax gave, or their logarithms."""
    if output.ndim < 2 or output.shape[1] < 2:
        return False
    low, high = float(output.min()), float(output.max())
    if not (0 <= low and high <= 1) and not high <= 0:
        return False
    sums = (output if low >= 0 else output.double().exp()).sum(1)
    return bool((sums - 1).abs().max() < 1e-2)


def looks_like_sigmoid(output: torch.Tensor) -> bool:
    """Whether outputs may be probabilities that a sigmoid gave."""
    return bool(((0 <= output) & (output <= 1)).all())


def starts_below_half(output: torch.Tensor, relevance: torch.Tensor) -> bool:
    """Whether relevance starts at outputs that are below a half."""
    return bool((relevance.abs() * (output < 0.5)).any())


def explanation(audit: Audit, functional: bool | str) -> str:
    """What to tell of an audit that found relevance to be created, lost, or to tell little; else empty."""
    alarm = next(iter(audit.alarms), "")
    if 0.5 <= audit.accounted <= 2:
        say = "have turned signs" if alarm == audit.turned else f"show {'nothing' if audit.vanishing else 'little'}"
        return alarm and f"heatmaps {say}: {alarm}"
    return (
        f"LRP does not conserve relevance here: of 1 at the output, {audit.total:.3g} arrives at the input and "
        f"{sum(audit.sinks.values()):.3g} in biases and other sinks. attribution.audit(data, composite) shows "
        "where the rest is created or lost"
        + ("" if functional else "; functional=True gives rules to functional operations")
        + (f". {alarm[0].upper()}{alarm[1:]}" if alarm else "")
    )


def sum_over_features(steps: Steps, data: Inputs) -> str:
    """In words, where heatmaps of data [B, features] sum over these because of the default axis; else empty."""
    if steps.heatmap_axis != 1 or type(steps).heatmap_modifier is not Steps.heatmap_modifier:
        return ""
    shapes = [list(tensor.shape) for tensor in list_tensors(data) if tensor.is_floating_point()]
    features = [shape for shape in shapes if len(shape) == 2 and shape[1] > 1]
    if not features:
        return ""
    return (
        f"a heatmap of data {features[0]} sums over its only axis, so one number is left of each sample; "
        "CondAttribution(model, heatmap_axis=None) keeps the features"
    )


def _sum_of_samples(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(len(tensor), -1).sum(1, dtype=torch.float64).cpu()


def first_token_takes_most(model: nn.Module, data: Any, heatmap: Any) -> str:
    """What to do where the first token of texts holds more than half of their absolute relevance; else empty.

    Of texts of four tokens or more, on average; tokens that an attention mask hides are none. Integers are taken for
    texts in models with attention.
    """
    if not any("attention" in type(module).__name__.lower() for module in model.modules()):
        return ""
    hidden = data.get(ATTENTION_MASK) if isinstance(data, Mapping) else None
    for ids, relevance in zip(flatten_tensors(data), flatten_tensors(heatmap)):
        is_text = isinstance(ids, torch.Tensor) and isinstance(relevance, torch.Tensor)
        if not is_text or ids.is_floating_point() or ids.ndim != 2 or relevance.shape != ids.shape:
            continue
        shown = torch.ones_like(relevance, dtype=torch.bool)
        if isinstance(hidden, torch.Tensor) and hidden.shape == ids.shape:
            shown = hidden.to(relevance.device) != 0
        long = shown.sum(1) >= _SHORTEST_TEXT
        strength = relevance.abs().where(shown, 0)[long]
        if len(strength) == 0:
            continue
        first = strength.gather(1, shown[long].int().argmax(1, keepdim=True))[:, 0]
        share = float((first / strength.sum(1).clamp_min(torch.finfo(strength.dtype).tiny)).mean())
        if share > 0.5:
            return (
                f"the first token holds {share:.0%} of the absolute relevance: models with attention often look there "
                "when there is nothing to see (an attention sink), or collect everything there. What the other tokens "
                "say shows in a difference between outputs, {'y': Contrast(this, that)}, where what both share cancels "
                "out, or without that token: heatmap[:, 1:]"
            )
    return ""
