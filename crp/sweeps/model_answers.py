"""What a model answers to a sample, which tells it from others that consist of the same."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from crp.model.inputs import call_model, device_of, map_tensors
from crp.model.layers import flatten_tensors
from crp.rules.restoring import TensorState, run_undone
from crp.store.settings import differing_answers
from crp.sweeps.batches import Batch
from crp.sweeps.describe import readable_samples

_COUNT, _TRIES = 32, 5


def model_answers(
    model: nn.Module, load: Callable[[int, int, int], Iterable[Batch]], length: int
) -> list[float] | None:
    """Finite numbers of a model's output for the first sample that can be had and gives any.

    Hashes do not see all that a model computes with: code in other languages, files, variables of the environment.

    Parameters
    ----------
    model : torch.nn.Module
    load : callable
        ``(start, stop, batch_size) -> iterable of`` :class:`crp.sweeps.Batch`.
    length : int
        Of the dataset.

    Returns
    -------
    list of float or None
        Up to 32, picked evenly; None where the model answers otherwise when it is asked again, or with no such numbers.
    """
    with torch.random.fork_rng(devices=[]):
        for data in islice(readable_samples(load, length), _TRIES):
            answers = _answers(model, data)
            if answers:
                return answers if differing_answers(answers, _answers(model, data)) is None else None
    return None


def _answers(model: nn.Module, data: Any) -> list[float]:
    device = device_of(model)
    try:
        inputs = map_tensors(lambda tensor: tensor.to(device), data)
        output = run_undone(lambda: torch.no_grad()(call_model)(model, inputs), TensorState(model).restore)
    except Exception:  # whatever a model raises that cannot be run as it is
        return []
    numbers = [
        leaf[leaf.isfinite()].double().cpu() for leaf in flatten_tensors(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    whole = torch.cat([torch.empty(0, dtype=torch.float64), *numbers])
    picked = np.linspace(0, len(whole) - 1, min(_COUNT, len(whole))).round().astype(int)
    return [float(f"{number:.7g}") for number in whole[picked].tolist()]
