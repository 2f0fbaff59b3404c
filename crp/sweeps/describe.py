"""What a store was made from, apart from model and rules: the attribution, the concepts, the samples."""
from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from crp.attribution.conditional import CondAttribution
from crp.concepts import Concept
from crp.model.positions import PositionMask, keys_of
from crp.model.samples import SampleError, describe_error
from crp.rules.operations.choice import ATTENTION
from crp.store.fingerprint import fingerprint, own_classes, probe_indices
from crp.sweeps.batches import Batch
from crp.sweeps.starts import Starts


def describe_attribution(attribution: CondAttribution) -> dict[str, Any]:
    """What a store keeps of an attribution: its class and its arguments."""
    named = {
        "functional": ATTENTION[0] if attribution.functional is True else attribution.functional,
        "accelerate": attribution.accelerate, "no_param_grad": attribution.no_param_grad,
    }
    elsewhere = {"model", "device", "output", "heatmap_axis", "overwrite_data_grad", *named}
    others = {
        name: value for name, value in vars(attribution).items()
        if name not in elsewhere and not name.startswith("_") and (name, value) != ("samples", {})
    }
    return {
        "class": type(attribution).__name__, "output": fingerprint(attribution.output), **named,
        "attributes": fingerprint(others), "code": fingerprint(own_classes(type(attribution))),
    }


def describe_starts(starts: Starts) -> dict[str, Any]:
    """What a store keeps of where relevance starts, if not at targets among the outputs of the model."""
    described = {"start_layer": starts.start_layer, "y": None if starts.y is None else fingerprint(starts.y)}
    return {name: value for name, value in described.items() if value is not None}


def describe_positions(position_mask: PositionMask, data: Any) -> dict[str, str]:
    """What a store keeps of which positions of samples count, if inputs such as ``data`` have a mask of them."""
    is_told = position_mask is not None and (not isinstance(position_mask, str) or position_mask in keys_of(data))
    return {"positions": fingerprint(position_mask)} if is_told else {}


def describe_concept(concept: Concept) -> dict[str, str]:
    """What a store keeps of a concept, to know it again."""
    return {"class": type(concept).__name__, "settings": fingerprint(concept)}


def describe_samples(load: Callable[[int, int, int], Iterable[Batch]], length: int, seed: int = 0) -> dict[str, str]:
    """Hashes of a few samples of a dataset, which stand for all, and of their targets.

    Parameters
    ----------
    load : callable
        ``(start, stop, batch_size) -> iterable of`` :class:`crp.sweeps.Batch`.
    length : int
    seed : int, default 0
        Of the global random numbers of Python, numpy and PyTorch on the CPU, which are as before afterwards.
    """
    with _seeded(seed):
        found = [_sample_or_error(load, index) for index in probe_indices(length)]
    data, targets = zip(*found)
    return {"samples": fingerprint(data), "targets": fingerprint(targets)}


def readable_samples(load: Callable[[int, int, int], Iterable[Batch]], length: int) -> Iterator[Any]:
    """Inputs of each sample that can be had, the same whenever a dataset draws random numbers from a seed."""
    for index in range(length):
        with _seeded(0):
            data = _sample_or_error(load, index)[0]
        if not isinstance(data, str):
            yield data


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random numbers on the CPU from a seed; afterwards they are as before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _sample_or_error(load: Callable[[int, int, int], Iterable[Batch]], index: int) -> tuple[Any, Any]:
    try:
        batch, = load(index, index + 1, 1)
    except SampleError as error:
        return describe_error(error.error), None
    return (batch.data, batch.targets) if batch.samples else (batch.skipped[index], None)
