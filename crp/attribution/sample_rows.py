"""Where the samples are in the tensor of a layer: on the first axis, on another one, or several rows for each."""
from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleRows:
    """Which rows of a layer's tensor belong to which sample.

    Attributes
    ----------
    axis : int, default 0
        The axis that holds the samples, such as 1 for [T, B, C].
    rows : int, default 1
        How many rows of that axis belong to each sample, such as T for frames that are folded into [B * T, C, H, W].
    interleaved : bool, default False
        Whether the rows of a sample lie apart, the first rows of all samples coming first, as in [T * B, C, H, W].
    """

    axis: int = 0
    rows: int = 1
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.axis < 0 or self.rows < 1:
            raise ValueError(f"the axis is counted from 0, and there is at least one row: not {self}")

    def fits(self, shape: torch.Size, samples: int) -> bool:
        """Whether a tensor of some shape can hold so many samples."""
        return self.axis < len(shape) and shape[self.axis] == samples * self.rows

    def samples_first(self, tensor: Tensor, rows_last: bool) -> Tensor:
        """The tensor [B, ...]; where samples have several rows, those are the last or else the second axis."""
        if self.rows == 1:
            return tensor.movedim(self.axis, 0)
        tensor = tensor.unflatten(self.axis, (self.rows, -1) if self.interleaved else (-1, self.rows))
        return tensor.movedim(self._unfolded, (0, -1 if rows_last else 1))

    def as_it_was(self, tensor: Tensor, rows_last: bool) -> Tensor:
        """Undo :meth:`samples_first`."""
        if self.rows == 1:
            return tensor.movedim(0, self.axis)
        return tensor.movedim((0, -1 if rows_last else 1), self._unfolded).flatten(self.axis, self.axis + 1)

    @property
    def _unfolded(self) -> tuple[int, int]:
        """The axes of samples and rows, once they are apart."""
        return self.axis + self.interleaved, self.axis + (not self.interleaved)


@dataclass
class LayerRows:
    """How the tensor of a layer is read: with the samples on the first axis.

    Attributes
    ----------
    layer : str
    rows : SampleRows or str
        Where its samples are; or in words, why that is not known.
    samples : int
        How many there are.
    rows_last : bool
        Where samples have several rows: whether these become the last axis, or else the second.
    """

    layer: str
    rows: SampleRows | str
    samples: int
    rows_last: bool

    def of(self, shape: torch.Size) -> SampleRows:
        """The rows of a tensor of some shape.

        Raises
        ------
        ValueError
            If they are not known, or do not fit.
        """
        rows = self.rows
        if rows == ONLY_AS_IT_IS:
            rows = SampleRows()
            warnings.warn(
                f"{ONLY_AS_IT_IS}: layer {self.layer!r} is read with samples on axis 0. "
                f"CondAttribution(model, samples={{{self.layer!r}: 0}}) says that this is right", stacklevel=2,
            )
        if isinstance(rows, SampleRows) and rows.fits(shape, self.samples):
            return rows
        reason = rows if isinstance(rows, str) else f"axis {rows.axis} should have {rows.rows} rows for each"
        raise ValueError(
            f"layer {self.layer!r} holds {tuple(shape)} for {self.samples} samples, and what of it belongs to which is "
            f"not known: {reason}. If samples have rows there, say where with CondAttribution(model, "
            f"samples={{{self.layer!r}: axis}}), or with SampleRows in place of the axis"
        )


ONLY_AS_IT_IS = "the model runs on no other number of samples, and layers do not follow their order"
ONE_SIZE = "the model runs on no other number of samples, and several axes have as many rows"
