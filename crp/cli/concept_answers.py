"""What the commands answer about the concepts of a layer."""
from __future__ import annotations

from crp.cli.answers import Answer, File, Number, Part
from crp.pictures.words import in_words, percent


class OfLayer(Answer):
    """What all these answers begin with."""

    store: File
    """Folder of the store."""
    layer: str
    """The layer."""
    quantity: str
    """Which values: relevance or activation."""


class ClassPortion(Part):
    """A class, and what a concept has to do with it."""

    target: int
    """Number of the class."""
    name: str
    """Its name, or its number where no names are given."""
    samples: int
    """How many samples it has."""
    share: Number
    """The part of the layer that the concept holds in this class."""
    portion: Number
    """The part of the concept that this class holds; all classes count alike. Null for dead concepts."""


class RankedConcept(Part):
    """A concept and how much it matters."""

    concept: int
    """Concept id."""
    share: Number
    """The part of the layer that it holds, with its sign."""
    clarity: Number
    """How few classes it serves: from 0 (all alike) to 1 (a single one). Null for dead concepts."""
    serves: list[str]
    """The classes that hold most of it, at most three, the strongest first."""
    portion: Number
    """The part of it that these classes hold together."""


class Concepts(OfLayer):
    """The concepts of a layer that matter most: in all classes, in one, or in one sample."""

    target: int | None
    """The class, if one was asked for."""
    sample: int | None
    """The sample, if one was asked for."""
    of: int
    """How many concepts the layer has."""
    concepts: list[RankedConcept]
    """Those with the largest shares, the largest first; on ties, the lower id."""
    dead: list[int]
    """Concepts that are zero in every class."""

    def in_words(self) -> list[str]:
        """A line per concept."""
        of = "" if self.sample is None else f" of sample {self.sample}"
        of += "" if self.target is None else f" of class {self.target}"
        return [
            f"{self.layer}: {len(self.concepts)} of {self.of} concepts, by their share of the {self.quantity}{of}",
            *(f"concept {c.concept:4d}  {_percent(c.share):>4}  clarity {_number(c.clarity)}  {_served(c)}"
              for c in self.concepts),
            f"dead: {', '.join(map(str, self.dead)) or 'none'}",
        ]


class Classes(OfLayer):
    """The classes that a concept serves."""

    concept: int
    """Concept id."""
    share: Number
    """The part of the layer that it holds; all classes count alike."""
    clarity: Number
    """How few classes it serves: from 0 (all alike) to 1 (a single one). Null for dead concepts."""
    serves: list[str]
    """The classes that hold most of it, at most three, the strongest first."""
    portion: Number
    """The part of it that these classes hold together."""
    classes: list[ClassPortion]
    """All classes, the one that holds most of the concept first."""

    def in_words(self) -> list[str]:
        """A line per class."""
        return [
            f"concept {self.concept} of {self.layer} holds {_percent(self.share)} of the layer's {self.quantity}; "
            f"clarity {_number(self.clarity)}",
            _served(self),
            *(f"class {c.name}: {_percent(c.portion)} of the concept, {_percent(c.share)} of the layer"
              for c in self.classes),
        ]


class Reference(Part):
    """A reference sample."""

    sample: int
    """Its place in the dataset."""
    value: Number
    """The part of the layer that the concept holds in it."""
    position: list[int] | None
    """Where in the layer the concept is strongest; null where the layer has no positions."""
    targets: list[int] | None = None
    """The classes for which its relevance was computed; -1 stands for all outputs. Null in stores without matrices."""
    names: list[str] | None = None
    """Their names, or their numbers where no names are given."""


class References(OfLayer):
    """The samples at which a concept is strongest."""

    concept: int
    """Concept id."""
    target: int | None
    """The class, if one was asked for."""
    references: list[Reference]
    """The samples, the strongest first; on ties, the lower sample."""

    def in_words(self) -> list[str]:
        """A line per sample."""
        of = "" if self.target is None else f" of class {self.target}"
        return [
            f"concept {self.concept} of {self.layer}: its {len(self.references)} reference samples{of}, by "
            f"{self.quantity}",
            *(f"sample {r.sample}  {_percent(r.value)}{_of_classes(r.names)}"
              + ("" if r.position is None else f"  at {', '.join(map(str, r.position))}") for r in self.references),
        ]


class Pattern(Part):
    """A pattern."""

    pattern: int
    """Its number: 0 is the most persistent."""
    rows: int
    """How many rows belong to it."""
    persistence: Number
    """How long it lasts over the scales of density."""
    classes: dict[str, int]
    """Class -> how many of its rows have it. Empty where samples have several."""
    samples: list[int]
    """The samples that belong to it most firmly, at most eight."""


class PatternsOfLayer(Part):
    """The patterns of a layer."""

    layer: str
    """The layer."""
    rows: int
    """How many rows were clustered."""
    noise: int
    """How many of them belong to no pattern."""
    patterns: list[Pattern]
    """All patterns, the most persistent first."""
    counted: int
    """Of how many patterns, the most persistent first, the picture by class has a line."""
    drawn: int
    """Of how many patterns, the most persistent first, there is a picture of typical concepts."""
    pictures: list[File]
    """The pictures."""


class PatternsAnswer(Answer):
    """The patterns of layers: groups of samples to which a layer responds alike."""

    store: File
    """Folder of the store, in which the patterns are kept."""
    quantity: str
    """Which values: relevance or activation."""
    layers: list[PatternsOfLayer]
    """Layer by layer."""

    def in_words(self) -> list[str]:
        """A line per layer."""
        return [line for found in self.layers for line in _in_words(found)]


def _in_words(found: PatternsOfLayer) -> list[str]:
    first = f"{found.layer}: {len(found.patterns)} patterns of {found.rows} rows, {found.noise} rows in none"
    if not found.patterns:
        return [first]
    hint = "  a larger --min-pattern-size, or --method eom, leaves fewer rows in none"
    return [
        first,
        *([hint] if 2 * found.noise > found.rows else []),
        f"  pictures of the most persistent: classes of {found.counted} of {len(found.patterns)} patterns, typical "
        f"concepts of {found.drawn}",
        *(f"  {picture}" for picture in found.pictures),
    ]


class MapOfLayer(Part):
    """The topographic map of a layer."""

    layer: str
    """The layer."""
    channels: int
    """How many channels are on it."""
    picture: File
    """The picture: a map per class."""


class MapsAnswer(Answer):
    """Maps of layers: channels that serve the same classes lie side by side."""

    store: File
    """Folder of the store."""
    quantity: str
    """Which values: relevance or activation."""
    layers: list[MapOfLayer]
    """Topographic maps, layer by layer."""
    responses: dict[str, File]
    """Class -> picture of the response map of all layers."""

    def in_words(self) -> list[str]:
        """A line per picture."""
        return [
            *(f"{found.layer}: {found.channels} channels, a map per class: {found.picture}" for found in self.layers),
            *(f"all layers, class {name}: {picture}" for name, picture in self.responses.items()),
        ]


def _served(concept: RankedConcept | Classes) -> str:
    if not concept.serves:
        return "dead"
    return f"in {in_words(concept.serves)}: {_percent(concept.portion)} of it"


def _of_classes(names: list[str] | None) -> str:
    return f"  class {in_words(names)}" if names else ""


def _percent(part: float | None) -> str:
    return "-" if part is None else percent(part)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


