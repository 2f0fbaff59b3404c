"""What the records of a store say: the manifest, the seal, the records of shards and of patterns."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crp.store.records import StoreError, read_record

FORMAT = "crp-store"
FORMAT_VERSION = 2
QUANTITIES = ("relevance", "activation")
TABLE_DEPTH = 40
ROW_DTYPE = np.dtype([("sample", "<i8"), ("target", "<i8"), ("position", "<i8"), ("prediction", "<i8")])
TABLE_DTYPE = np.dtype([("row", "<i8"), ("sample", "<i8"), ("position", "<i4"), ("value", "<f4")])
MATRIX_OF = {"sum": "value", "max": "maximum"}
TOTAL_OF = {"sum": "total", "max": "maximum_total"}
KEPT = ("all", "top")
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class LayerEntry:
    """A layer in a store.

    Attributes
    ----------
    key : str
        Short name of its files.
    name : str
        Name of the layer in the model.
    concepts : int
        Number of concepts.
    position_shape : tuple of int or None
        Shape of the positions of a concept; None where the concept does not know it.
    concept : dict
        Class and fingerprint of the concept.
    """

    key: str
    name: str
    concepts: int
    position_shape: tuple[int, ...] | None
    concept: dict

    @property
    def has_positions(self) -> bool:
        """Whether positions are stored."""
        return self.position_shape is None or int(np.prod(self.position_shape)) > 1

    def to_json(self) -> dict:
        """As the manifest holds it."""
        shape = None if self.position_shape is None else list(self.position_shape)
        return {"key": self.key, "name": self.name, "concepts": self.concepts, "position_shape": shape,
                "concept": self.concept}

    @classmethod
    def from_json(cls, entry: dict) -> LayerEntry:
        """From the manifest."""
        key, name, concepts, shape = (entry[field] for field in ("key", "name", "concepts", "position_shape"))
        is_possible = (
            isinstance(name, str) and re.fullmatch(r"L\d{4,9}", key) and _is_count(concepts)
            and (shape is None or isinstance(shape, list) and all(map(_is_count, shape)))
        )
        if not is_possible:
            raise StoreError(f"the manifest holds an impossible layer: {str(entry)[:200]}")
        return cls(key, name, concepts, None if shape is None else tuple(shape), entry["concept"])


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 2 ** 31


def table_name(key: str, quantity: str, statistic: str, normalised: bool) -> str:
    """Name of the file with the top rows of a layer."""
    return f"{key}.{quantity}.{MATRIX_OF[statistic]}" + ("_normalised" if normalised else "")


def class_sum_name(key: str, quantity: str) -> str:
    """Name of the file with the sums of each class."""
    return f"{key}.{quantity}.class_sum"


def stored_statistics(max_target: str) -> list[str]:
    """The statistics over positions that a sweep writes: always the sum, the maximum when asked for."""
    return ["sum"] if max_target == "sum" else ["sum", "max"]


def is_store(path: str | Path) -> bool:
    """Whether a folder holds a store, finished or not."""
    return (Path(path) / "manifest.json").is_file()


def is_sealed(path: str | Path) -> bool:
    """Whether a folder holds a store whose sweep has finished."""
    return is_store(path) and (Path(path) / "seal.json").is_file()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a store.

    Raises
    ------
    StoreError
        If there is none, or it is of another format.
    """
    manifest = read_record(Path(path) / "manifest.json", "there is no store: make one with FeatureVisualization.run")
    if manifest.get("format") != FORMAT or manifest.get("version") != FORMAT_VERSION:
        raise StoreError(f"{path}: manifest.json is not of the format {FORMAT} version {FORMAT_VERSION}")
    read_layers(manifest)
    return manifest


def read_seal(path: str | Path) -> dict[str, Any]:
    """The seal of a store.

    Raises
    ------
    StoreError
        If there is none, or what it says cannot be.
    """
    seal = read_record(Path(path) / "seal.json", "its sweep has not finished: call run or collect_results")
    try:
        if not seal["shards"] or not all(re.fullmatch(r"\d{8,}", shard) for shard in seal["shards"]):
            raise StoreError(f"{path}: the seal names impossible shards")
        checked_files(seal["tables"], Path(path) / "seal.json")
        str(seal["manifest"])
        [range(first, stop) for first, stop in seal["samples"]]
        {int(sample): str(reason) for sample, reason in seal["skipped"].items()}
    except StoreError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StoreError(f"{path}: seal.json lacks what a seal says: {error!r}") from error
    return seal


def read_patterns_record(path: Path) -> dict[str, Any]:
    """What the record beside a file of patterns says of it."""
    record = read_record(path, "patterns have no record")
    return checked_files(record.get("files"), path)


def checked_files(files: Any, path: Path) -> dict[str, dict]:
    """Files as a record lists them.

    Raises
    ------
    StoreError
        If it names files elsewhere, or says something else.
    """
    if not isinstance(files, dict) or not all(
        Path(name).name == name and isinstance(described, dict) and {"bytes", "sha256"} <= set(described)
        for name, described in files.items()
    ):
        raise StoreError(f"{path} is damaged: it lists impossible files")
    return files


_SHARD_RECORD = {
    "manifest": str, "first": int, "stop": int, "rows": dict, "skipped": dict, "notes": list, "files": dict,
}


def read_shard_record(folder: Path) -> dict[str, Any]:
    """The record of a shard.

    Raises
    ------
    StoreError
        If there is none, or what it says cannot be.
    """
    record = read_record(folder / "shard.json", "the shard has no record")
    if not all(isinstance(record.get(name), kind) for name, kind in _SHARD_RECORD.items()):
        raise StoreError(f"{folder / 'shard.json'} is damaged: it lacks fields")
    if not all(isinstance(record["rows"].get(quantity), int) for quantity in QUANTITIES):
        raise StoreError(f"{folder / 'shard.json'} is damaged: it lacks numbers of rows")
    checked_files(record["files"], folder / "shard.json")
    return record


def read_layers(manifest: dict[str, Any]) -> list[LayerEntry]:
    """The layers that a manifest lists.

    Raises
    ------
    StoreError
        If what it says of them cannot be.
    """
    try:
        settings = manifest["settings"]
        _check_settings(manifest["made_with"], settings)
        return [LayerEntry.from_json(entry) for entry in settings["layers"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"the manifest lacks settings of a store: {error!r}") from error


def _check_settings(made_with: Any, settings: dict[str, Any]) -> None:
    described = [settings[name] for name in ("model", "attribution", "dataset", "composite", "options")]
    if not all(isinstance(item, dict) for item in (made_with, *described)):
        raise StoreError("the manifest does not describe what the store was made from")
    model, options, length = settings["model"], settings["options"], settings["dataset"]["length"]
    if options["keep"] not in KEPT or options["dtype"] not in DTYPES or options["max_target"] not in MATRIX_OF:
        raise StoreError(f"the manifest holds impossible options: {options}")
    names = made_with["python"], model["class"], *model["passing"], settings["composite"]["class"]
    if not all(isinstance(name, str) for name in names):
        raise StoreError(f"the manifest holds impossible names: {names}")
    if not _is_count(length):
        raise StoreError(f"the manifest holds an impossible length of the dataset: {length}")
