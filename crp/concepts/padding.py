"""Reading concepts at the positions of samples that count, and nowhere else."""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from crp.concepts.base import Concept, Reading
from crp.model.inputs import map_tensors
from crp.model.positions import PositionMask, counting_positions

Shapes = Mapping[str, torch.Size]
"""Layer -> shape of its tensor, samples first."""


def read_where_it_counts(
    concept: Concept, tensor: torch.Tensor, layer: str, statistic: str, counts: torch.Tensor, axes: tuple[int, ...],
    among_counting: bool = False,
) -> Reading:
    """Read a concept as if positions that do not count were not there.

    Parameters
    ----------
    concept : Concept
    tensor : torch.Tensor
        [B, ...]
    layer, statistic : str
        As for :meth:`crp.concepts.Concept.read`.
    counts : torch.Tensor
        [B, T], which positions count.
    axes : tuple of int
        Axes of the tensor that hold these T positions.
    among_counting : bool, default False
        Number the strongest positions among those that count, instead of among all.

    Returns
    -------
    Reading

    Raises
    ------
    ValueError
        If the concept takes positions for concepts.
    """
    patterns, pattern_of = torch.unique(counts.to(tensor.device), dim=0, return_inverse=True)
    value: torch.Tensor | None = None
    for number, pattern in enumerate(patterns):
        rows, places = torch.nonzero(pattern_of == number)[:, 0], torch.nonzero(pattern)[:, 0]
        part = tensor[rows]
        for axis in axes:
            part = part.index_select(axis, places)
        grid, whole = (concept.position_shape(shape, layer) for shape in (part.shape[1:], tensor.shape[1:]))
        if whole is not None and math.prod(whole) > 1 and grid == whole and len(places) < counts.shape[1]:
            raise ValueError(
                f"layer {layer!r} has the shape {tuple(tensor.shape)}, and {type(concept).__name__} takes the "
                f"{counts.shape[1]} positions that the mask tells of for concepts: ChannelConcept(axis=-1) takes the "
                "last axis for them"
            )
        found = concept.read(part, layer, statistic)
        found_position = found.position if among_counting else among_all(found.position, places, grid, whole)
        if value is None:
            value = found.value.new_empty(len(tensor), found.value.shape[1])
            position = found_position.new_empty(value.shape)
        value[rows], position[rows] = found.value, found_position
    assert value is not None
    return Reading(value, position)


def among_all(
    position: torch.Tensor, places: torch.Tensor, grid: tuple[int, ...] | None, whole: tuple[int, ...] | None
) -> torch.Tensor:
    """Flat positions in a grid that lacks some places of an axis, as positions in the whole grid."""
    if grid is None or whole is None or grid == whole:
        return position
    coordinates = list(torch.unravel_index(position, grid))
    flat = torch.zeros_like(position)
    for coordinate, size, full in zip(coordinates, grid, whole):
        flat = flat * full + (coordinate if size == full else places[coordinate])
    return flat


def axes_of_positions(
    mask: PositionMask, data: Any, shapes_of: Callable[[Any], Shapes]
) -> dict[str, tuple[int, ...]]:
    """Layer -> the axes of its tensor that hold the positions which a mask tells of.

    Found by running the model on a sample, and on the same with a position less or more: the axes that change.

    Parameters
    ----------
    mask : str, callable or None
    data : torch.Tensor, tuple or dict
        [B, ...], of which the first sample is taken.
    shapes_of : callable
        ``data -> shapes of layers``.
    """
    data = map_tensors(lambda tensor: tensor[:1], data)
    told = _told(mask, data)
    if told is None:
        return {}
    length, shapes = told.shape[1], shapes_of(data)
    for change in (1, -1):
        try:
            other = shapes_of(_resized(data, length, change))
        except Exception:  # the model takes one length only
            continue
        found = {layer: _changed(shapes[layer], other[layer], length, change) for layer in shapes}
        _warn_of_others({layer: (shapes[layer], other[layer]) for layer, axes in found.items() if not axes}, length)
        return {layer: axes for layer, axes in found.items() if axes}
    return {layer: axes for layer in shapes if (axes := _only_axis(shapes[layer], length, layer))}


def _told(mask: PositionMask, data: Any) -> torch.Tensor | None:
    """What a mask says of a sample, also where all positions count."""
    if isinstance(mask, str):
        found = data.get(mask) if isinstance(data, Mapping) else None
        return found if isinstance(found, torch.Tensor) and found.ndim == 2 else None
    if mask is None:
        return None
    counting_positions(mask, data)  # which refuses what is no mask
    return mask(data)


def _resized(data: Any, length: int, change: int) -> Any:
    """Data with one position more, or less, at the end."""
    def resized(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2 or tensor.shape[1] != length:
            return tensor
        return torch.cat([tensor, tensor[:, -1:]], 1) if change == 1 else tensor[:, :-1]

    if length + change < 1:
        raise ValueError("there is no position to leave out")
    return map_tensors(resized, data)


def _changed(shape: torch.Size, other: torch.Size, length: int, change: int) -> tuple[int, ...]:
    if len(shape) != len(other):
        return ()
    return tuple(i for i in range(1, len(shape)) if shape[i] == length and other[i] == length + change)


def _warn_of_others(shapes: Mapping[str, tuple[torch.Size, torch.Size]], length: int) -> None:
    """Tell of layers whose size follows that of the sample in another way."""
    others = [layer for layer, (shape, other) in shapes.items() if shape != other]
    if others:
        warnings.warn(
            f"the {length} positions that the mask tells of are no axis of {', '.join(map(repr, others))}, whose size "
            "changes with them: all positions count there", stacklevel=2,
        )


def _only_axis(shape: torch.Size, length: int, layer: str) -> tuple[int, ...]:
    """The axis of a given length, for models that take one length only."""
    axes = [i for i in range(1, len(shape)) if shape[i] == length]
    if len(axes) > 1:
        raise ValueError(
            f"layer {layer!r} has the shape {tuple(shape)}: which axis holds the {length} positions of the mask cannot "
            "be told, since the model takes no other length; position_mask=None lets all positions count"
        )
    return tuple(axes)


def where_counted(counts: torch.Tensor, axes: tuple[int, ...], ndim: int) -> torch.Tensor:
    """Which elements of a tensor [B, ...] count, [B, ...] with axes of length 1 where all do alike.

    Parameters
    ----------
    counts : torch.Tensor
        [B, T], which positions count.
    axes : tuple of int
        Axes of the tensor that hold these T positions.
    ndim : int
        Number of axes of the tensor.
    """
    result = counts.new_ones((len(counts),) + (1,) * (ndim - 1))
    for axis in axes:
        shape = [1] * ndim
        shape[0], shape[axis] = counts.shape
        result = result & counts.view(shape)
    return result


def hide_padding(relevance: torch.Tensor, row: int, counts: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Relevance [B, ...] without that of positions of a row that do not count."""
    relevance[row].masked_fill_(~where_counted(counts, axes, relevance.ndim)[row].to(relevance.device), 0)
    return relevance
