"""Targets of samples: from which outputs relevance starts."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch


class Start(IntEnum):
    """Where relevance of a sample starts that has no class number."""

    ALL_OUTPUTS = -1
    """From all outputs, as in regression; or from those that ``y=`` names."""
    PREDICTION = -2
    """From the largest output, where there are no targets."""
    NOTHING = -3
    """There is no relevance, as of a multi-hot vector without any class."""


def list_targets(target: Any, class_names: Sequence[str] | None = None) -> list[int]:
    """The classes of a sample, each of which gives a row of relevance.

    ===================================  ===========================================================
    class number, or array of length 1   that class
    list or set of class numbers         these (a list of 0 and 1 is refused: it may be multi-hot)
    multi-hot vector (a tensor or        the classes that are set
    array of 0 and 1)
    mask [H, W, ...] of class numbers    the classes that occur in it
    name of a class, or a list of them   their places in ``class_names``
    float, or vector of floats           ``[Start.ALL_OUTPUTS]``
    None                                 ``[Start.PREDICTION]``
    ===================================  ===========================================================

    Raises
    ------
    TypeError, ValueError
        If the target is none of these.
    """
    if target is None:
        return [Start.PREDICTION]
    if isinstance(target, str):
        return [_place_of(target, class_names)]
    if isinstance(target, (list, tuple, set, frozenset)):
        return _listed(target, class_names)
    array = np.asarray(target.cpu() if isinstance(target, torch.Tensor) else target)
    if array.size == 1 and array.dtype.kind in "iu":
        return [_class_number(array.item())]
    if array.size == 1 and array.dtype.kind == "f":
        return [Start.ALL_OUTPUTS]
    if array.ndim == 1 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        return np.flatnonzero(array).tolist()
    if array.ndim == 1 and array.dtype.kind == "f":
        return [Start.ALL_OUTPUTS]
    if array.ndim > 1 and array.dtype.kind in "iu":
        return [_class_number(number) for number in np.unique(array).tolist()]
    hint = "; a vector is multi-hot, and class numbers go in a list" if array.ndim == 1 else ""
    raise TypeError(
        f"a target is a class number, a list of them, a multi-hot vector, a mask of class numbers, floats or None, not "
        f"{target!r}{hint}; override multitarget_to_single for others"
    )


def _listed(target: Collection[Any], class_names: Sequence[str] | None) -> list[int]:
    items = list(target)
    if all(isinstance(item, str) for item in items):
        return [_place_of(item, class_names) for item in items]
    if any(isinstance(item, float) for item in items) and all(isinstance(item, (int, float)) for item in items):
        return [Start.ALL_OUTPUTS]
    if not all(isinstance(item, (int, np.integer)) and not isinstance(item, bool) for item in items):
        raise TypeError(f"a list of targets holds class numbers, names of classes or floats, not {target!r}")
    if isinstance(target, (list, tuple)) and len(items) > 1 and set(items) <= {0, 1}:
        raise TypeError(
            f"the target {target!r} may be a list of class numbers or a multi-hot vector: class numbers go as a set, a "
            "multi-hot vector as a tensor; or override multitarget_to_single"
        )
    if len(set(items)) < len(items):
        raise ValueError(f"the target {target!r} names a class twice")
    return [_class_number(int(item)) for item in items]


def _class_number(number: int) -> int:
    if number < 0:
        raise ValueError(f"the target is {number}, but classes are numbered from 0")
    return number


def _place_of(name: str, class_names: Sequence[str] | None) -> int:
    if class_names is None:
        raise ValueError(
            f"the target is the name {name!r}: FeatureVisualization(..., class_names=[...]) says which output each is, "
            "or override multitarget_to_single"
        )
    if name not in class_names:
        raise ValueError(f"the target is {name!r}, which is none of the class_names {', '.join(class_names)}")
    return list(class_names).index(name)
