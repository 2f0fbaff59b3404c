"""Zeros that a model puts around an input before a linear layer: they count as the layer's own padding would."""
from __future__ import annotations

from torch import Tensor


def mark_padding(tensor: Tensor, inside: Tensor | None) -> None:
    """Note where a tensor is not padding: one there, zero elsewhere; None if it has none."""
    if inside is not None:
        vars(tensor)["inside_of_padding"] = inside


def inside_of_padding(tensor: Tensor) -> Tensor | None:
    """Where a tensor is not padding, if it is known to have some."""
    return vars(tensor).get("inside_of_padding")
