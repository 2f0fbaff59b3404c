"""What arrays may hold whose hashes are right: rows in the order of their samples, classes in order, what can be."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from crp.store.files import TABLE_DEPTH
from crp.store.folder import StoreError
from crp.store.schema import MOST_POSITIONS, ShardRecord


def check_rows(
    rows: np.ndarray, record: ShardRecord, quantity: str, of_positions: bool, path: str | Path
) -> None:
    """Raise a StoreError if the rows of a shard are not those of its samples, in order.

    Activation has a row for each sample that was not skipped, relevance one for each target of these; or as many as
    samples have positions.
    """
    samples, targets, positions = rows["sample"], rows["target"], rows["position"]
    swept = record.stop - record.first - len(record.skipped)
    if of_positions:
        later, earlier = samples[1:] > samples[:-1], positions[1:] > positions[:-1]
        again = targets[1:] != targets[:-1] if quantity == "relevance" else np.zeros(len(later), bool)
        is_in_order = bool((later | (samples[1:] == samples[:-1]) & (earlier | again)).all())
        is_in_order &= len(np.unique(samples)) <= swept and _are_within(positions, 0, MOST_POSITIONS)
        is_in_order &= quantity == "relevance" or len(np.unique(samples)) == swept
    else:
        is_in_order = _ascend(samples, strictly=quantity == "activation") and bool((positions == -1).all())
        is_in_order &= quantity == "relevance" or len(rows) == swept
    if (
        not is_in_order or not _are_within(samples, record.first, record.stop)
        or np.isin(samples, [*map(int, record.skipped)]).any()
    ):
        raise StoreError(f"{path} is damaged: its rows of {quantity} are not those of samples {record.first} to "
                         f"{record.stop - 1}, in order")
    if targets.min(initial=0) < -1:
        raise StoreError(f"{path} is damaged: target out of range")


def check_table(table: np.ndarray, rows: int, first: int, stop: int, path: str | Path) -> None:
    """Raise a StoreError if a table of the top rows has too many, or any that are not of the samples first to stop."""
    if table.shape[1] > TABLE_DEPTH:
        raise StoreError(f"{path} is damaged: it holds {table.shape[1]} rows of each concept, more than {TABLE_DEPTH}")
    for field, least, end in (("row", 0, rows), ("sample", first, stop), ("position", 0, MOST_POSITIONS)):
        if not _are_within(table[field], least, end):
            raise StoreError(f"{path} is damaged: {field} out of range")


def check_classes(classes: np.ndarray, counts: np.ndarray, path: str | Path) -> None:
    """Raise a StoreError if classes are not in order, or not as many as there are counts of their samples."""
    if len(classes) != len(counts) or not _ascend(classes, strictly=True) or classes.min(initial=0) < -1:
        raise StoreError(f"{path} is damaged: its classes are not in order, or not as many as counts")
    if counts.min(initial=1) < 1:
        raise StoreError(f"{path} is damaged: a class has no samples")


def check_class_sums(sums: np.ndarray, classes: np.ndarray, path: str | Path) -> None:
    """Raise a StoreError if there are not as many sums as classes."""
    if len(sums) != len(classes):
        raise StoreError(f"{path} is damaged: it holds sums of {len(sums)} classes, and there are {len(classes)}")


def _ascend(numbers: np.ndarray, strictly: bool) -> bool:
    later, earlier = numbers[1:], numbers[:-1]  # not their difference, which may be too large for their type
    return bool((later > earlier if strictly else later >= earlier).all())


def _are_within(numbers: np.ndarray, first: int, stop: int) -> bool:
    return numbers.size == 0 or bool(numbers.min() >= first and numbers.max() < stop)
