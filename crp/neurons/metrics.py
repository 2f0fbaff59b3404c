"""Metrics of a model's answers: by name, as functions, or as objects that collect."""
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def _check_classes(output: Tensor, targets: Tensor) -> None:
    if output.ndim != 2 or output.shape[1] < 2 or targets.is_floating_point():
        raise ValueError(
            f"the metric is of classes: outputs [B, classes] and class numbers, not {tuple(output.shape)} and "
            f"{targets.dtype} targets; a function (output, targets) -> [B] does for others"
        )
    if int(targets.min()) < 0 or int(targets.max()) >= output.shape[1]:
        raise ValueError(f"targets are from 0 to {output.shape[1] - 1}, the outputs of the model")


def _accuracy(output: Tensor, targets: Tensor) -> Tensor:
    _check_classes(output, targets)
    return (output.argmax(1) == targets).float()


def _logit(output: Tensor, targets: Tensor) -> Tensor:
    _check_classes(output, targets)
    return output.gather(1, targets.long()[:, None])[:, 0]


def _probability(output: Tensor, targets: Tensor) -> Tensor:
    return _logit(output.softmax(1), targets)


def _cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    _check_classes(output, targets)
    return -functional.cross_entropy(output, targets.long(), reduction="none")


NAMED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": _accuracy, "probability": _probability, "logit": _logit, "cross_entropy": _cross_entropy,
}


@dataclass
class Tally:
    """A metric over batches.

    Attributes
    ----------
    function : callable or None
        ``(output, targets) -> [B]`` or one number.
    collector : object or None
        With ``update`` and ``compute``.
    values : list of numpy.ndarray
        Of each batch, [B] each or one number.
    """

    function: Callable[[Tensor, Tensor], Any] | None
    collector: Any
    values: list[np.ndarray] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Count a batch."""
        if self.function is None:
            self.collector.update(output, targets)
            return
        found = torch.as_tensor(self.function(output, targets)).detach().double().cpu().numpy()
        if found.shape not in ((), (len(targets),)):
            raise ValueError(f"metric gives one number, or one for each of {len(targets)} samples, not {found.shape}")
        self.values.append(found)
        self.weights.append(len(targets))

    @property
    def tells_samples(self) -> bool:
        """Whether there is a value for each sample."""
        return bool(self.values) and all(values.ndim == 1 for values in self.values)

    def score(self) -> float:
        """The metric over all batches."""
        if self.function is None:
            return float(self.collector.compute())
        means = [float(values.mean()) for values in self.values]
        return float(np.average(means, weights=self.weights))


@dataclass(frozen=True)
class Metric:
    """A metric that can be tallied many times over."""

    name: str
    function: Callable[[Tensor, Tensor], Any] | None
    collector: Any = None

    def tally(self) -> Tally:
        """One that has counted nothing."""
        collector = copy.deepcopy(self.collector)
        if collector is not None and hasattr(collector, "reset"):
            collector.reset()
        return Tally(self.function, collector)


def as_metric(metric: Any) -> Metric:
    """The metric that a name, a function or an object means.

    Raises
    ------
    ValueError, TypeError
        For anything else.
    """
    if isinstance(metric, str):
        if metric not in NAMED:
            raise ValueError(f"metric is {', '.join(map(repr, NAMED))}, a function or an object, not {metric!r}")
        return Metric(metric.replace("_", " "), NAMED[metric])
    if hasattr(metric, "update") and hasattr(metric, "compute"):
        return Metric(type(metric).__name__, None, metric)
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__).replace("_", " "), metric)
    raise TypeError(f"metric is a name, a function (output, targets) or an object with update and compute: {metric!r}")
