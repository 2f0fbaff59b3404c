"""Which concepts layers have."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crp.concepts.base import Concept
from crp.concepts.channels import ChannelConcept


def as_layer_map(layer_map: Any) -> dict[str, Concept]:
    """Layer -> concept, from a dict, from pairs, or from names of layers whose channels are the concepts.

    Raises
    ------
    TypeError
        If it holds anything but concepts.
    """
    concepts = _as_dict(layer_map)
    for layer, concept in concepts.items():
        if not isinstance(layer, str):
            raise TypeError(f"layer_map has the key {layer!r}, which is not the name of a layer")
        if not isinstance(concept, Concept):
            hint = f"; did you mean {concept.__name__}()?" if isinstance(concept, type) else ""
            raise TypeError(f"layer_map[{layer!r}] is {concept!r}, not a Concept{hint}")
    return concepts


UNSAID = ChannelConcept()
"""Stands for the concept of a layer of which nobody said what its units are: channels on axis 1, if that is clear."""


def check_said(concept: Concept, shape: tuple[int, ...], layer: str) -> None:
    """Raise a ValueError if nobody said which of two axes [B, ., .] holds the units of a layer."""
    if concept is UNSAID and len(shape) == 3:
        raise ValueError(
            f"layer {layer!r} has the shape {tuple(shape)}: say which axis holds its units, ChannelConcept(-1) for "
            "[B, T, C] as in transformers, ChannelConcept(1) for [B, C, T]"
        )


def _as_dict(layer_map: Any) -> dict:
    if isinstance(layer_map, Mapping):
        return dict(layer_map)
    if isinstance(layer_map, Iterable) and not isinstance(layer_map, str):
        items = list(layer_map)
        if all(isinstance(item, str) for item in items):
            return {layer: ChannelConcept() for layer in items}
        if all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
            return dict(items)
    raise TypeError(
        "layer_map maps layers to concepts: {'layer4': ChannelConcept()}, or pairs of them; or it lists names of "
        f"layers whose channels are the concepts: ['layer4']; got {layer_map!r}"
    )
