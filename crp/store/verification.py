"""Is a store what its sweep wrote? Every byte of it is compared with the hashes that its records hold."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from crp.store.records import StoreError, file_hash, paths_below
from crp.store.schema import check_file, read_manifest, read_patterns_record, read_seal, read_shard_record


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
        self.path, self.problems = path, []
        present = sorted(paths_below(path))  # before records are read: a run that goes on may add to both
        self.known = {path / "manifest.json"}
        manifest = self._attempt(read_manifest, path)
        if manifest is None:
            return  # which tells what all else is
        self.manifest_hash = file_hash(path / "manifest.json")
        has_seal = (path / "seal.json").exists()
        seal = self._attempt(read_seal, path) if has_seal else None
        if has_seal:
            self.known.add(path / "seal.json")
        if seal is not None:
            is_same = seal.manifest == self.manifest_hash
            self._expect(is_same, f"{path / 'manifest.json'} is not that of the sweep that was sealed")
            self._check_files(path / "tables", seal.tables)
        keeps_shards = manifest.settings.options.keep == "all" or not has_seal
        if seal is None:
            shards = dict.fromkeys(folder.name for folder in sorted((path / "shards").glob("[0-9]*")))
        else:
            shards = seal.shards if keeps_shards else {}
        for name, sealed_hash in shards.items():
            self._check_shard(path / "shards" / name, sealed_hash)
        for record in sorted((path / "patterns").glob("*.json")):
            self.known.add(record)
            self._check_files(path / "patterns", self._attempt(read_patterns_record, record) or {})
        for file in present:
            if file.name.startswith("."):
                self.problems.append(f"{file} was left by a run that has ended, or one is running; the next removes it")
            elif (file.is_symlink() or not file.is_dir()) and file not in self.known:
                if not any(part.startswith(".") for part in file.relative_to(path).parts):
                    self.problems.append(f"{file} does not belong to the store")

    def _check_shard(self, folder: Path, sealed_hash: str | None) -> None:
        record = self._attempt(read_shard_record, folder)
        if record is None:
            return
        self.known.add(folder / "shard.json")
        self._expect(record.manifest == self.manifest_hash, f"{folder} belongs to a sweep with another manifest")
        if sealed_hash is not None:
            self._expect(
                file_hash(folder / "shard.json") == sealed_hash, f"{folder} is not the shard that was sealed"
            )
        self._check_files(folder, record.files)

    def _check_files(self, folder: Path, files: dict[str, Any]) -> None:
        for name, described in files.items():
            self.known.add(folder / name)
            self._attempt(check_file, folder / name, described)

    def _attempt(self, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except StoreError as error:
            self.problems.append(str(error))
            return None

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.problems.append(otherwise)
