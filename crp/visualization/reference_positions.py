"""Positions of reference samples that count, such as tokens that are no padding, at one layer."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.concepts import Concept
from crp.concepts.padding import among_all, axes_of_positions, hide_padding
from crp.model.callbacks import call_as_taken
from crp.model.positions import PositionMask, counting_positions


class CountingPositions:
    """Hides other positions from heatmaps of a layer.

    Parameters
    ----------
    attribution : CondAttribution
    layer : str
    concept : Concept
        Of the layer.
    position_mask : str, callable or None
    among_counting : bool
        Whether a sweep has numbered positions among those that count.
    """

    def __init__(
        self, attribution: CondAttribution, layer: str, concept: Concept, position_mask: PositionMask,
        among_counting: bool,
    ):
        self.attribution, self.layer, self.concept = attribution, layer, concept
        self.position_mask, self.among_counting = position_mask, among_counting
        self._axes: tuple[int, ...] | None = None

    def hidden(self, mask: Callable, data: Any, composite: Composite | None) -> Callable:
        """A mask function like another, whose masks let no relevance through at positions that do not count."""
        counts = counting_positions(self.position_mask, data)
        if counts is None:
            return mask
        axes = self._axes_of(data, composite)
        return _MaskFunction(mask, counts, axes) if axes else mask

    def place(self, position: int, data: Any, composite: Composite | None) -> int:
        """A stored position of a sample [1, ...] among all of its positions."""
        counts = counting_positions(self.position_mask, data) if self.among_counting else None
        if counts is None:
            return position
        places, shape = torch.nonzero(counts[0])[:, 0], list(self._shape(data, composite))
        axes = self._axes_of(data, composite)
        alone = [len(places) if axis in axes else size for axis, size in enumerate(shape)]
        grids = (self.concept.position_shape(tuple(sizes[1:]), self.layer) for sizes in (alone, shape))
        return int(among_all(torch.tensor(position, device=places.device), places, *grids))

    def _axes_of(self, data: Any, composite: Composite | None) -> tuple[int, ...]:
        """The axes of the layer's tensor that hold positions, found once."""
        if self._axes is None:
            self._axes = axes_of_positions(
                self.position_mask, data, lambda data: {self.layer: self._shape(data, composite)}
            ).get(self.layer, ())
        return self._axes

    def _shape(self, data: Any, composite: Composite | None) -> torch.Size:
        result = self.attribution(
            data, [{}], composite, [self.layer], init_rel=torch.zeros_like, exclude_parallel=False, heatmap=False
        )
        return result.activations[self.layer].shape


class _MaskFunction:
    """``(row, ids, layer_name) -> mask``, of the concept that another function is of."""

    def __init__(self, function: Callable, counts: torch.Tensor, axes: tuple[int, ...]):
        self.function, self.counts, self.axes = function, counts, axes
        self.__self__ = getattr(function, "__self__", None)

    def __call__(self, row: int, ids: Any, layer_name: str | None = None) -> _Mask:
        return _Mask(call_as_taken(self.function, row, ids, layer_name=layer_name), row, self.counts, self.axes)


class _Mask:
    def __init__(self, mask: Callable, row: int, counts: torch.Tensor, axes: tuple[int, ...]):
        self.mask, self.row, self.counts, self.axes = mask, row, counts, axes

    def check(self, shape: tuple) -> None:
        """Raise an error if the concepts do not exist in a tensor of this shape."""
        if hasattr(self.mask, "check"):
            self.mask.check(shape)

    def __call__(self, relevance: torch.Tensor) -> torch.Tensor:
        return hide_padding(self.mask(relevance).clone(), self.row, self.counts, self.axes)
