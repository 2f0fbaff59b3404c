"""Copies of a store for other programs: Zarr, which xarray opens, and Parquet."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crp.store.files import QUANTITIES, ROW_FIELDS
from crp.store.reader import ReferenceStore, StoreError

_BLOCK = 4096


def export_zarr(store: ReferenceStore, path: str | Path) -> list[str]:
    """Write the matrices as Zarr: ``xarray.open_zarr(path, group=...)``, or ``xarray.open_datatree(path)``.

    Parameters
    ----------
    store : ReferenceStore
    path : str or Path
        A folder that does not exist yet.

    Returns
    -------
    list of str
        The groups, one per layer: named like the layer, or by its key in the store where a folder cannot have such a
        name. Each holds ``relevance`` [relevance_row, concept] and ``activation`` [activation_row, concept], and along
        the rows ``relevance_sample``, ``relevance_target`` and so on; the attribute ``layer`` is the name.

    Raises
    ------
    ImportError
        Without zarr: ``pip install 'crp-concepts[zarr]'``.
    StoreError
        If the path exists, or the store has no matrices.
    """
    try:
        import zarr
    except ImportError:
        raise ImportError("this export needs zarr: pip install 'crp-concepts[zarr]'") from None
    path = _new_path(path)
    rows = {quantity: store.rows(quantity) for quantity in QUANTITIES}
    root, groups = zarr.open_group(path, mode="w-", zarr_format=2), []
    for layer in store.layers:
        groups.append(_group_name(store, layer))
        group = root.create_group(groups[-1], attributes={"layer": layer})
        for quantity in QUANTITIES:
            matrix = store.values(layer, quantity)
            chunks = min(_BLOCK, max(len(matrix), 1)), matrix.shape[1]
            array = group.create_array(
                quantity, shape=matrix.shape, dtype="float32", chunks=chunks, fill_value=None,
                attributes={"_ARRAY_DIMENSIONS": [f"{quantity}_row", "concept"]},
            )
            for part, block in matrix.placed_blocks(_BLOCK):
                array[part] = block
            for name in ROW_FIELDS:
                column = group.create_array(
                    f"{quantity}_{name}", shape=len(matrix), dtype="int64", fill_value=None,
                    attributes={"_ARRAY_DIMENSIONS": [f"{quantity}_row"]},
                )
                column[:] = rows[quantity][name]
        zarr.consolidate_metadata(path, path=groups[-1])
    zarr.consolidate_metadata(path)
    return groups


def export_parquet(store: ReferenceStore, path: str | Path) -> list[Path]:
    """Write a Parquet file for each layer and quantity: sample, target, position, prediction, and a list of values.

    Parameters
    ----------
    store : ReferenceStore
    path : str or Path
        A folder that does not exist yet.

    Returns
    -------
    list of Path

    Raises
    ------
    ImportError
        Without pyarrow: ``pip install 'crp-concepts[parquet]'``.
    StoreError
        If the path exists, or the store has no matrices.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError("this export needs pyarrow: pip install 'crp-concepts[parquet]'") from None
    path = _new_path(path)
    rows = {quantity: store.rows(quantity) for quantity in QUANTITIES}
    path.mkdir(parents=True)
    files = []
    for layer in store.layers:
        for quantity in QUANTITIES:
            matrix = store.values(layer, quantity)
            kind = pyarrow.list_(pyarrow.float32(), matrix.shape[1])
            schema = pyarrow.schema(
                [(name, pyarrow.int64()) for name in ROW_FIELDS] + [("values", kind)], metadata={"layer": layer}
            )
            files.append(path / f"{_group_name(store, layer)}.{quantity}.parquet")
            with parquet.ParquetWriter(files[-1], schema) as writer:
                for part, block in matrix.placed_blocks(_BLOCK):
                    columns: list[Any] = [np.ascontiguousarray(rows[quantity][name][part]) for name in ROW_FIELDS]
                    values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(block.reshape(-1)), matrix.shape[1])
                    writer.write_table(pyarrow.table([*map(pyarrow.array, columns), values], schema=schema))
    return files


def _group_name(store: ReferenceStore, layer: str) -> str:
    is_plain = layer.isascii() and layer.replace("_", "").replace(".", "").replace("-", "").isalnum()
    return layer if is_plain and not layer.startswith((".", "__")) and len(layer) <= 100 else store.entry(layer).key


def _new_path(path: str | Path) -> Path:
    path = Path(path)
    if path.exists():
        raise StoreError(f"{path} exists already: choose another place for the copy")
    return path
