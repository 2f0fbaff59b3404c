"""From which tensor a tensor was computed, element by element: how activation functions that are written out are known.

What is computed from one tensor and numbers, element by element, and is not linear, is an activation function of that
tensor, such as ``x * relu6(x + 3) / 6``. Relevance passes it as a whole: the numbers in it get nothing.
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn


class Shift(Protocol):
    """The rule of a sum with a number, which gets a share unless the sum is part of an activation function."""

    is_in_activation: bool


@dataclass(slots=True, eq=False)
class Descent:
    """How a tensor was computed from another one, element by element.

    Attributes
    ----------
    source : object
        Stands for the tensor that it was computed from.
    is_activation : bool
        Whether that is not linear.
    shifts : tuple of Shift
        The rules of sums with numbers on the way.
    """

    source: object = field(default_factory=object)
    is_activation: bool = False
    shifts: tuple[Shift, ...] = ()

    def activated(self) -> Descent:
        """The descent of a nonlinear function of the tensor, of which the sums on the way are parts."""
        for shift in self.shifts:
            shift.is_in_activation = True
        return Descent(self.source, True)


def descent_of(tensor: Tensor) -> Descent:
    """How a tensor was computed; from itself, if that is not known or it has been written to."""
    known, version = vars(tensor).get("descent", (None, None))
    if known is None or version != tensor._version:
        known = Descent()
        mark_descent(tensor, known)
    return known


def mark_descent(tensor: Tensor, descent: Descent) -> None:
    """Note how a tensor was computed."""
    vars(tensor)["descent"] = descent, tensor._version


def joined(descents: Iterable[Descent]) -> Descent | None:
    """The descent of what is computed from tensors with these; None if they come from several."""
    first, *others = descents
    if any(descent.source is not first.source for descent in others):
        return None
    every = (first, *others)
    return Descent(
        first.source, any(descent.is_activation for descent in every),
        tuple(shift for descent in every for shift in descent.shifts),
    )


def is_number(value: Any) -> bool:
    """Whether a constant is one number, and not a parameter that was learnt."""
    return not isinstance(value, Tensor) or value.numel() == 1 and not isinstance(value, nn.Parameter)
