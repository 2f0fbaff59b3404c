"""Attention heads as concepts."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from crp.concepts.base import Concept, Mask, Reading
from crp.concepts.channels import ChannelConcept, ChannelMask


class HeadConcept(Concept):
    """Each attention head is a concept, read where the heads lie side by side: before the output projection.

    The layer is the input of that projection, such as ``"attention.out_proj:in"``, whose last axis holds the features
    of one head after the other. Other axes are positions (tokens, patches). A head's value is the sum over its
    features.

    Parameters
    ----------
    num_heads : int
    """

    def __init__(self, num_heads: int):
        if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1:
            raise ValueError(f"num_heads is a positive integer, not {num_heads!r}")
        self.num_heads = num_heads
        self._channels = ChannelConcept(-1)

    def __repr__(self) -> str:
        return f"HeadConcept({self.num_heads})"

    def read(self, tensor: torch.Tensor, layer_name: str | None = None, max_target: str = "sum") -> Reading:
        """Sum (or the largest sum at a position) of each head, and the position of the largest."""
        return self._channels.read(self._split(tensor, layer_name).sum(-1), layer_name, max_target)

    def at_positions(self, tensor: torch.Tensor, layer_name: str | None = None) -> torch.Tensor:
        """Sum over the features of each head, at each position."""
        return self._channels.at_positions(self._split(tensor, layer_name).sum(-1), layer_name)

    def mask(self, batch_id: int, concept_ids: Any, layer_name: str | None = None) -> Mask:
        """Function ``relevance -> relevance`` that keeps, in one sample, only the given heads."""
        return _HeadMask(self, self._channels.mask(batch_id, concept_ids, layer_name), layer_name)

    def mask_rf(self, batch_id: int, neurons: Mapping, layer_name: str | None = None) -> Mask:
        """Function ``relevance -> relevance`` that keeps, in one sample, heads at single positions.

        Parameters
        ----------
        batch_id : int
        neurons : dict
            ``{head: flat position or list of them}``
        layer_name : str, optional
        """
        return _HeadMask(self, self._channels.mask_rf(batch_id, neurons, layer_name), layer_name)

    def get_rf_indices(self, output_shape: tuple, layer_name: str | None = None) -> np.ndarray:
        """Flat indices of the positions of a head."""
        return self._channels.get_rf_indices(output_shape, layer_name)

    def position_shape(self, output_shape: tuple, layer_name: str | None = None) -> tuple[int, ...]:
        """Shape of all axes but the batch and the features."""
        return self._channels.position_shape(output_shape, layer_name)

    def _split(self, tensor: torch.Tensor, layer_name: str | None) -> torch.Tensor:
        """[B, ..., heads * features] as [B, ..., heads, features]."""
        if tensor.shape[-1] % self.num_heads:
            raise ValueError(
                f"layer {layer_name!r} has {tensor.shape[-1]} features, which {self.num_heads} heads cannot share"
            )
        return tensor.unflatten(-1, (self.num_heads, -1))


class _HeadMask:
    def __init__(self, concept: HeadConcept, mask: ChannelMask, layer_name: str | None):
        self.concept, self.mask_of_heads, self.layer_name = concept, mask, layer_name

    def check(self, shape: tuple) -> None:
        """Raise an error if a head or position does not exist in a tensor of this shape [B, ...]."""
        heads = self.concept._split(torch.empty(shape, device="meta"), self.layer_name)
        self.mask_of_heads.check(heads.shape[:-1])

    def __call__(self, relevance: torch.Tensor) -> torch.Tensor:
        """Relevance of the heads that are kept."""
        heads = self.concept._split(relevance, self.layer_name)
        kept = self.mask_of_heads(torch.ones(heads.shape[:-1], dtype=torch.bool, device=relevance.device))
        return (heads * kept.unsqueeze(-1)).flatten(-2)
