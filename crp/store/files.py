"""Names and types of the files of a store."""
from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Quantity = Literal["relevance", "activation"]
Statistic = Literal["sum", "max"]
Keep = Literal["all", "top"]
MatrixType = Literal["float32", "float16"]
RowKind = Literal["samples", "positions"]

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
KEPT: tuple[Keep, ...] = get_args(Keep)
DTYPES: tuple[MatrixType, ...] = get_args(MatrixType)
ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
TABLE_DEPTH = 40
ROW_FIELDS = ("sample", "target", "position", "prediction")
ROW_DTYPE = np.dtype([(field, "<i8") for field in ROW_FIELDS])
TABLE_DTYPE = np.dtype([("row", "<i8"), ("sample", "<i8"), ("position", "<i4"), ("value", "<f4")])
MATRIX_OF = {"sum": "value", "max": "maximum"}
TOTAL_OF = {"sum": "total", "max": "maximum_total"}


def table_name(key: str, quantity: str, statistic: str, normalised: bool) -> str:
    """Name of the file with the top rows of a layer."""
    return f"{key}.{quantity}.{MATRIX_OF[statistic]}" + ("_normalised" if normalised else "")


def class_sum_name(key: str, quantity: str) -> str:
    """Name of the file with the sums of each class."""
    return f"{key}.{quantity}.class_sum"


def stored_statistics(max_target: str) -> list[str]:
    """The statistics over positions that a sweep writes: always the sum, the maximum when asked for."""
    return ["sum"] if max_target == "sum" else ["sum", "max"]
