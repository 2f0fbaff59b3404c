"""What a concept is: a way to read a layer and a way to mask it."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch


class Reading(NamedTuple):
    """What a concept reads from the tensor of a layer.

    Attributes
    ----------
    value : torch.Tensor
        [B, C], the sum over positions or the value at the strongest one.
    position : torch.Tensor
        [B, C], flat index of the strongest position.
    """

    value: torch.Tensor
    position: torch.Tensor


class _ClassOrInstanceMethod:
    """A method that is bound to the instance, or to the class when it is called on the class."""

    def __init__(self, function: Callable):
        self.function = function
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner):
        return self.function.__get__(owner if instance is None else instance)


class Concept:
    """Base class of concepts. A concept turns the tensor of a layer into one value per concept id, and masks it.

    Subclasses implement :meth:`mask` and either :meth:`read` or :meth:`reference_sampling`. Whatever analyses
    concepts calls these methods only, so it makes no assumption about axes.
    """

    def mask(self, batch_id: int, concept_ids: list, layer_name: str | None = None) -> Callable:
        """Function ``relevance -> relevance`` that keeps, in one sample, only the given concepts.

        Parameters
        ----------
        batch_id : int
            Row of the batch; the other rows stay as they are.
        concept_ids : list of int
        layer_name : str, optional

        Returns
        -------
        callable
            May write to the tensor it is given.
        """
        raise self._missing("mask")

    def mask_rf(self, batch_id: int, neurons: dict, layer_name: str | None = None) -> Callable:
        """Like :meth:`mask`, for single neurons: ``{concept id: flat positions}``."""
        raise self._missing("mask_rf")

    def get_rf_indices(self, output_shape: tuple, layer_name: str | None = None) -> np.ndarray:
        """Flat indices of the positions of a concept, for a tensor of shape ``output_shape`` without the batch axis."""
        raise self._missing("get_rf_indices")

    def position_shape(self, output_shape: tuple, layer_name: str | None = None) -> tuple[int, ...] | None:
        """Shape of the positions of one concept, for a tensor of shape ``output_shape`` without the batch axis.

        Returns
        -------
        tuple of int or None
            None where it is not known.
        """
        return None

    def attribute(
        self, relevance: torch.Tensor, mask: torch.Tensor | None = None, layer_name: str | None = None,
        abs_norm: bool = True,
    ) -> torch.Tensor:
        """Value of each concept: the sum over positions.

        Parameters
        ----------
        relevance : torch.Tensor
            [B, ...], relevance (or activation) of the layer.
        mask : torch.Tensor, optional
            Multiplied to the relevance first, to look at a region only.
        layer_name : str, optional
        abs_norm : bool, default True
            Divide by the sum of absolute values over all concepts of the sample: 0.1 is a share of 10 %.

        Returns
        -------
        torch.Tensor
            [B, C]
        """
        value = self.read(relevance if mask is None else relevance * mask, layer_name).value
        return normalise(value) if abs_norm else value

    def reference_sampling(
        self, relevance: torch.Tensor, layer_name: str | None = None, max_target: str = "sum", abs_norm: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sort the samples of a batch by the value of each concept, in descending order.

        Parameters
        ----------
        relevance : torch.Tensor
            [B, ...], relevance (or activation) of the layer.
        layer_name : str, optional
        max_target : {"sum", "max"}
            Whether a concept's value is its sum over positions or its largest one.
        abs_norm : bool, default True
            Divide by the sum of absolute values over all concepts of the sample.

        Returns
        -------
        batch_index, value, rf_neuron : torch.Tensor
            Each [B, C]: row of the batch, its value, the flat index of its strongest position. On ties, the lower row
            comes first.
        """
        value, position = self.read(relevance, layer_name, max_target)
        if abs_norm:
            value = normalise(value)
        value, batch_index = torch.sort(value, dim=0, descending=True, stable=True)
        return batch_index, value, torch.gather(position, 0, batch_index)

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Raw values of all concepts per sample.

        A subclass that overrides only :meth:`reference_sampling` is read by undoing its sorting.

        Parameters
        ----------
        tensor : torch.Tensor
            [B, ...], relevance or activation of the layer.
        layer_name : str, optional
        max_target : {"sum", "max"}

        Returns
        -------
        Reading
        """
        if type(self).reference_sampling is Concept.reference_sampling:
            raise self._missing("read")
        order, value, position = self.reference_sampling(tensor, layer_name, max_target, False)
        return Reading(
            torch.empty_like(value).scatter_(0, order, value), torch.empty_like(position).scatter_(0, order, position)
        )

    def _missing(self, method: str) -> TypeError:
        return TypeError(f"{type(self).__name__} does not define {method!r}, which is needed here")


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
    kept: dict[int, list[int] | None]
    axis: int
    layer_name: str | None = None

    def check(self, shape: tuple) -> None:
        """Raise an IndexError if a channel or position does not exist in a tensor of this shape [B, ...]."""
        axis = _sample_axis(self.axis, len(shape)) + 1
        layer = "" if self.layer_name is None else f" of layer {self.layer_name!r}"
        positions = math.prod(shape[1:]) // max(shape[axis], 1)
        for channel, kept in self.kept.items():
            if not -shape[axis] <= channel < shape[axis]:
                raise IndexError(f"concept id {channel} is out of range: channels{layer} are 0 to {shape[axis] - 1}")
            for position in kept or []:
                if not -positions <= position < positions:
                    raise IndexError(f"neuron {position} is out of range: positions{layer} are 0 to {positions - 1}")

    def __call__(self, relevance: torch.Tensor) -> torch.Tensor:
        """Set everything else in the sample to zero."""
        self.check(relevance.shape)
        channels = torch.movedim(relevance[self.batch_id], _sample_axis(self.axis, relevance.ndim), 0)
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

    def __repr__(self):
        return f"{type(self).__name__}(axis={self.axis})"

    @_ClassOrInstanceMethod
    def mask(self, batch_id: int, concept_ids: Any, layer_name: str | None = None) -> Callable:
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

    @_ClassOrInstanceMethod
    def mask_rf(self, batch_id: int, neurons: Mapping, layer_name: str | None = None) -> Callable:
        """Function ``relevance -> relevance`` that keeps, in one sample, only single neurons of channels.

        Parameters
        ----------
        batch_id : int
        neurons : dict
            ``{channel: flat position or list of them}``
        layer_name : str, optional

        Returns
        -------
        callable
        """
        kept = {as_ids(channel)[0]: as_ids(positions) for channel, positions in neurons.items()}
        return ChannelMask(batch_id, kept, self.axis, layer_name)

    def get_rf_indices(self, output_shape: tuple, layer_name: str | None = None) -> np.ndarray:
        """Flat indices of the positions of a channel, for a tensor of shape ``output_shape`` without the batch axis."""
        return np.arange(math.prod(self.position_shape(output_shape, layer_name)))

    def position_shape(self, output_shape: tuple, layer_name: str | None = None) -> tuple[int, ...]:
        """Shape of all axes but the batch and the channels."""
        axis = _sample_axis(self.axis, len(output_shape) + 1)
        return tuple(int(n) for i, n in enumerate(output_shape) if i != axis)

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Sum or maximum of each channel, and the position of the maximum, per sample."""
        check_max_target(max_target)
        if type(self).reference_sampling is not Concept.reference_sampling:
            return super().read(tensor, layer_name, max_target)
        channels = _channels(tensor, self.axis, None)
        largest, position = _strongest(channels)
        return Reading(channels.sum(2) if max_target == "sum" else largest, position)


class ProfileConcept(Concept):
    """What an aggregation reads from a layer, number by number: for profiles whose units are not sums over positions.

    Swept like any other concept, it gives matrices of :func:`aggregate`: mean and deviation of each channel, or each
    position of one channel (a filter pattern). Its ids are the columns; masking one keeps the channel, or the position,
    that it was read from.

    Parameters
    ----------
    how : {"none", "mean", "mean_std", "max", "min_max"}
    axis : int, default 1
        The axis of the channels, counted with the batch axis.
    channel : int, optional
        Read this channel only.
    """

    def __init__(self, how: str = "mean", axis: int = 1, channel: int | None = None):
        _check_aggregation(how)
        self.how, self.channels, self.channel = how, ChannelConcept(axis), channel

    def __repr__(self):
        return f"ProfileConcept({self.how!r}, axis={self.channels.axis}, channel={self.channel})"

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Aggregated values; positions are those of the largest entry."""
        value = aggregate(tensor, self.how, self.channels.axis, self.channel)
        chosen = _channels(tensor, self.channels.axis, self.channel)
        if self.how == "none":
            return Reading(value, torch.zeros_like(value, dtype=torch.int64))
        position = _strongest(chosen)[1]
        return Reading(value, position.repeat(1, value.shape[1] // position.shape[1]))

    def mask(self, batch_id: int, concept_ids: Any, layer_name: str | None = None) -> Callable:
        """Function ``relevance -> relevance`` that keeps, in one sample, what the ids were read from."""
        ids = as_ids(concept_ids)

        def mask(relevance):
            channels = _channels(relevance, self.channels.axis, None)
            count = 1 if self.channel is not None else channels.shape[1]
            kept: dict[int, list[int] | None] = {}
            per_channel = {"none": channels.shape[2], "mean_std": 2, "min_max": 2}.get(self.how, 1)
            columns = count * (per_channel if channels.shape[2] > 1 else 1)
            for i in ids:
                if not 0 <= i < columns:
                    raise IndexError(f"concept id {i} is out of range: those of {layer_name!r} are 0 to {columns - 1}")
                channel = i // channels.shape[2] if self.how == "none" else i % count
                positions = kept.setdefault(channel if self.channel is None else self.channel, [])
                positions += [i % channels.shape[2]] if self.how == "none" else range(channels.shape[2])
            return ChannelMask(batch_id, kept, self.channels.axis, layer_name)(relevance)

        return mask

    def position_shape(self, output_shape: tuple, layer_name: str | None = None) -> tuple[int, ...]:
        """Shape of the positions of one number."""
        return () if self.how == "none" else self.channels.position_shape(output_shape, layer_name)


def aggregate(tensor: torch.Tensor, how: str = "mean", axis: int = 1, channel: int | None = None) -> torch.Tensor:
    """Turn a layer's tensor into one profile per sample.

    Parameters
    ----------
    tensor : torch.Tensor
        [B, ...], activation or relevance of a layer, of any rank.
    how : {"none", "mean", "mean_std", "max", "min_max"}
        Over positions. "mean_std" gives all means, then all (population) standard deviations; "min_max" all minima,
        then all maxima; "none" every entry, channel by channel. A layer without positions [B, C] stays as it is.
    axis : int, default 1
        The axis of the channels, counted with the batch axis.
    channel : int, optional
        This channel only.

    Returns
    -------
    torch.Tensor
        [B, D]
    """
    _check_aggregation(how)
    channels = _channels(tensor, axis, channel)
    if how == "none" or channels.shape[2] == 1:
        return channels.flatten(1)
    if how == "mean":
        return channels.mean(2)
    if how == "max":
        return channels.amax(2)
    parts = (channels.mean(2), channels.std(2, correction=0)) if how == "mean_std" else torch.aminmax(channels, dim=2)
    return torch.cat(tuple(parts), 1)


def _check_aggregation(how: str) -> None:
    names = ("none", "mean", "mean_std", "max", "min_max")
    if how not in names:
        raise ValueError(f"an aggregation is one of {', '.join(map(repr, names))}, not {how!r}")


def _channels(tensor: torch.Tensor, axis: int, channel: int | None) -> torch.Tensor:
    """A tensor [B, ...] as [B, C, positions]; one channel only, if one is given."""
    _sample_axis(axis, tensor.ndim)
    channels = torch.movedim(tensor, axis, 1)
    channels = channels.flatten(2) if tensor.ndim > 2 else channels.unsqueeze(2)
    if channel is None:
        return channels
    if not -channels.shape[1] <= channel < channels.shape[1]:
        raise IndexError(f"channel {channel} is out of range: channels are 0 to {channels.shape[1] - 1}")
    return channels.narrow(1, channel % channels.shape[1], 1)


def _strongest(channels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
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


def normalise(rel: torch.Tensor) -> torch.Tensor:
    """Divide by the sum of absolute values along the last axis; all zeros stay zeros."""
    return rel / rel.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(rel.dtype).tiny)


def as_ids(ids: Any) -> list[int]:
    """A list of Python ints from an int, list, array or tensor of integers.

    Raises
    ------
    TypeError
        If something else is given.
    """
    if isinstance(ids, torch.Tensor):
        ids = ids.detach().cpu().numpy()
    array = np.asarray(list(ids) if isinstance(ids, (range, set, tuple)) else ids)
    if array.size == 0 and array.ndim == 1:
        return []
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise TypeError(f"concept ids are integers: one, or a flat list, array or tensor of them; got {ids!r}")
    return [int(i) for i in np.atleast_1d(array)]


def as_id(value: Any) -> int:
    """One Python int from an int, or from a list, array or tensor of length 1.

    Raises
    ------
    TypeError, ValueError
        If something else is given, or several.
    """
    ids = as_ids(value)
    if len(ids) != 1:
        raise ValueError(f"one concept id is needed, not {len(ids)}")
    return ids[0]


def as_layer_map(layer_map: Any) -> dict[str, Concept]:
    """Layer -> concept, from a dict or pairs.

    Raises
    ------
    TypeError
        If it holds anything but concepts.
    """
    try:
        concepts = dict(layer_map)
    except (TypeError, ValueError):
        raise TypeError(
            "layer_map maps layers to concepts: {'layer4': ChannelConcept()}, or pairs of them; "
            f"got {layer_map!r}"
        ) from None
    for layer, concept in concepts.items():
        if not isinstance(concept, Concept):
            hint = f"; did you mean {concept.__name__}()?" if isinstance(concept, type) else ""
            raise TypeError(f"layer_map[{layer!r}] is {concept!r}, not a Concept{hint}")
    return concepts


def check_max_target(max_target: str) -> None:
    """Raise a ValueError for anything but "sum" and "max"."""
    if max_target not in ("sum", "max"):
        raise ValueError(f"max_target is 'sum' or 'max', not {max_target!r}")


def _sample_axis(axis: int, ndim: int) -> int:
    """Translate an axis of a batch to the same axis of one sample."""
    if not -ndim < axis < ndim:
        raise ValueError(f"there is no axis {axis} beside the batch axis in a tensor of {ndim} axes")
    return axis % ndim - 1
