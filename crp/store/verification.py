"""Is a store what its sweep wrote? All is read as readers do, and every byte compared with the hashes of records."""
from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from crp.store.attached import ATTACHED
from crp.store.files import QUANTITIES
from crp.store.folder import DEEPEST_FOLDER, Folder, StoreError, opened, walk
from crp.store.legacy import is_results_name
from crp.store.place import MANIFEST, PARTS, SEAL, SHARD, Place, is_sweep_folder, place_of_store
from crp.store.reader import ReferenceStore
from crp.store.schema import FileEntry, ShardRecord, check_file, read_patterns_record
from crp.store.shards import finished_shards, shard_names
from crp.store.stored_arrays import StoredArray
from crp.store.tables import check_tables_of_shard
from crp.store.temporaries import LOCK, is_temporary


def verify(path: str | Path) -> list[str]:
    """Find what is damaged, missing or does not belong in the folder of a store.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of str
        What is wrong; empty for a store that is sound, be it finished or not.
    """
    return _Verification(Path(path)).problems


class _Verification:
    def __init__(self, path: Path):
        self.path: Path = path
        self.problems: list[str] = []
        self.is_told = True  # whether records tell what belongs to the store
        try:
            with opened(path) as folder:
                present = list(walk(folder))  # before records are read: a run that goes on may add to both
        except FileNotFoundError:
            present = []
        self.known: set[tuple[str, ...]] = {(MANIFEST,)}
        place = self._attempt(place_of_store, path)
        if place is None:
            return  # which tells what all else is
        self._check(place)
        for names, status in sorted(present):
            self._look_at(place, names, status)

    def _check(self, place: Place) -> None:
        self.place, self.within = place, () if place.manifest.folder is None else (place.manifest.folder,)
        is_sealed = self._attempt(place.is_sealed)
        shards: Collection[str] = ()
        if is_sealed:
            self._know(SEAL)
            sealed = self._attempt(place.seal)
            self.is_told = sealed is not None
            if sealed is None:
                shards = self._attempt(shard_names, place) or ()
            else:
                shards = sealed[0].shards if place.manifest.settings.options.keep == "all" else ()
                self._check_arrays(("tables",), sealed[0].tables, place.tables)
        else:
            shards = self._attempt(shard_names, place) or ()
        for name in shards:
            self._check_shard(name, sealed[0].shards[name] if is_sealed and sealed else None)
        if not self.problems:
            self._attempt(_read_as_readers_do, place)
        self._attempt(self._check_patterns)

    def _check_shard(self, name: str, sealed_hash: str | None) -> None:
        found = self._attempt(self.place.shard, name)
        if found is None:
            self.is_told = False
            return
        record, digest = found
        self._know("shards", name, SHARD)
        if sealed_hash not in (None, digest):
            self.problems.append(f"{self.place.folder / 'shards' / name} is not the shard that was sealed")
        self._check_arrays(("shards", name), record.files, self.place.arrays_of_shard, record)

    def _check_arrays(
        self, folder: tuple[str, ...], files: Mapping[str, FileEntry], kinds: Mapping[str, tuple],
        record: ShardRecord | None = None,
    ) -> None:
        for file_name, entry in files.items():
            self._know(*folder, file_name)
            name = file_name.removesuffix(".npy")
            dtype, shape = kinds[name]
            if record is not None and kinds is self.place.matrices:
                shape = self.place.shape_in(record, name)
            self._attempt(StoredArray, self.place, folder, name, dtype, shape, entry)

    def _check_patterns(self) -> None:
        with self.place.open() as folder:
            if not folder.has(ATTACHED):
                return
            with folder.folder(ATTACHED) as patterns:
                for name in patterns.names():
                    if name.endswith(".json"):
                        self._know(ATTACHED, name)
                        record = self._attempt(read_patterns_record, patterns, name)
                        for file_name, entry in {} if record is None else record.files.items():
                            self._know(ATTACHED, file_name)
                            self._attempt(_check_in, patterns, file_name, entry)

    def _look_at(self, place: Place, names: tuple[str, ...], status: os.stat_result) -> None:
        """Say what is wrong with something in the folder that no record names, or that is neither file nor folder."""
        path = place.path.joinpath(*names)
        if any(is_temporary(name) for name in names[:-1]):
            return
        if is_temporary(names[-1]):
            self.problems.append(f"{path} was left by a run that has ended, or one is running; the next removes it")
        elif is_sweep_folder(names[0]) and names[0] != place.manifest.folder:
            if len(names) == 1:
                self.problems.append(
                    f"{path} is of a run with overwrite=True that has not finished: run it again, or delete the folder"
                )
        elif self.within and names[0] in PARTS:
            if len(names) == 1:
                self.problems.append(f"{path} was left by a sweep that has been replaced; the next run removes it")
        elif len(names) == DEEPEST_FOLDER and stat.S_ISDIR(status.st_mode):
            self.problems.append(f"{path} does not belong to the store, and is too deep to be looked into")
        elif not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            self.problems.append(f"{path} is neither file nor folder")
        elif is_results_name(names[0]):
            pass  # views of the store, and no part of it
        elif stat.S_ISREG(status.st_mode) and names not in self.known and names[-1] != LOCK and self.is_told:
            self.problems.append(f"{path} does not belong to the store")

    def _know(self, *names: str) -> None:
        self.known.add((*self.within, *names))

    def _attempt(self, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except StoreError as error:
            self.problems.append(str(error))
            return None


def _read_as_readers_do(place: Place) -> None:
    """Read all that is checked when it is read: whether rows and tables are of the samples that records say."""
    keeps_matrices = place.manifest.settings.options.keep == "all"
    if not place.is_sealed():
        shards = finished_shards(place)
        if keeps_matrices and shards:
            _read_matrices(ReferenceStore.unsealed(place, shards))
        elif not keeps_matrices:
            for name, record in shards.items():
                check_tables_of_shard(place, name, record)
        return
    store = ReferenceStore.at(place)
    if keeps_matrices:
        _read_matrices(store)
    for quantity in QUANTITIES:
        for layer in store.layers:
            if store.options["keep"] == "top":
                store.profile_of_classes(layer, quantity)
            for statistic in store.statistics:
                for normalised in (False, True):
                    store.table(layer, quantity, statistic=statistic, normalised=normalised)


def _read_matrices(store: ReferenceStore) -> None:
    for quantity in QUANTITIES:
        store.rows(quantity)
        for layer in store.layers:
            for _ in store.positions(layer, quantity).blocks():
                pass


def _check_in(folder: Folder, name: str, entry: FileEntry) -> None:
    path = folder.path / name
    try:
        with folder.read(name) as file:
            check_file(file, path, entry)
    except OSError as error:
        raise StoreError(f"{path} is missing or cannot be read: {error.strerror}") from error
