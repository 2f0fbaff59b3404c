"""Samples of a dataset as a model takes them."""
from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, get_worker_info

from crp.model.inputs import list_tensors, map_tensors
from crp.model.streams import Stream


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


def as_sequence(dataset: Any) -> Any:
    """A dataset that can be asked for sample i; streams of known length as a :class:`crp.model.streams.Stream`.

    Raises
    ------
    TypeError
        For one that cannot be; the message says what can.
    """
    if isinstance(dataset, DataLoader):
        raise TypeError(
            "the dataset is a DataLoader, which gives batches: give its dataset, and if it joins samples in its own "
            "way, FeatureVisualization(..., loader.dataset, ..., collate_fn=loader.collate_fn)"
        )
    if hasattr(dataset, "iloc"):
        raise TypeError(
            "the dataset is a pandas table, where [i] names a column: give TensorDataset(torch.tensor("
            "table[columns].to_numpy('float32')), torch.tensor(table[target].to_numpy())), with categories as numbers "
            "(table[column].cat.codes, or pandas.get_dummies)"
        )
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
        return dataset
    if isinstance(dataset, IterableDataset) and hasattr(dataset, "__len__"):
        return Stream(dataset, len(dataset))
    raise TypeError(
        f"the dataset is {_describe(dataset)}, which can only be read from the start and does not tell its length. A "
        "sweep goes on after an interruption and shows samples again: it needs dataset[i] and len(dataset), or a "
        "stream of known length: crp.visualization.Stream(dataset, length)"
    )


def describe_error(error: Exception) -> str:
    """Kind and message of an error, without addresses, which are others each time."""
    text = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
    return re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)


def is_death_of_reader(error: Exception) -> bool:
    """Whether a process that reads a dataset has died; PyTorch raises that in the main thread, wherever that is."""
    return str(error).startswith("DataLoader worker (pid")


def split_item(item: Any, target_key: str | None = "labels") -> tuple[Any, Any]:
    """Split what a dataset gives into model inputs and target, None where there is none.

    Parameters
    ----------
    item : tensor, array, tuple or dict
        An input; (input, target), where numbers and names may follow, such as an index; or a dict in which
        ``target_key`` holds the target and the rest are model inputs.
    target_key : str or None
        None where dicts hold inputs only.

    Raises
    ------
    TypeError, ValueError
        If the item is none of these.
    """
    if isinstance(item, Mapping):
        return _split_mapping(item, target_key)
    if isinstance(item, list) and _is_numbers(item):
        return item, None
    if isinstance(item, (tuple, list)):
        if len(item) > 2 and any(np.ndim(value) for value in item[2:] if not isinstance(value, Mapping)):
            raise TypeError(
                f"the dataset gives {len(item)} things, and the third is no number or name: what is input? Known are "
                "(input, target), which an index or a name may follow; several inputs go as ((first, second), target)"
            )
        return (item[0], item[1] if len(item) > 1 else None) if item else _refuse(item)
    if isinstance(item, torch.Tensor) or hasattr(item, "__array__"):
        return item, None
    return _refuse(item)


def _split_mapping(item: Mapping, target_key: str | None) -> tuple[Any, Any]:
    if target_key is None:
        return dict(item), None
    if target_key not in item:
        raise ValueError(
            f"the dataset gives dicts with {sorted(item)}: name the target's key with target_key=..., or "
            "target_key=None if there are no targets"
        )
    return {key: value for key, value in item.items() if key != target_key}, item[target_key]


def _refuse(item: Any) -> Any:
    raise TypeError(f"a dataset gives (input, target), an input or a dict, not {_describe(item)}")


def with_batch_axis(inputs: Any, name: str = "") -> Any:
    """Turn the inputs of one sample into tensors with a batch axis of length 1.

    Raises
    ------
    TypeError
        For what is no number, such as text; the message names the key of a dict.
    """
    if isinstance(inputs, Mapping):
        return {key: with_batch_axis(value, str(key)) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)) and not _is_numbers(inputs):
        return tuple(with_batch_axis(value, name) for value in inputs)
    under = f" under {name!r}" if name else ""
    if isinstance(inputs, str):
        raise TypeError(
            f"the dataset gives text{under} (a str), which no model takes: turn it into numbers in the dataset (tokens "
            "of a tokenizer, codes of categories), or leave it out"
        )
    try:
        array = inputs if isinstance(inputs, torch.Tensor) or not hasattr(inputs, "__array__") else np.asarray(inputs)
        return torch.as_tensor(array).unsqueeze(0)
    except (TypeError, RuntimeError, ValueError):
        columns = [str(column) for column, value in getattr(inputs, "items", dict)() if isinstance(value, str)]
        raise TypeError(
            f"the dataset gives {_describe(inputs)}{under} as input; crp needs tensors or arrays "
            "(for images, put a transform such as ToTensor into the dataset)"
            + (f"; {', '.join(columns)} hold text: categories go as numbers (codes, or pandas.get_dummies)"
               if columns else "")
        ) from None


def _is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists."""
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) or isinstance(item, list) and _is_numbers(item) for item in value)
    return False


def rows_of_batch(batch: tuple[Any, Any], count: int) -> list[tuple[Any, Any]]:
    """The samples of a collated batch (inputs, targets), each with a batch axis.

    Raises
    ------
    ValueError
        If it is not of so many samples.
    """
    data, targets = batch
    data = map_tensors(torch.as_tensor, data)
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in list_tensors(data)}
    lengths |= set() if targets is None else {len(targets)}
    if lengths != {count}:
        raise ValueError(f"collate_fn made a batch of {sorted(lengths)} samples of {count}")
    return [
        (map_tensors(lambda tensor: tensor[i:i + 1], data), None if targets is None else targets[i])
        for i in range(count)
    ]


def attempt_to_split(
    attempts: list[tuple[Any, Exception | None]], split: Callable[[list[Any]], list[tuple[Any, Any]]], together: bool
) -> list[tuple[Any, Exception | None]]:
    """Items that could be read as ``split`` gives them, together or one by one; with the errors of those that fail."""
    items = [item for item, error in attempts if error is None]
    if together and items:
        try:
            made = iter(split(items))
            return [(None, error) if error is not None else (next(made), None) for _, error in attempts]
        except Exception:  # whatever a user's function raises: one of them is at fault
            pass
    return [(None, error) if error is not None else _attempt(split, item) for item, error in attempts]


def _attempt(split: Callable[[list[Any]], list[tuple[Any, Any]]], item: Any) -> tuple[Any, Exception | None]:
    try:
        return split([item])[0], None
    except Exception as error:  # whatever it raises
        return None, error


def check_preprocessed(data: Any) -> None:
    """Raise an error if what ``preprocess_fn`` gave is not one sample with its batch axis."""
    shapes = [tuple(tensor.shape) for tensor in list_tensors(data)]
    if not shapes:
        raise TypeError(f"preprocess_fn gives {_describe(data)}, not the tensors [1, ...] that a model takes")
    if any(not shape or shape[0] != 1 for shape in shapes):
        raise ValueError(
            f"preprocess_fn gives {', '.join(map(str, shapes))}: it is given a sample with a batch axis [1, ...], and "
            "keeps that"
        )


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
    return _kind_of(sample, lambda tensor: (tensor.shape, tensor.dtype))


def form_of(sample: Any) -> Any:
    """What samples have in common that one model takes: structure, numbers of axes and types."""
    return _kind_of(sample, lambda tensor: (tensor.ndim, tensor.dtype))


def _kind_of(sample: Any, of_tensor: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(sample, Mapping):
        return tuple((key, _kind_of(sample[key], of_tensor)) for key in sorted(sample))
    if isinstance(sample, tuple):
        return tuple(_kind_of(part, of_tensor) for part in sample)
    return of_tensor(sample) if isinstance(sample, torch.Tensor) else type(sample)


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
