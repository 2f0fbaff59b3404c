"""Ids of concepts, however they are given, as Python ints."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_ids(ids: Any) -> list[int]:
    """A list of Python ints from an int, list, array or tensor of integers; tensors on any device, also in lists.

    Raises
    ------
    TypeError
        If something else is given.
    """
    ids = _as_numbers(ids)
    ids = [_as_numbers(i) for i in ids] if isinstance(ids, (list, range, set, tuple)) else ids
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return []
    holds_booleans = isinstance(ids, list) and any(isinstance(i, bool) for i in ids)
    if array.dtype.kind not in "iu" or array.ndim > 1 or holds_booleans:
        raise TypeError(f"concept ids are integers: one, or a flat list, array or tensor of them; got {ids!r}")
    return [int(i) for i in np.atleast_1d(array)]


def _as_numbers(value: Any) -> Any:
    """A tensor as numbers of Python, since numpy reads none that lies on a GPU; anything else as it is."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def as_id(value: Any) -> int:
    """One Python int from an int, or from a list, array or tensor of length 1.

    Raises
    ------
    TypeError, ValueError
        If something else is given, or several.
    """
    ids = as_ids(value)
    if len(ids) != 1:
        raise ValueError(f"one concept id is needed, not {len(ids)}")
    return ids[0]
