"""Copies of a store for other programs, complete or absent: Zarr, which xarray opens, and Parquet."""
from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from crp.store.files import QUANTITIES, ROW_FIELDS
from crp.store.folder import StoreError, opened
from crp.store.reader import ReferenceStore
from crp.store.temporaries import remove_ended, temporary

_BLOCK = 4096


def export_zarr(store: ReferenceStore, path: str | Path) -> list[str]:
    """Write the matrices as Zarr: ``xarray.open_zarr(path, group=...)``, or ``xarray.open_datatree(path)``.

    Parameters
    ----------
    store : ReferenceStore
    path : str or Path
        A folder that does not exist yet. It is there when all is written; until then a hidden one lies beside it.

    Returns
    -------
    list of str
        The groups, one per layer: named like the layer, or by its key in the store where a folder cannot have such a
        name, or another layer is called alike. Each holds ``relevance`` [relevance_row, concept] and ``activation``
        [activation_row, concept], and along the rows ``relevance_sample``, ``relevance_target`` and so on; the
        attribute ``layer`` is the name.

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
    with _whole_folder(path) as folder:
        rows = {quantity: store.rows(quantity) for quantity in QUANTITIES}
        root, groups = zarr.open_group(folder, mode="w-", zarr_format=2), group_names(store)
        for layer, name in groups.items():
            group = root.create_group(name, attributes={"layer": layer})
            for quantity in QUANTITIES:
                matrix = store.values(layer, quantity)
                chunks = min(_BLOCK, max(len(matrix), 1)), matrix.shape[1]
                array = group.create_array(
                    quantity, shape=matrix.shape, dtype="float32", chunks=chunks, fill_value=None,
                    attributes={"_ARRAY_DIMENSIONS": [f"{quantity}_row", "concept"]},
                )
                for part, block in matrix.placed_blocks(_BLOCK):
                    array[part] = block
                for field in ROW_FIELDS:
                    column = group.create_array(
                        f"{quantity}_{field}", shape=len(matrix), dtype="int64", fill_value=None,
                        attributes={"_ARRAY_DIMENSIONS": [f"{quantity}_row"]},
                    )
                    column[:] = rows[quantity][field]
            zarr.consolidate_metadata(folder, path=name)
        zarr.consolidate_metadata(folder)
    return list(groups.values())


def export_parquet(store: ReferenceStore, path: str | Path) -> list[Path]:
    """Write a Parquet file for each layer and quantity: sample, target, position, prediction, and a list of values.

    Parameters
    ----------
    store : ReferenceStore
    path : str or Path
        A folder that does not exist yet. It is there when all is written; until then a hidden one lies beside it.

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
    files = []
    with _whole_folder(path) as folder:
        rows = {quantity: store.rows(quantity) for quantity in QUANTITIES}
        for layer, name in group_names(store).items():
            for quantity in QUANTITIES:
                matrix = store.values(layer, quantity)
                kind = pyarrow.list_(pyarrow.float32(), matrix.shape[1])
                schema = pyarrow.schema(
                    [(field, pyarrow.int64()) for field in ROW_FIELDS] + [("values", kind)], metadata={"layer": layer}
                )
                files.append(Path(path) / f"{name}.{quantity}.parquet")
                with parquet.ParquetWriter(folder / files[-1].name, schema) as writer:
                    for part, block in matrix.placed_blocks(_BLOCK):
                        columns: list[Any] = [np.ascontiguousarray(rows[quantity][field][part]) for field in ROW_FIELDS]
                        flat = pyarrow.array(block.reshape(-1))
                        values = pyarrow.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
                        writer.write_table(pyarrow.table([*map(pyarrow.array, columns), values], schema=schema))
    return files


def group_names(store: ReferenceStore) -> dict[str, str]:
    """Layer -> a name for it in a file system, which differs from all others also where upper and lower case do not."""
    folded = [layer.casefold() for layer in store.layers]
    keys = {store.entry(layer).key.casefold() for layer in store.layers}

    def has_own_name(layer: str) -> bool:
        name = layer.casefold()
        return _is_plain(layer) and folded.count(name) == 1 and name not in keys

    return {layer: layer if has_own_name(layer) else store.entry(layer).key for layer in store.layers}


def _is_plain(layer: str) -> bool:
    letters = layer.replace("_", "").replace(".", "").replace("-", "")
    return layer.isascii() and letters.isalnum() and layer[0].isalnum() and layer[-1] != "." and len(layer) <= 100


@contextmanager
def _whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write to, which is found at a path when all has gone well, and removed otherwise."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path} exists already: choose another place for the copy")
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path.parent) as parent:
        remove_ended(parent, re.escape(path.name))
        with temporary(parent, path.name) as unfinished:
            unfinished.make("copy").close()
            yield unfinished.path / "copy"
            try:
                unfinished.rename("copy", parent, path.name)
            except OSError as error:
                raise StoreError(f"{path} cannot be put in its place: {error.strerror}") from error
