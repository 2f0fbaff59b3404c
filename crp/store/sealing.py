"""Finishing a store: tables derived from its shards, then the seal."""
from __future__ import annotations

from collections.abc import Collection

from crp.store.folder import Folder, StoreError
from crp.store.place import SEAL, Place, place_with
from crp.store.reader import ReferenceStore
from crp.store.records import record_bytes
from crp.store.runs import is_alone
from crp.store.schema import entries_of, range_of
from crp.store.shards import contents_of, is_shard_name, read_shards
from crp.store.tables import merge_tables, write_tables
from crp.store.temporaries import discard, locked, remove_ended, remove_free_lock, temporary


def seal_store(place: Place, parts: Collection[tuple[int, int]] | None = None) -> None:
    """Derive the tables from the shards and mark the store complete, if that has not been done.

    Parameters
    ----------
    place : Place
    parts : collection of (int, int), optional
        The shards that it consists of, as ranges of samples; by default all that are there.

    Raises
    ------
    StoreError
        If there is no shard, or one of other samples.
    """
    with place.removal_in_words(), place.open() as folder, locked(folder):
        if not folder.has(SEAL):
            _seal(place, folder, parts)
    tidy(place)


def _seal(place: Place, folder: Folder, parts: Collection[tuple[int, int]] | None) -> None:
    found = read_shards(place)
    shards = {name: record for name, (record, _) in found.items()}
    if not shards:
        place_with(place.path, place.manifest_hash)  # it is there still
        raise StoreError(f"{place.path} holds no finished shard")
    expected = None if parts is None else set(parts)
    foreign = [record for record in shards.values() if expected is not None and range_of(record) not in expected]
    if foreign:
        raise StoreError(
            f"{place.path} also holds samples {foreign[0].first} to {foreign[0].stop - 1} of another run, so it was "
            "not finished: choose another path, or crp merge with all samples"
        )
    samples, skipped = contents_of(shards)
    with temporary(folder, "seal") as unfinished:
        with unfinished.make("tables") as tables:
            store = ReferenceStore.unsealed(place, shards)
            if store.options["keep"] == "top":
                merge_tables(store, shards, tables)
            else:
                write_tables(store, tables)
            entries = entries_of(tables)
            tables.sync()
        unfinished.write(SEAL, record_bytes({
            "manifest": place.manifest_hash, "samples": samples, "skipped": skipped,
            "shards": {name: digest for name, (_, digest) in found.items()}, "tables": entries,
        }))
        place_with(place.path, place.manifest_hash)  # it is there still
        if folder.has(SEAL):  # where there are no locks
            return
        folder.remove("tables")
        unfinished.rename("tables", folder, "tables")
        folder.sync()
        unfinished.rename(SEAL, folder, SEAL)
    folder.sync()


def tidy(place: Place) -> None:
    """Remove from a finished store what is not part of it: shards that were merged or came late, what runs left.

    Shards that were merged stay as long as runs go on; the last one removes them.
    """
    seal, _ = place.seal()
    with place.open() as folder:
        if folder.has("shards"):
            with folder.folder("shards") as shards:
                remove_ended(shards)
                for name in shards.names():
                    if is_shard_name(name) and name not in seal.shards:
                        discard(shards, name)
            if place.manifest.settings.options.keep == "top" and is_alone(folder, "run"):
                discard(folder, "shards")
        remove_ended(folder)
        remove_free_lock(folder)
