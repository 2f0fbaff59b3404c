"""Arrays from whatever users have: tensors of any type and device, lists of them, tables."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch


def as_array(values: Any) -> np.ndarray:
    """A numpy array of a tensor, array, table or list; bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(value, torch.Tensor) for value in values):
        return np.stack([as_array(value) for value in values])
    return np.asarray(values)


def as_float_array(values: Any) -> np.ndarray:
    """Like :func:`as_array`, but integers, booleans and float16 become types that are safe to calculate with."""
    array = as_array(values)
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)
