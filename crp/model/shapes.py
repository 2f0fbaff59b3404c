"""What is wrong with the shape of data that a model cannot be run on."""
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crp.model.inputs import Inputs, call_model, list_tensors, map_tensors


def misplaced_batch_axis(model: nn.Module, data: Inputs) -> str:
    """Whether a batch axis is missing in data or there is one too many, in words; empty if that is not the fault.

    The model is run on data with an axis more, or less. It is to be called where nothing is attached to the model.
    """
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in list_tensors(data))
    if _can_run(model, data):
        return ""
    if _can_run(model, map_tensors(lambda tensor: tensor[None], data)):
        return (
            f"the batch axis is missing: data of the shape {shapes} are taken apart along their first axis. One sample "
            "is data[None]"
        )
    if all(tensor.ndim > 1 and tensor.shape[1] == 1 for tensor in list_tensors(data)) and _can_run(
        model, map_tensors(lambda tensor: tensor[:, 0], data)
    ):
        return (
            f"there is an axis of length 1 too many in data of the shape {shapes}, behind that of the samples: samples "
            "of a dataset come without a batch axis (of what a tokenizer gives, take row 0), and preprocess_fn keeps it"
        )
    return ""


def _can_run(model: nn.Module, data: Any) -> bool:
    try:
        with torch.no_grad():
            call_model(model, data)
    except Exception:  # whatever a model raises
        return False
    return True

