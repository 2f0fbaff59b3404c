"""Zeros that a model puts around an input before a linear layer: they count as the layer's own padding would."""
from __future__ import annotations

from torch import Tensor


def mark_padding(tensor: Tensor, inside: Tensor | None) -> None:
    """Note where a tensor is not padding: one there, zero elsewhere; None if it has none."""
    if inside is not None:
        vars(tensor)["inside_of_padding"] = inside, tensor._version


def inside_of_padding(tensor: Tensor) -> Tensor | None:
    """Where a tensor is not padding, if it is known to have some; not if it has been written to."""
    inside, version = vars(tensor).get("inside_of_padding", (None, None))
    return inside if version == tensor._version else None
