"""What the records of a store may say: the manifest, the seal, the records of shards and of patterns.

Each is described once, with bounds for every name, number and list, and holds nothing else.
"""
from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError, model_validator

from crp.store.files import Keep, MatrixType, RowKind, Statistic
from crp.store.folder import Folder, StoreError, reading_errors
from crp.store.records import file_hash, read_record

Format: TypeAlias = Literal["crp-store"]
FormatVersion: TypeAlias = Literal[2]
(FORMAT,), (FORMAT_VERSION,) = get_args(Format), get_args(FormatVersion)
LONGEST_REASON = 2 ** 10
MOST_SHARDS = MOST_SKIPPED = 2 ** 16
MOST_LAYERS = 2 ** 12
MOST_POSITIONS = 2 ** 31

Name = Annotated[str, StringConstraints(max_length=4096)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]{0,99}\.np[yz]$")]
ShardName = Annotated[str, StringConstraints(pattern=r"^(?:[0-9]{8}|[1-9][0-9]{8,18})$")]
Index = Annotated[int, Field(ge=0, lt=2 ** 63)]
Count = Annotated[int, Field(ge=1, lt=2 ** 31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Names = Annotated[list[Name], Field(max_length=2 ** 20)]
NameOf = Annotated[dict[Name, Name], Field(max_length=2 ** 20)]
SampleNumber = Annotated[str, StringConstraints(pattern=r"^(?:0|[1-9][0-9]{0,18})$")]
Reason = Annotated[str, StringConstraints(max_length=2 ** 16)]
SkippedSamples = Annotated[dict[SampleNumber, Reason], Field(max_length=MOST_SKIPPED)]
SweepFolder = Annotated[str, StringConstraints(pattern=r"^sweep-[0-9a-f]{16}-[01]$")]


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, serialize_by_alias=True)


class FileEntry(_Description):
    """Size and sha256 of a file."""

    bytes: Index
    sha256: Sha256


FileEntries = Annotated[dict[FileName, FileEntry], Field(max_length=2 ** 20)]


class ConceptEntry(_Description):
    """The kind of a layer's concepts: the name of its class, and a hash of what it was made with."""

    class_name: Name = Field(alias="class")
    settings: Sha256


class LayerEntry(_Description):
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
    concept : ConceptEntry
        Class and fingerprint of the concept.
    """

    key: Annotated[str, StringConstraints(pattern=r"^L[0-9]{4,9}$")]
    name: Name
    concepts: Count
    position_shape: Annotated[tuple[Count, ...], Strict(False), Field(max_length=64)] | None
    concept: ConceptEntry

    @property
    def positions(self) -> int:
        """Number of positions of a concept; the largest possible where the concept does not know it."""
        return MOST_POSITIONS if self.position_shape is None else math.prod(self.position_shape)

    @property
    def has_positions(self) -> bool:
        """Whether positions are stored."""
        return self.positions > 1

    @model_validator(mode="after")
    def _can_number_positions(self) -> Self:
        if self.positions > MOST_POSITIONS:
            raise ValueError(f"a concept has at most {MOST_POSITIONS} positions")
        return self


class ModelEntry(_Description):
    """What tells a model from others: see ``crp.sweeps.model_fingerprint`` and ``crp.sweeps.model_answers``.

    Stores of before have neither ``private`` nor ``answers``.
    """

    class_name: Name = Field(alias="class")
    modules: Sha256
    weights: Sha256
    code: Sha256
    modules_in_training_mode: Index = Field(alias="modules in training mode")
    attributes: NameOf
    hooks: NameOf
    passing: Names
    private: NameOf | None = None
    answers: Annotated[list[Number], Field(min_length=1, max_length=32)] | None = None


class AttributionEntry(_Description):
    """Class and arguments of an attribution."""

    class_name: Name = Field(alias="class")
    output: Sha256
    functional: Literal[False, "attnlrp", "cp-lrp", "cp-lrp-gates"]
    accelerate: bool
    no_param_grad: bool
    attributes: Sha256
    code: Sha256
    start_layer: Name | None = None
    y: Sha256 | None = None


class DatasetEntry(_Description):
    """Length of a dataset, and hashes of a few samples; None for what differs each time that it is read."""

    length: Count
    samples: Sha256 | None
    targets: Sha256 | None
    positions: Sha256 | None = None


class CompositeEntry(_Description):
    """What the rules of a composite do: see ``crp.sweeps.rule_fingerprint``."""

    class_name: Name = Field(alias="class")
    rules: NameOf
    operations: NameOf
    canonizers: Names


class Options(_Description):
    """The options of a sweep."""

    max_target: Statistic
    batch_size: Count
    checkpoint: Count
    keep: Keep
    dtype: MatrixType
    rows: RowKind = "samples"


class Settings(_Description):
    """Everything that decides what a store holds."""

    model: ModelEntry
    attribution: AttributionEntry
    dataset: DatasetEntry
    composite: CompositeEntry
    options: Options
    layers: Annotated[list[LayerEntry], Field(min_length=1, max_length=MOST_LAYERS)]

    @model_validator(mode="after")
    def _tell_layers_apart(self) -> Self:
        for field in ("key", "name"):
            if len({getattr(layer, field) for layer in self.layers}) < len(self.layers):
                raise ValueError(f"two layers have the same {field}")
        return self


class Environment(_Description):
    """What values depend on by rounding: versions, the kind of device, the number of threads."""

    python: Name
    crp: Name = Field(alias="crp-concepts")
    torch: Name
    zennit: Name
    numpy: Name
    device: Name
    threads: Count


class Manifest(_Description):
    """``manifest.json``: what a store was made with, and the folder in it that holds the rest, if there is one."""

    format: Format
    version: FormatVersion
    folder: SweepFolder | None = None
    made_with: Environment
    settings: Settings

    def content(self) -> dict[str, Any]:
        """What the record holds."""
        return self.model_dump(mode="json", exclude={"folder"} if self.folder is None else None)


class _Range(_Description):
    first: Index
    stop: Index

    @model_validator(mode="after")
    def _is_ascending(self) -> Self:
        if self.first >= self.stop:
            raise ValueError("a range of samples ends after it begins")
        return self


class RowCounts(_Description):
    """Rows of a shard by quantity."""

    relevance: Index
    activation: Index


class ShardRecord(_Range):
    """``shard.json``: samples, rows and files of a shard, and the hash of the manifest that it belongs to."""

    rows: RowCounts
    skipped: SkippedSamples
    notes: Names
    manifest: Sha256
    files: FileEntries

    @model_validator(mode="after")
    def _accounts_for_samples(self) -> Self:
        if not all(self.first <= int(sample) < self.stop for sample in self.skipped):
            raise ValueError("samples that were skipped are of the shard")
        if self.rows.activation < self.stop - self.first - len(self.skipped):
            raise ValueError("activation has a row, or several, for each sample that was not skipped")
        return self


class Seal(_Description):
    """``seal.json``: the samples of a store, and the hashes of all that it consists of."""

    manifest: Sha256
    samples: Annotated[list[Annotated[list[Index], Field(min_length=2, max_length=2)]], Field(max_length=2 ** 20)]
    skipped: SkippedSamples
    shards: Annotated[dict[ShardName, Sha256], Field(min_length=1, max_length=MOST_SHARDS)]
    tables: FileEntries

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        ends = [0, *(end for samples in self.samples for end in samples)]
        if any(first >= stop for first, stop in self.samples) or ends != sorted(ends):
            raise ValueError("ranges of samples follow each other, and each ends after it begins")
        return self


class RunNote(_Description):
    """What a run leaves while it goes on: its samples, whether it finishes the store by itself, and where it runs."""

    first: Index
    stop: Index
    finishes: bool
    process: Index
    host: Name

    def is_at_odds_with(self, other: RunNote) -> bool:
        """Whether one of two runs would finish the store without the samples of the other."""
        return (self.finishes or other.finishes) and (self.first, self.stop) != (other.first, other.stop)


class PatternsRecord(_Description):
    """The record beside a file of patterns: its name, size and hash."""

    files: Annotated[FileEntries, Field(min_length=1, max_length=1)]


def range_of(record: ShardRecord) -> tuple[int, int]:
    """The samples of a shard: (first, stop)."""
    return record.first, record.stop


def join_ranges(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Put consecutive ranges together."""
    joined: list[list[int]] = []
    for first, stop in ranges:
        if joined and joined[-1][1] == first:
            joined[-1][1] = stop
        else:
            joined.append([first, stop])
    return joined


_Kind = TypeVar("_Kind", bound=_Description)


def checked(kind: type[_Kind], content: dict[str, Any], path: Path) -> _Kind:
    """What a record says, in the form of its kind; a StoreError names what it cannot say."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ascii(".".join(map(str, found["loc"])) or "as a whole")[1:-1][:200]
        raise StoreError(
            f"{path} is damaged, it holds something impossible: {where}: {found['msg']}, not "
            f"{ascii(reprlib.repr(found['input']))[1:-1]}"
        ) from None


def read_patterns_record(folder: Folder, name: str) -> PatternsRecord:
    """The record beside a file of patterns.

    Raises
    ------
    StoreError
        If there is none, or what it says cannot be.
    """
    content, _ = read_record(folder, name, "patterns have no record")
    return checked(PatternsRecord, content, folder.path / name)


def check_file(file: BufferedReader, path: Path, entry: FileEntry) -> None:
    """Raise a StoreError if a file that is open is not what its entry says."""
    try:
        size = os.fstat(file.fileno()).st_size
        if size != entry.bytes:
            raise StoreError(f"{path} is damaged: it has {size} bytes, not {entry.bytes}")
        if file_hash(file) != entry.sha256:
            raise StoreError(f"{path} is damaged: its bytes have changed")
    except OSError as error:
        raise reading_errors(error, path) from error


def entries_of(folder: Folder) -> dict[str, dict[str, Any]]:
    """Entries of the arrays in a folder, as records hold them."""
    return {name: entry_of(folder, name).model_dump() for name in folder.names() if name.endswith(".npy")}


def entry_of(folder: Folder, name: str) -> FileEntry:
    """The entry of a file as it is."""
    with folder.read(name) as file:
        return FileEntry(bytes=os.fstat(file.fileno()).st_size, sha256=file_hash(file))
