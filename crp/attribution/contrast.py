"""Outputs against others: why this and not that."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contrast:
    """What stands under "y" in a condition to explain the difference between outputs: why this and not that.

    Relevance starts at both, at the outputs against which it is with the other sign. It adds up to the difference.

    Parameters
    ----------
    outputs, against : int, tuple of int or list of them
        Outputs, as they stand under "y": class numbers, or tuples that index further axes.

    Raises
    ------
    ValueError
        If both are the same.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from zennit.composites import EpsilonPlus
    >>> from crp.attribution import CondAttribution, Contrast
    >>> _ = torch.manual_seed(0)
    >>> attribution = CondAttribution(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval())
    >>> image = torch.rand(1, 1, 4, 4)
    >>> this, that, both = (
    ...     attribution(image, [{"y": y}], EpsilonPlus()).heatmap for y in (0, 2, Contrast(0, 2))
    ... )
    >>> torch.allclose(both, this - that)
    True
    """

    outputs: Any
    against: Any

    def __post_init__(self) -> None:
        if str(self.outputs) == str(self.against):
            raise ValueError(f"a contrast is between different outputs, not {self.outputs!r} and itself")
