"""What the commands answer: one description per command, from which its JSON and its schema are made."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def _finite(number: float | None) -> float | None:
    return float(number) if number is not None and math.isfinite(number) else None


def _encodable(text: object) -> str:
    return str(text).encode("utf-8", "replace").decode("utf-8")


Number = Annotated[float | None, BeforeValidator(_finite)]
Text = Annotated[str, BeforeValidator(_encodable)]
File = Annotated[Path, PlainSerializer(_encodable, return_type=str)]


class Part(BaseModel):
    """A part of an answer. Numbers that are not finite are null in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Answer(Part):
    """What a command answers."""

    def in_words(self) -> list[str]:
        """The lines that are printed without ``--json``."""
        raise NotImplementedError

    def as_json(self) -> str:
        """One line of ASCII, so that no terminal obeys it."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False)

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if something is wrong."""
        return 0


class Failure(Answer):
    """What is printed with ``--json`` where a command cannot answer."""

    error: Text
    """What is wrong, in words; the same goes to standard error."""
    code: int
    """The exit code: 1 if something is wrong, 2 for arguments that make no sense, 130 if interrupted."""

    @property
    def exit_code(self) -> int:
        """As told."""
        return self.code


class DemoPage(Answer):
    """What `crp demo` made."""

    page: File
    """The page to open in a browser."""
    store: File
    """Folder of the store, for the other commands."""
    accuracy: Number
    """Share of the held-out digits that the network reads correctly."""
    layer: str
    """The layer that is shown."""
    concepts: list[int]
    """The concepts that are shown, the most relevant first."""

    def in_words(self) -> list[str]:
        """Where to look."""
        return [
            f"pictures are in {self.page.parent}; open {self.page}",
            f"with heatmaps and experiments: crp explore crp.demo.digits:digit_sweep --store {self.store}",
            f"look around in a browser: crp explore {self.store}",
        ]


class StoreInfo(Answer):
    """What a store holds, finished or not."""

    store: File
    """Folder of the store."""
    finished: bool
    """Whether it has all its shards and tables."""
    samples: int
    """How many samples were swept."""
    ranges: list[list[int]]
    """Which: the first of each range, and the one after its last."""
    of: int
    """How many samples the dataset has."""
    shards: int
    """How many shards are there."""
    skipped: dict[str, str]
    """Samples that were left out -> why."""
    notes: list[str]
    """What is unusual."""
    layers: dict[str, int]
    """Layer -> how many concepts it has."""
    bytes: int
    """Size on the disk."""
    model: str
    """Class of the model."""
    composite: str
    """Class of the composite."""
    options: dict[str, Any]
    """Options of the sweep."""
    made_with: dict[str, Any]
    """Versions of what made it."""

    def in_words(self) -> list[str]:
        """Line by line."""
        ranges = ", ".join(f"{first} to {stop - 1}" for first, stop in self.ranges[:6])
        ranges += f" and {len(self.ranges) - 6} more ranges" if len(self.ranges) > 6 else ""
        return [
            f"{self.store}: {'finished' if self.finished else 'not finished'}",
            f"samples: {self.samples:,} of {self.of:,}" + (f" ({ranges})" if ranges else ""),
            f"skipped: {len(self.skipped)}", *(f"  {i}: {why}" for i, why in self.skipped.items()),
            f"layers: {_counted(self.layers)}",
            f"size: {_size(self.bytes)} in {self.shards} shards",
            f"model: {self.model}; composite: {self.composite}",
            f"options: {', '.join(f'{name} {value}' for name, value in self.options.items())}",
            *(f"note: {note}" for note in self.notes),
        ]


class Estimate(Answer):
    """What a sweep would take (`--dry-run`)."""

    store: File
    """Folder of the store."""
    samples: int
    """How many samples would be swept."""
    shards: int
    """How many shards would be written."""
    shards_of_all: int
    """How many shards the whole sweep has."""
    layers: dict[str, int]
    """Layer -> how many concepts it has."""
    concepts: int
    """How many concepts all layers have."""
    bytes: int
    """Size of the matrices."""
    free_bytes: int
    """Space that is free on the disk."""
    seconds: Number
    """Time in one process, by one batch."""

    def in_words(self) -> list[str]:
        """Line by line."""
        return [
            f"store: {self.store}", f"samples: {self.samples:,}",
            f"shards: {self.shards} of {self.shards_of_all}",
            f"concepts: {self.concepts:,} in {_counted(self.layers)}",
            f"space: {_size(self.bytes)} of {_size(self.free_bytes)} that are free",
            f"time: about {_duration(self.seconds or 0)} in one process, by one batch",
        ]


class Verification(Answer):
    """Whether a store is whole: what `crp verify` found."""

    store: File
    """Folder of the store."""
    sound: bool
    """Whether every byte is as its records say."""
    problems: list[Text]
    """What is damaged, missing or does not belong there; the exit code is 1 if anything is."""

    def in_words(self) -> list[str]:
        """The problems, or that there are none."""
        return self.problems or [f"{self.store} is sound"]

    @property
    def exit_code(self) -> int:
        """1 if there is a problem."""
        return 0 if self.sound else 1


class Export(Answer):
    """What was copied for other programs."""

    folder: File
    """Where it is."""
    written: list[str]
    """Groups of the layers in a Zarr folder, or files."""

    def in_words(self) -> list[str]:
        """What was written, a line each."""
        return self.written


class Explored(Answer):
    """What was served to browsers, or copied for them."""

    stores: list[File]
    """Folders of the stores."""
    address: str | None
    """Where they were served, until that was ended; null for a copy."""
    written: list[str]
    """The page of a copy, to be opened."""
    bytes: int
    """How large the copy is."""

    def in_words(self) -> list[str]:
        """What to open."""
        return [f"open {page}" for page in self.written] or [f"ended: {self.address}"]


class Fault(Part):
    """An operation that creates or loses relevance."""

    operation: str
    """What it computes."""
    module: str
    """The module in which it is."""
    arriving: Number
    """Relevance that arrives at it."""
    imbalance: Number
    """Relevance that it creates (positive) or loses."""


class Conservation(Answer):
    """Whether relevance is conserved on its way from output to input. All numbers are in units of the output's."""

    samples: int
    """How many samples were audited."""
    model: str
    """Class of the model."""
    composite: str
    """Class of the composite."""
    conserved: bool
    """Whether no operation creates or loses relevance and the books close; the exit code is 1 if not."""
    total: Number
    """Relevance of the input."""
    accounted: Number
    """Relevance of the input and of the sinks together: 1 where it is conserved."""
    sinks: dict[str, Number]
    """Relevance that went to no input (biases, parameters ...), by kind."""
    faults: list[Fault]
    """Operations that create or lose relevance, the largest amounts first."""
    notes: list[str]
    """What is unusual in the structure of the model."""
    table: list[str]
    """The audit in words, a line each."""

    def in_words(self) -> list[str]:
        """The audit as a table."""
        return self.table

    @property
    def exit_code(self) -> int:
        """1 if relevance is not conserved."""
        return 0 if self.conserved else 1


def _counted(layers: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in layers.items())


def _size(count: float) -> str:
    power = min(int(math.log10(max(count, 1)) / 3), 4)
    return f"{count / 1000 ** power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.3g} s" if seconds < 100 else f"{minutes:.3g} minutes" if minutes < 100 else f"{hours:.3g} hours"
