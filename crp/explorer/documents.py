"""What the explorer's server says: the specification of its answers. Arrays travel beside them, as raw numbers."""
from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Quantity: TypeAlias = Literal["relevance", "activation"]
PictureKind: TypeAlias = Literal["plain", "heatmap", "opaque", "crop"]
MOST_CONCEPTS, MOST_REFERENCES, MOST_SAMPLES = 64, 40, 512
MOST_TEXT = 4096


def _finite(value: Any) -> Any:
    """None for numbers that are not finite, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number: TypeAlias = Annotated[float | None, BeforeValidator(_finite)]
Text: TypeAlias = Annotated[str, Field(max_length=MOST_TEXT)]


class Document(BaseModel):
    """Base class of all answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Layer(Document):
    """A layer of a store."""

    name: str
    concepts: int
    positions: list[int]
    """Shape of the positions at which its concepts are read; empty if there are none."""
    patterns: list[Quantity]
    """Quantities of which the store keeps patterns."""
    trust: bool
    """Whether the store keeps a trust report."""


class Class(Document):
    """A class of the samples."""

    target: int
    name: str
    samples: int


class Check(Document):
    """What a trust report says of a layer in one respect."""

    name: str
    holds: bool | None
    sentence: str


class StoreDocument(Document):
    """What there is to explore in a store."""

    key: str
    """By which other requests name the store: the first digits of its identity."""
    name: str
    samples: int
    rows: dict[Quantity, int]
    """How many rows the matrices of each quantity have."""
    keep: Literal["all", "top"]
    of_positions: bool
    """Whether rows are positions of samples, such as tokens."""
    layers: list[Layer]
    classes: list[Class]
    has_labels: bool
    """Whether targets are told from predictions: they differ somewhere."""
    kind: Literal["pictures", "texts"]
    has_model: bool
    has_pictures: bool
    """Whether samples can be shown."""
    without: str
    """What cannot be shown, and why; empty if everything can."""
    made: dict[str, str]
    """What the sweep was made with, in words."""


class Stores(Document):
    """All stores that are served."""

    stores: list[StoreDocument]
    version: str


class Column(Document):
    """A number that each concept of a layer has."""

    name: str
    meaning: str


class ConceptName(Document):
    """A name of a concept."""

    concept: int
    name: str
    author: str
    score: Number
    """How well it fits (AUC); null for names that people gave."""


class LayerPage(Document):
    """The concepts of a layer; ``columns`` are the rows of the array that travels beside this."""

    columns: list[Column]
    names: list[ConceptName]
    checks: list[Check]


class ClassShare(Document):
    """What a concept does to a class."""

    target: int
    name: str
    share: float
    """Of the layer, with its sign."""
    portion: float
    """Of the concept, not negative."""


class Histogram(Document):
    """How often values occur."""

    edges: list[float]
    counts: list[int]
    """Of those that are not zero."""
    zeros: float
    """Share of those that are zero."""


class ReferenceGroup(Document):
    """Some samples of a concept."""

    name: str
    samples: list[int]
    values: list[float]


class Effect(Document):
    """How far the answer falls without a concept, as a trust report measured it."""

    mean: Number
    lower: Number
    """Of its interval of 95 %."""
    upper: Number
    control: Number
    """The same without another concept, drawn at random."""
    is_clear: bool
    """Whether the interval lies whole beyond zero and beyond that."""


class ConceptPage(Document):
    """All that a store knows of a concept."""

    concept: int
    sentence: str
    names: list[ConceptName]
    share: float
    rank: int
    """Its place among the concepts of the layer by share, from 1."""
    classes: list[ClassShare]
    histogram: Histogram
    references: list[ReferenceGroup]
    trust: str
    """What the trust report says, if there is one."""
    effect: Effect | None
    """What the trust report says of the answer without the concept; None if that was not measured."""


class Neighbour(Document):
    """A concept that is like another one."""

    layer: int
    concept: int
    correlation: float
    name: str


class Neighbours(Document):
    """The concepts whose values go with those of another one over samples."""

    by_activation: list[Neighbour]
    by_relevance: list[Neighbour]
    elsewhere: list[Neighbour]
    """In other layers, by activation."""
    samples: int


class Output(Document):
    """What a model answers, for one class."""

    target: int
    name: str
    value: float
    probability: Number


class ConceptShare(Document):
    """A concept and what it holds of a sample."""

    concept: int
    value: float
    share: float
    """Of the sum of absolute values of the layer."""
    name: str


class SampleLayer(Document):
    """The strongest concepts of a sample in a layer."""

    layer: int
    concepts: list[ConceptShare]


class SamplePage(Document):
    """A sample, as a store knows it."""

    sample: int
    targets: list[int]
    target: int
    """The one that the shares are of; -1 if there is none."""
    positions: list[int]
    """Positions that have a row, in stores of positions."""
    position: int
    prediction: int
    layers: list[SampleLayer]
    tokens: list[str]


class LiveSample(Document):
    """A sample, as the model answers now."""

    outputs: list[Output]
    target: int
    against: int | None
    layers: list[SampleLayer]
    height: int
    width: int
    """Of the heatmap, which travels beside this."""


class AuditFault(Document):
    """An operation that creates or loses relevance."""

    operation: str
    module: str
    imbalance: Number
    """What is lost there (created, if negative), for 1 that starts at the output."""


class AuditPage(Document):
    """Whether relevance adds up on its way from the output to the input, on a few samples."""

    conserved: bool
    total: Number
    """What arrives at the input, for 1 that starts at the output."""
    accounted: Number
    """The same, with what sinks hold."""
    sinks: dict[str, float]
    """Where relevance ends on the way, such as biases, and how much."""
    faults: list[AuditFault]
    notes: list[str]
    samples: int


class PatternsPage(Document):
    """Patterns that a store keeps; labels and probabilities of the rows travel beside this."""

    found: bool
    options: dict[str, Any]
    persistence: list[float]
    sizes: list[int]
    noise: int
    how: str
    """How to find patterns where there are none."""


class Assignment(Document):
    """The pattern that an input belongs to."""

    pattern: int
    probability: float


class RankedUnit(Document):
    """A unit in a ranking."""

    layer: int
    concept: int
    score: Number
    lower: Number
    upper: Number
    classes: list[Number]
    """Its score for each class of the ranking."""


class RankingDocument(Document):
    """A ranking that a store keeps."""

    key: str
    method: str
    options: dict[str, Any]
    layers: list[int]
    units: int
    rows: int
    classes: list[str]
    held_out: str
    top: list[RankedUnit]
    top_of_classes: list[list[RankedUnit]]


class Rankings(Document):
    """All rankings that a store keeps."""

    rankings: list[RankingDocument]
    methods: list[str]
    """By what units can be ranked."""


class Curve(Document):
    """A curve of an ablation."""

    ranking: str
    by: str
    order: str
    scores: list[float]


class Ablation(Document):
    """What is left of a model without some of its units."""

    metric: str
    samples: int
    fractions: list[float]
    curves: list[Curve]
    lowest: dict[str, list[float]]
    highest: dict[str, list[float]]
    """Range of random orders, for each way to take units away."""


class UnitRange(Document):
    """What values a unit has over the samples, at its strongest position or summed."""

    layer: int
    concept: int
    least: float
    mean: float
    most: float


class Manipulated(Document):
    """What a model answers with units set to other values."""

    before: list[Output]
    after: list[Output]
    height: int
    width: int


class GraphNode(Document):
    """A concept in a graph."""

    layer: int
    concept: int
    name: str


class GraphEdge(Document):
    """What a concept gives to another one."""

    source: int
    sink: int
    share: float


class Graph(Document):
    """What a concept is made of in a sample, and where it goes; nodes by their place in the list."""

    nodes: list[GraphNode]
    edges: list[GraphEdge]
    remainders: list[float]
    """For each node that is decomposed, what those not shown hold of it; 0 for others."""
    target: int


class Snippet(Document):
    """A token in its context."""

    sample: int
    position: int
    tokens: list[str]
    at: int
    """Place of the token among these."""
    value: float


class Snippets(Document):
    """Where in texts concepts are strongest: for each concept, the strongest first."""

    concepts: list[list[Snippet]]


class TextDocument(Document):
    """A text."""

    sample: int
    tokens: list[str]
    targets: list[int]


class Texts(Document):
    """Some texts of a corpus."""

    first: int
    of: int
    texts: list[TextDocument]


class WordScore(Document):
    """A word at which a concept is strong."""

    word: str
    score: float
    count: int


class Words(Document):
    """The words at which a concept is strongest, its mean and its spread."""

    words: list[WordScore]
    mean: float
    deviation: float


class Continuation(Document):
    """What a language model writes, before and after units were set."""

    tokens: list[str]
    before: list[Output]
    after: list[Output]
    text_before: list[str]
    text_after: list[str]
    changed: list[bool]
    """For each word after: whether it is not what stood there before, by alignment."""


class Job(Document):
    """Work of the model that goes on in the background."""

    job: str
    what: str
    state: Literal["waiting", "running", "done", "failed", "cancelled"]
    progress: Annotated[float, Field(ge=0, le=1)]
    error: str


class Jobs(Document):
    """All that is waiting or running."""

    jobs: list[Job]


class Fault(Document):
    """Why something was not answered, and what to do."""

    error: str


class Pin(Document):
    """Something that was pinned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    view: Literal["concept", "sample", "pattern"]
    layer: Annotated[int, Field(ge=0, lt=4096)] = 0
    quantity: Quantity = "relevance"
    number: Annotated[int, Field(ge=0, lt=2 ** 53)]


class Note(Document):
    """What somebody wrote about a concept, sample or pattern; an empty text removes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    on: Pin
    text: Text = ""
    name: Annotated[str, Field(max_length=200)] = ""


class NoteChange(Document):
    """What changes of the pin, the note or the name of one thing; what is None stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    on: Pin
    is_pinned: bool | None = None
    text: Text | None = None
    name: Annotated[str | None, Field(max_length=200)] = None


class Notes(Document):
    """Pins, notes and names that people gave; kept in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pins: Annotated[list[Pin], Field(max_length=1000)] = []
    notes: Annotated[list[Note], Field(max_length=10_000)] = []


class UnitSetting(Document):
    """A unit and what it is set to."""

    layer: int
    concept: int
    how: Literal["set", "scale"] = "set"
    value: float


class Uploaded(Document):
    """An input that was uploaded."""

    upload: str
    height: int
    width: int


class Task(Document):
    """Work whose result the store keeps."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["patterns", "projection", "ranking", "ablation"]
    layer: Annotated[int, Field(ge=0, lt=4096)] = 0
    quantity: Quantity = "relevance"
    method: Annotated[str, Field(max_length=40)] = ""
    rankings: Annotated[list[str], Field(max_length=8)] = []
