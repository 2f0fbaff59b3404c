"""Numbers that aggregate the positions of a layer, as concepts."""
from __future__ import annotations

from typing import Any

import torch

from crp.concepts.base import Concept, Mask, Reading
from crp.concepts.channels import ChannelConcept, ChannelMask, channels_of, strongest
from crp.concepts.ids import as_ids


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

    def __repr__(self) -> str:
        return f"ProfileConcept({self.how!r}, axis={self.channels.axis}, channel={self.channel})"

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Aggregated values; positions are those of the largest entry."""
        value = aggregate(tensor, self.how, self.channels.axis, self.channel)
        chosen = channels_of(tensor, self.channels.axis, self.channel)
        if self.how == "none":
            return Reading(value, torch.zeros_like(value, dtype=torch.int64))
        position = strongest(chosen)[1]
        return Reading(value, position.repeat(1, value.shape[1] // position.shape[1]))

    def mask(self, batch_id: int, concept_ids: Any, layer_name: str | None = None) -> Mask:
        """Function ``relevance -> relevance`` that keeps, in one sample, what the ids were read from."""
        ids = as_ids(concept_ids)

        def mask(relevance: torch.Tensor) -> torch.Tensor:
            channels = channels_of(relevance, self.channels.axis, None)
            count = 1 if self.channel is not None else channels.shape[1]
            kept: dict[int, list[int]] = {}
            per_channel = {"none": channels.shape[2], "mean_std": 2, "min_max": 2}.get(self.how, 1)
            columns = count * (per_channel if channels.shape[2] > 1 else 1)
            for i in ids:
                if not 0 <= i < columns:
                    raise IndexError(f"concept id {i} is out of range: those of {layer_name!r} are 0 to {columns - 1}")
                channel = i // channels.shape[2] if self.how == "none" else i % count
                positions = kept.setdefault(channel if self.channel is None else self.channel, [])
                positions.extend([i % channels.shape[2]] if self.how == "none" else range(channels.shape[2]))
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
    channels = channels_of(tensor, axis, channel)
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
