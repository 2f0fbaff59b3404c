"""Samples of a dataset as batches that a model takes."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from crp.model.samples import SampleError, describe_error, join_samples
from crp.sweeps.batches import Batch


def load_batches(
    attempts: Iterable[list[tuple[Any, Exception | None]]], first: int, make: Callable[[Any], tuple[Any, Any]],
    classes_of: Callable[[Any], Iterable[int]], on_error: str,
) -> Iterator[Batch]:
    """Batches of what a dataset gives.

    Parameters
    ----------
    attempts : iterable of list
        For each batch, ``(item, None)`` or ``(None, error)`` of consecutive samples.
    first : int
        The first sample.
    make : callable
        ``item -> (data, target)``, with a batch axis.
    classes_of : callable
        ``target -> class numbers``
    on_error : {"raise", "skip"}
        End with an error that names the sample, or leave out samples that cannot be had.

    Raises
    ------
    SampleError
        If a sample cannot be had.
    """
    for items in attempts:
        samples: dict[int, tuple[Any, list[int]]] = {}
        skipped: dict[int, str] = {}
        for index, (item, error) in enumerate(items, first):
            try:
                if error is not None:
                    raise error
                data, target = make(item)
                classes = list(classes_of(target))
                if min(classes, default=0) < 0:
                    raise ValueError(f"the target is {min(classes)}, but classes are numbered from 0")
                samples[index] = data, classes
            except Exception as error:  # whatever users' functions raise
                if on_error == "raise":
                    raise SampleError(index, error) from error
                skipped[index] = describe_error(error)
        first += len(items)
        data = join_samples([data for data, _ in samples.values()], list(samples)) if samples else None
        yield Batch(list(samples), data, [classes for _, classes in samples.values()], skipped)
