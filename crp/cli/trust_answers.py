"""What ``crp trust`` answers."""
from __future__ import annotations

from crp.cli.answers import Answer, File, Number, Part, Text


class TrustCheck(Part):
    """What holds of a layer in one respect."""

    name: str
    """closed, faithful, sane, stable or clear."""
    holds: bool | None
    """Whether it holds; null where there is nothing to decide."""
    value: Number
    """What was measured; null where that could not be."""
    lower: Number
    """Lower bound of its interval of 95 %."""
    upper: Number
    """Upper bound."""
    control: Number
    """The same at random."""
    sentence: Text
    """All this in words."""


class TrustedConcept(Part):
    """What there is to say of a concept."""

    concept: int
    """Its id."""
    share: Number
    """Mean share of the layer's absolute relevance."""
    effect: Number
    """Mean fall of the answer without it, where it is most relevant."""
    dead: bool
    """Whether it is never active or never relevant."""
    duplicate: bool
    """Whether another concept does the same."""
    sentence: Text
    """All this in words."""


class TrustOfLayer(Part):
    """Whether a layer's concepts can be trusted."""

    layer: str
    """The layer."""
    holds: bool
    """Whether all checks hold that could be made."""
    score: Number
    """From 0 to 1, to order layers and composites by."""
    checks: list[TrustCheck]
    """What holds of the layer."""
    of: int
    """How many concepts it has."""
    concepts: list[TrustedConcept]
    """The first ones, by share of relevance."""
    picture: File
    """What was measured, drawn."""


class TrustAnswer(Answer):
    """Whether the concepts of a sweep can be trusted."""

    store: File
    """Folder of the store, in which the reports are kept."""
    rows: int
    """On how many samples and targets the model was run."""
    held_out: bool
    """Whether these are samples that were not swept."""
    layers: list[TrustOfLayer]
    """Layer by layer."""

    def in_words(self) -> list[str]:
        """Checks and first concepts of each layer."""
        lines = []
        for found in self.layers:
            failed = [check.name for check in found.checks if check.holds is False]
            lines.append(f"{found.layer}: {'not ' + ' and not '.join(failed) if failed else 'holds'} "
                         f"({self.rows} rows, {found.of} concepts; score {found.score or 0:.2f})")
            lines += [f"  {check.name:9s} {check.sentence}" for check in found.checks]
            lines += [f"  {concept.sentence}" for concept in found.concepts]
            lines.append(f"  {found.picture}")
        return lines

    @property
    def exit_code(self) -> int:
        """1 if a check does not hold."""
        return 0 if all(found.holds for found in self.layers) else 1
