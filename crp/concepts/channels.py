"""Channels as concepts."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import numpy as np
import torch

from crp.concepts.base import Concept, Reading, check_max_target
from crp.concepts.ids import as_ids

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class PositionError(IndexError):
    """A position that a channel does not have in a sample."""


class ClassOrInstanceMethod(Generic[_Arguments, _Result]):
    """A method that is bound to the instance, or to the class when it is called on the class."""

    def __init__(self, function: Callable[Concatenate[Any, _Arguments], _Result]):
        self.__wrapped__, self.__doc__ = function, function.__doc__

    def __get__(self, instance: object, owner: type) -> Callable[_Arguments, _Result]:
        return MethodType(self.__wrapped__, owner if instance is None else instance)


@dataclass(frozen=True)
class ChannelMask:
    """Function ``relevance -> relevance`` that keeps, in one sample, only some channels or neurons of channels.

    It writes to the tensor it is given.

    Attributes
    ----------
    batch_id : int
        Row of the batch; the other rows stay as they are.
    kept : dict
        Channel -> flat positions to keep, or None for all of them.
    axis : int
        Axis of the channels, counted with the batch axis.
    layer_name : str or None
        For messages.
    """

    batch_id: int
    kept: Mapping[int, list[int] | None]
    axis: int
    layer_name: str | None = None

    def check(self, shape: tuple) -> None:
        """Raise an IndexError if a channel or position does not exist in a tensor of this shape [B, ...].

        For a position it is a ``PositionError``.
        """
        axis = sample_axis(self.axis, len(shape)) + 1
        layer = "" if self.layer_name is None else f" of layer {self.layer_name!r}"
        positions = math.prod(shape[1:]) // max(shape[axis], 1)
        for channel, kept in self.kept.items():
            if not -shape[axis] <= channel < shape[axis]:
                raise IndexError(f"concept id {channel} is out of range: channels{layer} are 0 to {shape[axis] - 1}")
            for position in kept or []:
                if not -positions <= position < positions:
                    raise PositionError(f"neuron {position} is out of range: positions{layer} are 0 to {positions - 1}")

    def __call__(self, relevance: torch.Tensor) -> torch.Tensor:
        """Set everything else in the sample to zero."""
        self.check(relevance.shape)
        channels = torch.movedim(relevance[self.batch_id], sample_axis(self.axis, relevance.ndim), 0)
        keep = torch.zeros(len(channels), math.prod(channels.shape[1:]), dtype=torch.bool, device=relevance.device)
        for channel, positions in self.kept.items():
            keep[channel, slice(None) if positions is None else positions] = True
        channels.masked_fill_(~keep.view(channels.shape), 0)
        return relevance


class ChannelConcept(Concept):
    """Each channel of a layer is a concept.

    Parameters
    ----------
    axis : int, default 1
        The axis of the channels, counted with the batch axis: 1 for [B, C, H, W] and [B, C], -1 for [B, T, C]. All
        other axes but the first are positions.
    """

    axis = 1

    def __init__(self, axis: int = 1):
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise TypeError(f"axis is an integer, not {axis!r}")
        if axis == 0:
            raise ValueError("axis 0 holds the samples of the batch; channels are on another axis, such as 1 or -1")
        self.axis = axis

    def __repr__(self) -> str:
        return f"{type(self).__name__}(axis={self.axis})"

    @ClassOrInstanceMethod
    def mask(self, batch_id: int, concept_ids: Any, layer_name: str | None = None) -> ChannelMask:
        """Function ``relevance -> relevance`` that keeps, in one sample, only the given channels.

        Works on the class, with channels on axis 1, and on an instance, with channels on its axis.

        Parameters
        ----------
        batch_id : int
        concept_ids : int, list, array or tensor of int
            An empty list masks the whole layer.
        layer_name : str, optional

        Returns
        -------
        callable
        """
        return ChannelMask(batch_id, dict.fromkeys(as_ids(concept_ids)), self.axis, layer_name)

    @ClassOrInstanceMethod
    def mask_rf(self, batch_id: int, c_n_map: Mapping, layer_name: str | None = None) -> ChannelMask:
        """Function ``relevance -> relevance`` that keeps, in one sample, only single neurons of channels.

        Parameters
        ----------
        batch_id : int
        c_n_map : dict
            ``{channel: flat position or list of them}``
        layer_name : str, optional

        Returns
        -------
        callable
        """
        kept = {as_ids(channel)[0]: as_ids(positions) for channel, positions in c_n_map.items()}
        return ChannelMask(batch_id, kept, self.axis, layer_name)

    def get_rf_indices(self, output_shape: tuple, layer_name: str | None = None) -> np.ndarray:
        """Flat indices of the positions of a channel, for a tensor of shape ``output_shape`` without the batch axis."""
        return np.arange(math.prod(self.position_shape(output_shape, layer_name)))

    def position_shape(self, output_shape: tuple, layer_name: str | None = None) -> tuple[int, ...]:
        """Shape of all axes but the batch and the channels."""
        axis = sample_axis(self.axis, len(output_shape) + 1)
        return tuple(int(n) for i, n in enumerate(output_shape) if i != axis)

    def attribute(
        self, relevance: torch.Tensor, mask: torch.Tensor | None = None, layer_name: str | None = None,
        abs_norm: bool = True,
    ) -> torch.Tensor:
        """Value of each channel: the sum over positions.

        Parameters
        ----------
        relevance, mask, layer_name, abs_norm
            As for :meth:`Concept.attribute`.

        Returns
        -------
        torch.Tensor
            [B, C]. Of one sample [C] without the batch axis it is [1, C], or without ``abs_norm`` [C], as in
            zennit-crp.
        """
        if relevance.ndim != 1:
            return super().attribute(relevance, mask, layer_name, abs_norm)
        masked = relevance if mask is None else relevance * mask
        value = super().attribute(masked[None], None, layer_name, abs_norm)
        return value if abs_norm else value[0]

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Sum or maximum of each channel, and the position of the maximum, per sample."""
        if type(self).reference_sampling is not Concept.reference_sampling:
            check_max_target(max_target)
            return super().read(tensor, layer_name, max_target)
        return self._read_channels(tensor, max_target)

    def at_positions(self, tensor: torch.Tensor, layer_name: str | None = None) -> torch.Tensor:
        """The channels, with all other axes as one."""
        return channels_of(tensor, self.axis, None)

    def _read_unsorted(self, tensor: torch.Tensor, layer_name: str | None, max_target: str) -> Reading:
        if type(self).read is ChannelConcept.read:  # which may ask a subclass to sort, as that may ask this one
            return self._read_channels(tensor, max_target)
        return super()._read_unsorted(tensor, layer_name, max_target)

    def _read_channels(self, tensor: torch.Tensor, max_target: str) -> Reading:
        check_max_target(max_target)
        channels = channels_of(tensor, self.axis, None)
        largest, position = strongest(channels)
        return Reading(channels.sum(2) if max_target == "sum" else largest, position)


def channels_of(tensor: torch.Tensor, axis: int, channel: int | None) -> torch.Tensor:
    """A tensor [B, ...] as [B, C, positions]; one channel only, if one is given."""
    sample_axis(axis, tensor.ndim)
    channels = torch.movedim(tensor, axis, 1)
    channels = channels.flatten(2) if tensor.ndim > 2 else channels.unsqueeze(2)
    if channel is None:
        return channels
    if not -channels.shape[1] <= channel < channels.shape[1]:
        raise IndexError(f"channel {channel} is out of range: channels are 0 to {channels.shape[1] - 1}")
    return channels.narrow(1, channel % channels.shape[1], 1)


def strongest(channels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``channels.max(2)``, quicker for many positions, because only the strongest run of them is searched."""
    positions = channels.shape[2]
    widths = range(max(math.isqrt(positions), 64), positions)
    width = next((width for width in widths if positions % width == 0), None)
    if width is None or positions < 1024:
        return channels.max(2)
    runs = channels.unflatten(2, (-1, width))
    largest, run = runs.amax(3).max(2)
    strongest_run = runs.gather(2, run[..., None, None].expand(-1, -1, 1, width)).squeeze(2)
    return largest, run * width + strongest_run.argmax(2)


def sample_axis(axis: int, ndim: int) -> int:
    """Translate an axis of a batch to the same axis of one sample."""
    if not -ndim < axis < ndim:
        raise ValueError(f"there is no axis {axis} beside the batch axis in a tensor of {ndim} axes")
    return axis % ndim - 1
