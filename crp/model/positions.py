"""Positions of samples that count, such as tokens that are no padding."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from crp.model.inputs import count_samples

ATTENTION_MASK = "attention_mask"
PositionMask: TypeAlias = str | Callable[[Any], torch.Tensor] | None
"""A key of inputs, a function ``inputs -> [B, T]``, or None: all positions count."""


@dataclass(frozen=True)
class WithoutTokens:
    """A position mask: positions that the attention mask shows, and whose tokens are none of some.

    Parameters
    ----------
    ids : sequence of int
        Such as ``tokenizer.all_special_ids``.
    tokens, mask : str
        The keys of tokens and of the attention mask in the inputs of the model.

    Examples
    --------
    >>> from crp.visualization import WithoutTokens
    >>> mask = WithoutTokens([101, 102])
    >>> mask({"input_ids": torch.tensor([[101, 7, 102, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])})
    tensor([[False,  True, False, False]])
    """

    ids: Sequence[int]
    tokens: str = "input_ids"
    mask: str = ATTENTION_MASK

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[B, T], True where positions count."""
        found = inputs[self.tokens]
        shown = inputs[self.mask].bool() if self.mask in inputs else torch.ones_like(found, dtype=torch.bool)
        return shown & ~torch.isin(found, torch.tensor(list(self.ids), device=found.device))


def keys_of(data: Any) -> set[str]:
    """The names of inputs, if they have any."""
    return set(data) if isinstance(data, Mapping) else set()


def counting_positions(mask: PositionMask, data: Any) -> torch.Tensor | None:
    """Which positions of each sample count, [B, T]; None if all do.

    Raises
    ------
    ValueError, TypeError
        If the mask is not [B, T], or none of a sample's positions counts.
    """
    if mask is None or isinstance(mask, str) and mask not in keys_of(data):
        return None
    found = data[mask] if isinstance(mask, str) else mask(data)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != count_samples(data):
        if isinstance(mask, str):  # of pairs of positions, or of another kind: no mask of positions
            return None
        what = f"of the shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise ValueError(f"position_mask gives a tensor [samples, positions], but this one is {what}")
    counts = found.bool()
    if not counts.any(1).all():
        raise ValueError("the position mask leaves no position of a sample")
    return None if counts.all() else counts
