"""What every concept is: a way to read a layer and a way to mask it."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from crp.model.callbacks import call_as_taken

Mask: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


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


class Concept:
    """Base class of concepts. A concept turns the tensor of a layer into one value per concept id, and masks it.

    Subclasses implement :meth:`mask` and either :meth:`read` or :meth:`reference_sampling`. Whatever analyses
    concepts calls these methods only, so it makes no assumption about axes.
    """

    def mask(self, batch_id: int, concept_ids: list, layer_name: str | None = None) -> Mask:
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

    def mask_rf(self, batch_id: int, c_n_map: dict, layer_name: str | None = None) -> Mask:
        """Like :meth:`mask`, for single neurons: ``{concept id: flat positions}``."""
        raise self._missing("mask_rf")

    def members(
        self, shape: tuple[int, ...], concept_ids: list[int], positions: list[int] | None = None,
        layer_name: str | None = None,
    ) -> torch.Tensor:
        """Which elements of a layer's tensor belong to concepts: those that :meth:`mask` keeps.

        Parameters
        ----------
        shape : tuple of int
            Of the tensor, [B, ...].
        concept_ids : list of int
        positions : list of int, optional
            Only those at these flat positions, as :meth:`mask_rf` takes them.
        layer_name : str, optional

        Returns
        -------
        torch.Tensor
            [1, ...] bool

        Raises
        ------
        IndexError
            If a concept or position does not exist.
        """
        shape = (1, *shape[1:])
        if positions is None:
            mask = self.mask(0, concept_ids, layer_name)
        else:
            mask = self.mask_rf(0, {concept: positions for concept in concept_ids}, layer_name)
        if hasattr(mask, "check"):
            mask.check(shape)
        return mask(torch.ones(shape)) != 0

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

    def at_positions(self, tensor: torch.Tensor, layer_name: str | None = None) -> torch.Tensor:
        """Value of each concept at each position, [B, concepts, positions].

        Parameters
        ----------
        tensor : torch.Tensor
            [B, ...], relevance or activation of the layer.
        layer_name : str, optional
        """
        raise self._missing("at_positions")

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
        value, position = self._read_unsorted(relevance, layer_name, max_target)
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
        order, value, position = call_as_taken(
            self.reference_sampling, tensor, layer_name=layer_name, max_target=max_target, abs_norm=False
        )
        return Reading(
            torch.empty_like(value).scatter_(0, order, value), torch.empty_like(position).scatter_(0, order, position)
        )

    def _read_unsorted(self, tensor: torch.Tensor, layer_name: str | None, max_target: str) -> Reading:
        """What :meth:`reference_sampling` sorts."""
        return self.read(tensor, layer_name, max_target)

    def _missing(self, method: str) -> TypeError:
        return TypeError(f"{type(self).__name__} does not define {method!r}, which is needed here")


def normalise(rel: torch.Tensor) -> torch.Tensor:
    """Divide by the sum of absolute values along the last axis; all zeros stay zeros."""
    return rel / rel.abs().sum(-1, keepdim=True).clamp_min(torch.finfo(rel.dtype).tiny)


def check_max_target(max_target: str) -> None:
    """Raise a ValueError for anything but "sum" and "max"."""
    if max_target not in ("sum", "max"):
        raise ValueError(f"max_target is 'sum' or 'max', not {max_target!r}")
