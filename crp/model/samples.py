"""Samples of a dataset as a model takes them."""
from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from crp.model.inputs import list_tensors


class SampleError(RuntimeError):
    """A sample that the dataset cannot give, or ``preprocess_fn`` not take; the message names its index."""

    def __init__(self, index: int, error: Exception):
        super().__init__(index, error)
        self.index, self.error = index, error

    def __reduce__(self) -> tuple[type[SampleError], tuple[int, Exception]]:
        return SampleError, (self.index, RemoteError.of(self.error))

    def __str__(self) -> str:
        return f"sample {self.index}: {describe_error(self.error)}"


class _Attempts(Dataset[tuple[Any, Exception | None]]):
    """A dataset that gives ``(item, None)``, or ``(None, error)``."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitem__(self, index: int) -> tuple[Any, Exception | None]:
        try:
            return self.dataset[index], None
        except Exception as error:  # whatever a dataset raises
            return None, error if get_worker_info() is None else RemoteError.of(error)


class RemoteError(Exception):
    """What was wrong in another process, in words: this one may know nothing of the class. A note has the traceback."""

    @classmethod
    def of(cls, error: Exception) -> RemoteError:
        """The error in words."""
        if isinstance(error, cls):
            return error
        remote = cls(describe_error(error))
        remote.add_note("".join(traceback.format_exception(error)))
        return remote


def check_dataset(dataset: Any) -> None:
    """Raise a TypeError for a dataset that cannot be asked for sample i."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"the dataset is {_describe(dataset)}, which can only be read from the start. A sweep goes on after an "
            "interruption, is divided among workers, and shows samples again: it needs dataset[i] and len(dataset). "
            "Keep the samples in a list or a map-style dataset"
        )


def describe_error(error: Exception) -> str:
    """Kind and message of an error, without addresses, which are others each time."""
    text = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)


def is_death_of_reader(error: Exception) -> bool:
    """Whether a process that reads a dataset has died; PyTorch raises that in the main thread, wherever that is."""
    return str(error).startswith("DataLoader worker (pid")


def split_item(item: Any, target_key: str = "labels") -> tuple[Any, Any]:
    """Split what a dataset gives into model inputs and target.

    Parameters
    ----------
    item : tuple or dict
        (input, target), or a dict in which ``target_key`` holds the target and the rest are model inputs.
    target_key : str

    Returns
    -------
    inputs, target

    Raises
    ------
    TypeError, ValueError
        If the item is neither.
    """
    if isinstance(item, Mapping):
        if target_key not in item:
            raise ValueError(f"the dataset gives dicts with {sorted(item)}: name the target's key with target_key=...")
        return {key: value for key, value in item.items() if key != target_key}, item[target_key]
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    raise TypeError(f"a dataset gives (input, target) or a dict, not {_describe(item)}")


def with_batch_axis(inputs: Any) -> Any:
    """Turn the inputs of one sample into tensors with a batch axis of length 1."""
    if isinstance(inputs, Mapping):
        return {key: with_batch_axis(value) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)) and not all(isinstance(value, (int, float)) for value in inputs):
        return tuple(with_batch_axis(value) for value in inputs)
    try:
        return torch.as_tensor(inputs).unsqueeze(0)
    except (TypeError, RuntimeError, ValueError):
        raise TypeError(
            f"the dataset gives {_describe(inputs)} as input; crp needs tensors or arrays "
            "(for images, put a transform such as ToTensor into the dataset)"
        ) from None


def join_samples(samples: list[Any], indices: list[int]) -> Any:
    """Join samples along their batch axis.

    Raises
    ------
    ValueError
        If they differ in shape or type; the message names two of them.
    """
    usual = kind_of(samples[0])
    for index, sample in zip(indices, samples):
        if kind_of(sample) != usual:
            raise ValueError(describe_difference(indices[0], samples[0], index, sample))
    return _joined(samples)


def _joined(samples: list[Any]) -> Any:
    first = samples[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        return {key: _joined([sample[key] for sample in samples]) for key in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(parts)) for parts in zip(*samples))
    return torch.cat(samples)


def kind_of(sample: Any) -> Any:
    """What samples that can be joined have in common: structure, shapes and types."""
    if isinstance(sample, Mapping):
        return tuple((key, kind_of(sample[key])) for key in sorted(sample))
    if isinstance(sample, tuple):
        return tuple(map(kind_of, sample))
    return (sample.shape, sample.dtype) if isinstance(sample, torch.Tensor) else type(sample)


def describe_difference(index: int, sample: Any, other_index: int, other: Any) -> str:
    """In which respect two samples of different kinds differ, and what to do about it."""
    what, difference = "form", "hold different tensors"
    for one, two in zip(list_tensors(sample), list_tensors(other)):
        if one.shape != two.shape:
            what, difference = "shape", f"have the shapes {tuple(one.shape[1:])} and {tuple(two.shape[1:])}"
        elif one.dtype != two.dtype:
            what, difference = "type", f"have the types {one.dtype} and {two.dtype}"
    return (
        f"samples {index} and {other_index} {difference}; bring them to one {what} in the dataset or in preprocess_fn"
    )


def list_targets(target: Any) -> list[int]:
    """The classes of a sample: one class number (also as an array of length 1), or the set bits of a multi-hot vector.

    Raises
    ------
    TypeError
        If the target is neither.
    """
    if isinstance(target, (list, tuple)):
        raise TypeError(
            f"a target is a class number or a multi-hot tensor, but this one is a {type(target).__name__}: {target!r}; "
            "make it a tensor, or override multitarget_to_single"
        )
    array = np.asarray(target.cpu() if isinstance(target, torch.Tensor) else target)
    if array.size == 1 and array.dtype.kind in "iu":
        return [int(array.item())]
    if array.ndim == 1 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all():
        return np.flatnonzero(array).tolist()
    raise TypeError(
        f"a target is a class number or a multi-hot vector, not {target!r}; override multitarget_to_single for others"
    )


def attempt_items(
    dataset: Any, indices: range, batch_size: int, num_workers: int
) -> Iterator[list[tuple[Any, Exception | None]]]:
    """Lists of ``(dataset[i], None)`` or ``(None, error)``, in order; read by ``num_workers`` processes, if any."""
    attempts = Subset(_Attempts(dataset), indices)
    return iter(DataLoader(attempts, batch_size, collate_fn=list, num_workers=num_workers))


def iterate_items(dataset: Any, batch_size: int) -> Iterator[list[Any]]:
    """Lists of ``dataset[i]``, in order.

    Raises
    ------
    SampleError
        If the dataset does; the message names the sample.
    """
    first = 0
    for attempts in attempt_items(dataset, range(len(dataset)), batch_size, 0):
        for index, (_, error) in enumerate(attempts, first):
            if error is not None:
                raise SampleError(index, error) from error
        yield [item for item, _ in attempts]
        first += len(attempts)


def _describe(value: Any) -> str:
    return f"a {type(value).__module__}.{type(value).__qualname__}"
