"""Which arrays a store holds, of which type and shape, as its manifest tells those who write, read and check them."""
from __future__ import annotations

from typing import TypeAlias

import numpy as np

from crp.store.files import (
    MATRIX_OF,
    QUANTITIES,
    ROW_DTYPE,
    TABLE_DTYPE,
    TOTAL_OF,
    class_sum_name,
    stored_statistics,
    table_name,
)
from crp.store.npy import Shape
from crp.store.schema import LayerEntry, Settings

Arrays: TypeAlias = dict[str, tuple[np.dtype, Shape]]  # None in a shape: any length


def columns_of(entry: LayerEntry, max_target: str, dtype: str) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of a row of the arrays of a layer and quantity, in the order in which a sweep has them."""
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    for statistic in stored_statistics(max_target):
        columns[MATRIX_OF[statistic]] = np.dtype(dtype), (entry.concepts,)
        columns[TOTAL_OF[statistic]] = np.dtype(np.float32), ()
    if entry.has_positions:
        columns["position"] = np.dtype(np.int32), (entry.concepts,)
    return columns


def matrices_of(settings: Settings) -> Arrays:
    """The arrays of a shard that keeps its matrices, with the rows first."""
    arrays: Arrays = {f"{quantity}.rows": (ROW_DTYPE, (None,)) for quantity in QUANTITIES}
    for entry in settings.layers:
        for name, (dtype, shape) in columns_of(entry, settings.options.max_target, settings.options.dtype).items():
            arrays.update({f"{entry.key}.{quantity}.{name}": (dtype, (None, *shape)) for quantity in QUANTITIES})
    return arrays


def quantity_of(name: str) -> str:
    """The quantity whose rows an array of a shard has."""
    return name.split(".")[-2]


def tables_of(settings: Settings) -> Arrays:
    """The tables of a store, or of a shard that keeps nothing else."""
    arrays: Arrays = {}
    for quantity in QUANTITIES:
        for entry in settings.layers:
            for statistic in stored_statistics(settings.options.max_target):
                for normalised in (False, True):
                    name = table_name(entry.key, quantity, statistic, normalised)
                    arrays[name] = TABLE_DTYPE, (entry.concepts, None)
            if settings.options.keep == "top":
                arrays[class_sum_name(entry.key, quantity)] = np.dtype(np.float64), (None, entry.concepts)
        if settings.options.keep == "top":
            arrays[f"{quantity}.class_count"] = np.dtype(np.int64), (None,)
    if settings.options.keep == "top":
        arrays["classes"] = np.dtype(np.int64), (None,)
    return arrays
