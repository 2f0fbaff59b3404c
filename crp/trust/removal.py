"""Concepts taken out of single rows of a batch."""
from __future__ import annotations

import torch
from torch import Tensor

from crp.concepts import Concept
from crp.neurons.changes import Change, NewValue, Place


class Elements:
    """Which concept each element of a layer's tensor belongs to.

    Parameters
    ----------
    concept : Concept
    layer : str
    count : int
        Number of its concepts.

    Raises
    ------
    TypeError
        When it is asked, if concepts share elements, so that none can be taken away by itself.
    """

    def __init__(self, concept: Concept, layer: str, count: int):
        self.concept, self.layer, self.count = concept, layer, count
        self._known: dict[tuple[int, ...], Tensor] = {}

    def ids(self, shape: tuple[int, ...]) -> Tensor:
        """[1, ...] int64, the id of each element of a tensor [B, ...]; the number of concepts where there is none."""
        if shape[1:] not in self._known:
            with torch.inference_mode(False):
                self._known[shape[1:]] = self._found(shape)
        return self._known[shape[1:]]

    def _found(self, shape: tuple[int, ...]) -> Tensor:
        """Ids bit by bit: an element that is with those that have a bit and with those that lack it is of several."""
        ids = torch.zeros((1, *shape[1:]), dtype=torch.int64)
        belongs = self._members(shape, list(range(self.count)))
        for bit in range((self.count - 1).bit_length()):
            have = [number for number in range(self.count) if number >> bit & 1]
            lack = [number for number in range(self.count) if not number >> bit & 1]
            is_set = self._members(shape, have)
            if bool((is_set & self._members(shape, lack)).any()):
                raise TypeError(f"concepts of {self.concept!r} share elements of {self.layer!r}: none can be taken "
                                "away without parts of others")
            ids += is_set.long() << bit
        return torch.where(belongs, ids, self.count)

    def _members(self, shape: tuple[int, ...], concepts: list[int]) -> Tensor:
        return self.concept.members(shape, concepts, None, self.layer)


class Keep(Change):
    """Set, in each row of a batch, all concepts to zero but some.

    Parameters
    ----------
    kept : torch.Tensor
        [B, concepts] bool
    elements : Elements
    """

    def __init__(self, kept: Tensor, elements: Elements):
        self.kept, self.elements = kept, elements

    def prepared(self, place: Place) -> NewValue:
        """The values, with zeros for what is not kept."""
        always = torch.ones(len(self.kept), 1, dtype=torch.bool)  # elements of no concept
        kept = torch.cat([self.kept, always], 1)

        def keep(values: Tensor, sends_relevance: bool) -> Tensor:
            ids = self.elements.ids(tuple(values.shape))
            stays = kept[:, ids.flatten()].view(len(kept), *values.shape[1:])
            return torch.where(stays.to(values.device), values, torch.zeros((), dtype=values.dtype,
                                                                             device=values.device))

        return keep
