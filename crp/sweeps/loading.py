"""Samples of a dataset as batches that a model takes."""
from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from crp.model.samples import SampleError, describe_difference, describe_error, form_of, join_samples, kind_of
from crp.model.targets import Start
from crp.sweeps.batches import Batch


def load_batches(
    attempts: Iterable[list[tuple[Any, Exception | None]]], first: int, make: Callable[[Any], tuple[Any, Any]],
    classes_of: Callable[[Any], Iterable[int]], on_error: str,
) -> Iterator[Batch]:
    """Batches of what a dataset gives: samples of the type that most of their batch have, of one shape each.

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
    usual = None
    for items in attempts:
        samples: dict[int, tuple[Any, list[int]]] = {}
        skipped: dict[int, str] = {}
        for index, (item, error) in enumerate(items, first):
            try:
                if error is not None:
                    raise error
                data, target = make(item)
                samples[index] = data, _checked(classes_of(target))
            except Exception as error:  # whatever users' functions raise
                skipped[index] = _skip(index, error, on_error)
        first += len(items)
        usual = _most_frequent([form_of(data) for data, _ in samples.values()], usual)
        for index, difference in _odd_ones({index: data for index, (data, _) in samples.items()}, usual):
            skipped[index] = _skip(index, ValueError(difference), on_error)
            del samples[index]
        yield from _batches_of_one_shape(samples, skipped)


def _checked(classes: Iterable[int]) -> list[int]:
    classes = list(classes)
    wrong = next((number for number in classes if number < 0 and not isinstance(number, Start)), None)
    if wrong is not None:
        raise ValueError(f"the target is {wrong}, but classes are numbered from 0")
    return classes


def _batches_of_one_shape(samples: dict[int, tuple[Any, list[int]]], skipped: dict[int, str]) -> Iterator[Batch]:
    """Samples in their order; those in a row that have one shape go together. What is skipped is in the first batch."""
    runs = [list(run) for _, run in groupby(samples, key=lambda index: kind_of(samples[index][0]))]
    if len(runs) > 1:
        warnings.warn(
            "samples have different shapes: only those in a row that have the same go together, so a dataset that is "
            "sorted by size is swept faster", stacklevel=2,
        )
    for number, run in enumerate(runs or [[]]):
        data = join_samples([samples[index][0] for index in run], run) if run else None
        yield Batch(run, data, [samples[index][1] for index in run], skipped if number == 0 else {})


def _skip(index: int, error: Exception, on_error: str) -> str:
    """Why a sample is left out, if it may be."""
    if on_error == "raise":
        raise SampleError(index, error) from error
    return describe_error(error)


def _most_frequent(kinds: list[Any], before: Any) -> Any:
    """The kind that most samples of a batch have; of several, rather that of the batch before."""
    counts = Counter(kinds)
    return max(counts, key=lambda kind: (counts[kind], kind == before), default=before)


def _odd_ones(samples: dict[int, Any], usual: Any) -> Iterator[tuple[int, str]]:
    """Samples of other kinds, and how they differ from one of the usual kind."""
    is_usual = {index: form_of(data) == usual for index, data in samples.items()}
    for index in [index for index, found in is_usual.items() if not found]:
        one, two = sorted([index, next(other for other, found in is_usual.items() if found)])
        yield index, describe_difference(one, samples[one], two, samples[two])
