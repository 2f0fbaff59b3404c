"""Tables: the top rows of each concept, and the sums of each class, of a store or of one shard."""
from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from crp.store.contents import check_class_sums, check_classes, check_table
from crp.store.files import QUANTITIES, TABLE_DEPTH, TABLE_DTYPE, class_sum_name, stored_statistics, table_name
from crp.store.folder import Folder
from crp.store.matrix import sums_of_classes
from crp.store.npy import array_bytes
from crp.store.place import Place
from crp.store.reader import ReferenceStore
from crp.store.schema import ShardRecord
from crp.store.stored_arrays import StoredArray
from crp.store.topk import top_rows


def write_tables(store: ReferenceStore, folder: Folder) -> None:
    """Write the top rows of each concept of a store that has matrices."""
    for quantity in QUANTITIES:
        samples = store.rows(quantity)["sample"]
        for layer in store.layers:
            entry = store.entry(layer)
            positions = store.positions(layer, quantity)
            for statistic in stored_statistics(store.options["max_target"]):
                for normalised in (False, True):
                    matrix = store.values(layer, quantity, statistic=statistic, normalised=normalised)
                    rows, values = top_rows(matrix.blocks(), entry.concepts, TABLE_DEPTH)
                    table = np.empty(rows.shape, TABLE_DTYPE)
                    table["row"], table["sample"], table["value"] = rows, samples[rows], values
                    table["position"] = positions.take_columnwise(rows)
                    _save(folder, table_name(entry.key, quantity, statistic, normalised), table)


def write_class_sums(store: ReferenceStore, folder: Folder) -> None:
    """Write the sums of each class over the rows of a store that has matrices."""
    for quantity in QUANTITIES:
        classes, counts, membership = store.membership(quantity)
        _save(folder, f"{quantity}.class_count", counts)
        for layer in store.layers:
            sums = sums_of_classes(membership, store.values(layer, quantity))
            _save(folder, class_sum_name(store.entry(layer).key, quantity), sums)
    _save(folder, "classes", classes)


def merge_tables(store: ReferenceStore, shards: dict[str, ShardRecord], folder: Folder) -> None:
    """Write the tables and class sums of a store whose shards hold their own.

    Parameters
    ----------
    store : ReferenceStore
        Not sealed.
    shards : dict
        Name of each shard -> its record.
    folder : Folder
    """
    for shard, record in shards.items():
        check_tables_of_shard(store.place, shard, record)

    def of_shards(name: str) -> Iterator[np.ndarray]:
        for shard, record in shards.items():
            yield _table_of_shard(store.place, shard, record, name)[...].copy()

    classes_of_shards = list(of_shards("classes"))
    classes = np.unique(np.concatenate(classes_of_shards))
    _save(folder, "classes", classes)

    def added(name: str, zeros: np.ndarray) -> np.ndarray:
        for part, of_shard in zip(of_shards(name), classes_of_shards):
            zeros[np.searchsorted(classes, of_shard)] += part
        return zeros

    for quantity in QUANTITIES:
        _save(folder, f"{quantity}.class_count", added(f"{quantity}.class_count", np.zeros(len(classes), np.int64)))
        rows_before = np.cumsum([0, *(getattr(record.rows, quantity) for record in shards.values())])
        for layer in store.layers:
            entry = store.entry(layer)
            sums = class_sum_name(entry.key, quantity)
            _save(folder, sums, added(sums, np.zeros((len(classes), entry.concepts))))
            for statistic in stored_statistics(store.options["max_target"]):
                for normalised in (False, True):
                    name = table_name(entry.key, quantity, statistic, normalised)
                    _save(folder, name, _merged(of_shards(name), rows_before, entry.concepts))


def check_tables_of_shard(place: Place, shard: str, record: ShardRecord) -> None:
    """Raise a StoreError if a shard that keeps its tables alone holds some that cannot be."""
    def read(name: str) -> tuple[np.ndarray, str]:
        array = _table_of_shard(place, shard, record, name)
        return array[...], array.path

    classes, path = read("classes")
    settings = place.manifest.settings
    for quantity in QUANTITIES:
        check_classes(classes, read(f"{quantity}.class_count")[0], path)
        for entry in settings.layers:
            sums, path = read(class_sum_name(entry.key, quantity))
            check_class_sums(sums, classes, path)
            for statistic in stored_statistics(settings.options.max_target):
                for normalised in (False, True):
                    table, path = read(table_name(entry.key, quantity, statistic, normalised))
                    check_table(table, getattr(record.rows, quantity), record.first, record.stop, path)


def _table_of_shard(place: Place, shard: str, record: ShardRecord, name: str) -> StoredArray:
    return StoredArray(place, ("shards", shard), name, *place.tables[name], record.files[f"{name}.npy"])


def _merged(tables: Iterable[np.ndarray], rows_before: np.ndarray, concepts: int) -> np.ndarray:
    """The top of the tables of consecutive rows; on ties the lower row comes first."""
    best = np.empty((concepts, 0), TABLE_DTYPE)
    for table, before in zip(tables, rows_before):
        table["row"] += before
        joined = np.concatenate([best, table], 1)
        order = np.argsort(-joined["value"], axis=1, kind="stable")[:, :TABLE_DEPTH]
        best = np.take_along_axis(joined, order, 1)
    return best


def _save(folder: Folder, name: str, array: np.ndarray) -> None:
    folder.write(f"{name}.npy", array_bytes(array))
