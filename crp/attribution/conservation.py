"""Do heatmaps hold the relevance that they started from?"""
from __future__ import annotations

import torch

from crp.attribution.audit import Audit
from crp.attribution.conditions import layers_of
from crp.attribution.passes import AttributionResult, Flow
from crp.attribution.steps import Steps
from crp.model.inputs import list_tensors
from crp.rules.composites import gives_relevance

_OVERRIDABLE = ("broadcast", "relevance_init", "backward", "heatmap_modifier")


def is_conserved(steps: Steps, conditions: list[dict], flow: Flow, result: AttributionResult) -> bool:
    """Whether heatmaps hold half to twice the relevance of the outputs they start from, or need not.

    They need not with masks, with steps of the user's own, from a start layer, or without rules of relevance.

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
    named = all(steps.MODEL_OUTPUT_NAME in condition for condition in conditions)
    targets = [condition[steps.MODEL_OUTPUT_NAME] for condition in conditions] if named else []
    if not result.prediction.any():
        return False
    start = _sum_of_samples(steps.relevance_init(result.prediction.clone(), targets, flow.init_rel))
    end = sum(_sum_of_samples(heatmap) for heatmap in list_tensors(result.heatmap))
    ratio = float((end * start.sign()).sum() / start.abs().sum())
    is_within = not abs(ratio) < float("inf") or 0.5 <= ratio <= 2
    return is_within or not gives_relevance(flow.composite, steps.model)


def explanation(audit: Audit, functional: bool | str) -> str:
    """What to tell of an audit that found relevance to be created, lost, or to end before the input; else empty."""
    if 0.5 <= audit.accounted <= 2:
        return audit.vanishing and f"heatmaps show nothing: {audit.vanishing}"
    return (
        f"LRP does not conserve relevance here: of 1 at the output, {audit.total:.3g} arrives at the input and "
        f"{sum(audit.sinks.values()):.3g} in biases and other sinks. attribution.audit(data, composite) shows "
        "where the rest is created or lost"
        + ("" if functional else "; functional=True gives rules to functional operations")
    )


def _sum_of_samples(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(len(tensor), -1).sum(1, dtype=torch.float64).cpu()
