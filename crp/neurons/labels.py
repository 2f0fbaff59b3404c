"""Labels of rows: classes or numbers, and which rows have none."""
from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crp.model.arrays import as_array
from crp.neurons.values import UnitTable


@dataclass(frozen=True)
class Labels:
    """What is known of rows.

    Attributes
    ----------
    rows : numpy.ndarray
        [n], numbers of the rows that have a label, ascending.
    left_out : int
        How many have none.
    classes : list
        Names of the classes, in order; empty for numbers.
    values : numpy.ndarray
        [n], the place of each row's class in ``classes``; or its number.
    """

    rows: np.ndarray
    left_out: int
    classes: list[int | str | bool]
    values: np.ndarray

    @property
    def of_class(self) -> np.ndarray:
        """[n], the place of each row's class; for numbers all are alike."""
        return self.values if self.classes else np.zeros(len(self.rows), int)


def read_labels(labels: Any, table: UnitTable) -> Labels:
    """The labels that a caller gives, or those that come with values.

    Parameters
    ----------
    labels : array-like or None
        One for each row, or for values of a store one for each sample of the dataset. Integers, strings and booleans
        are classes, real numbers are numbers; None and NaN stand for none.
    table : UnitTable

    Raises
    ------
    ValueError
        If there are too few or too many, or they are of one class or number only.
    """
    if labels is None:
        if table.targets is None:
            rows = np.arange(table.rows)
            return Labels(rows, 0, [], np.zeros(table.rows))
        targets = table.targets
        return _classes(targets, targets >= 0)
    given = as_array(labels) if isinstance(labels, torch.Tensor) else labels
    if hasattr(given, "dtype") and not isinstance(given.dtype, np.dtype):  # of pandas, whose integers may be missing
        given = given.tolist()
    flat = np.asarray(given) if not isinstance(given, (list, tuple)) else _array_of(list(given))
    if flat.ndim != 1:
        raise ValueError(f"labels hold one for each row, but have the shape {flat.shape}")
    flat = _of_rows(flat, table)
    if flat.dtype.kind in "biuUS":
        return _classes(flat, np.ones(len(flat), bool))
    if flat.dtype.kind == "f":
        return _numbers(flat)
    known = np.array([not _is_none(label) for label in flat])
    kinds = {type(label) for label in flat[known]}
    if kinds and all(issubclass(kind, (float, np.floating)) for kind in kinds):
        return _numbers(np.array([float("nan") if _is_none(label) else label for label in flat], float))
    if not all(issubclass(kind, (bool, int, str, np.bool_, np.integer)) for kind in kinds):
        raise TypeError(f"labels are integers, strings, booleans or numbers, not {sorted(k.__name__ for k in kinds)}")
    if not kinds:
        raise ValueError("no row has a label")
    filled = np.array(flat[known].tolist())
    if filled.dtype.kind not in "biuU" or (filled.dtype.kind == "U" and kinds != {str} and kinds != {np.str_}):
        raise TypeError("labels are of one kind, not numbers beside strings")
    return _classes(_spread(filled, known), known)


def _array_of(labels: list) -> np.ndarray:
    """A list as an array, which makes no strings of None and of numbers."""
    if any(_is_none(label) or isinstance(label, str) for label in labels):
        array = np.empty(len(labels), object)
        array[:] = [label.item() if isinstance(label, (torch.Tensor, np.generic)) else label for label in labels]
        return array
    return as_array(labels)


def _is_none(label: Any) -> bool:
    return label is None or (isinstance(label, (float, np.floating)) and bool(np.isnan(label))) or (
        type(label).__name__ in ("NAType", "NaTType")  # of pandas
    )


def _of_rows(labels: np.ndarray, table: UnitTable) -> np.ndarray:
    if len(labels) == table.rows:
        return labels
    if table.source is not None and table.samples is not None:
        length = table.source.store.manifest.settings.dataset.length
        if len(labels) == length:
            return labels[table.samples]
        raise ValueError(
            f"there are {len(labels)} labels, but the store has {table.rows} rows, of a dataset of {length} samples"
        )
    raise ValueError(f"there are {len(labels)} labels, but {table.rows} rows")


def _spread(known: np.ndarray, where: np.ndarray) -> np.ndarray:
    spread = np.zeros(len(where), known.dtype)
    spread[where] = known
    return spread


def _classes(labels: np.ndarray, known: np.ndarray) -> Labels:
    names, codes = np.unique(labels[known], return_inverse=True)
    _check_several(names, "class")
    return Labels(np.flatnonzero(known), int((~known).sum()), names.tolist(), codes)


def _numbers(labels: np.ndarray) -> Labels:
    known = ~np.isnan(labels)
    values = labels[known].astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("labels hold infinite numbers")
    distinct = np.unique(values)
    _check_several(distinct, "number")
    is_partial = not known.all()
    if (len(distinct) <= 20 or is_partial) and np.array_equal(distinct, np.round(distinct)):
        warnings.warn(
            f"the labels are real numbers, {', '.join(f'{value:g}' for value in distinct[:4])} ...: they are taken as "
            "numbers; integers or strings are classes", stacklevel=3,
        )
    return Labels(np.flatnonzero(known), int((~known).sum()), [], values)


def _check_several(names: np.ndarray, kind: str) -> None:
    if len(names) == 0:
        raise ValueError("no row has a label")
    if len(names) == 1:
        raise ValueError(
            f"all rows with a label have the same {kind}, {names.tolist()[0]!r}: there is nothing to tell apart"
        )
