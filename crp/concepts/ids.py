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
    ids = ids.tolist() if isinstance(ids, torch.Tensor) else ids
    ids = [_only_item(i) for i in ids] if isinstance(ids, (list, range, set, tuple)) else ids
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return []
    holds_booleans = isinstance(ids, list) and any(map(is_boolean, ids))
    if array.dtype.kind not in "iu" or array.ndim > 1 or holds_booleans:
        raise TypeError(f"concept ids are integers: one, or a flat list, array or tensor of them; got {ids!r}")
    return [int(i) for i in np.atleast_1d(array)]


def _only_item(value: Any) -> Any:
    """What an array or tensor of one element holds, and a tensor as lists; anything else as it is."""
    if isinstance(value, torch.Tensor):  # numpy reads none that lies on a GPU
        return value.item() if value.numel() == 1 else value.tolist()
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def is_boolean(value: Any) -> bool:
    """Whether this is a Boolean, or an array or tensor of them."""
    if isinstance(value, int):
        return isinstance(value, bool)
    return isinstance(value, np.bool_) or getattr(value, "dtype", None) in (torch.bool, np.dtype(bool))


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
