"""Where relevance starts in a sweep: at classes, at all outputs, at the prediction; of the model or of a layer."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crp.attribution.conditions import value_of_the_largest
from crp.attribution.contrast import Contrast
from crp.concepts import ChannelConcept, Concept
from crp.model.targets import Start


@dataclass(frozen=True)
class Starts:
    """Conditions and other arguments of attributions that start at targets of samples.

    Attributes
    ----------
    output_name : str
        The key of outputs, "y".
    start_layer : str or None
        The layer whose channels (on axis 1) are the outputs, instead of those of the model.
    y : int, list, Contrast, "prediction" or None
        The outputs that relevance starts at, whatever the targets are; the largest of each sample for "prediction".
    """

    output_name: str
    start_layer: str | None = None
    y: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.y, Contrast) and self.start_layer is not None:
            raise TypeError(f"a contrast is between outputs of the model, not channels of {self.start_layer!r}")
        if isinstance(self.y, str) and self.y != "prediction":
            raise ValueError(f"y is 'prediction' or names outputs by number, not {self.y!r}")
        if self.start_layer is not None and any(isinstance(item, tuple) for item in np.atleast_1d(self.y).tolist()):
            raise TypeError(f"y names channels of {self.start_layer!r}, not {self.y!r}")

    def targets(self, classes: list[int]) -> list[int]:
        """The targets of a sample with certain classes."""
        if self.y is None:
            return classes
        if isinstance(self.y, str):
            return [Start.PREDICTION]
        return [int(self.y)] if isinstance(self.y, (int, np.integer)) else [Start.ALL_OUTPUTS]

    def condition(self, target: int) -> dict[str, Any]:
        """From which outputs relevance starts for a target."""
        name = self.output_name if self.start_layer is None else self.start_layer
        if target >= 0:
            return {name: [int(target)]}
        if target == Start.NOTHING:
            return {name: []}
        if target == Start.ALL_OUTPUTS and self.y is not None:
            return {name: self.y}
        return {name: slice(None)} if target == Start.ALL_OUTPUTS and self.start_layer is None else {}

    def arguments(self, targets: np.ndarray, concepts: Mapping[str, Concept]) -> dict[str, Any]:
        """Arguments of an attribution, one row for each target; all are the prediction, or none is."""
        given: dict[str, Any] = {
            "conditions": [self.condition(target) for target in targets.tolist()], "mask_map": dict(concepts),
        }
        if self.start_layer is not None:
            given |= {"start_layer": self.start_layer}
            given["mask_map"][self.start_layer] = ChannelConcept()
        if len(targets) and targets[0] == Start.PREDICTION:
            given["init_rel"] = value_of_the_largest
        return given

    def named(self, targets: np.ndarray, prediction: torch.Tensor) -> np.ndarray:
        """What a store calls targets: classes, the predicted ones too; -1 where there is no single class."""
        predicted = predicted_classes(prediction)
        return np.where(targets == Start.PREDICTION, predicted, np.maximum(targets, -1))


def predicted_classes(prediction: torch.Tensor) -> np.ndarray:
    """The largest output of each row [B, classes]; -1 for outputs of another shape."""
    if prediction.ndim == 2:
        return prediction.argmax(1).cpu().numpy()
    return np.full(len(prediction), -1)


def runs_of_one_kind(targets: np.ndarray) -> int:
    """How many targets from the first on are all the prediction, or none is."""
    is_prediction = targets == Start.PREDICTION
    other = np.flatnonzero(is_prediction != is_prediction[0])
    return int(other[0]) if len(other) else len(targets)
