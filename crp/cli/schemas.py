"""Which answers each command gives with ``--json``."""
from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from crp.cli.answers import Answer, Conservation, DemoPage, Estimate, Explored, Export, Failure, StoreInfo, Verification
from crp.cli.concept_answers import Classes, Concepts, MapsAnswer, PatternsAnswer, References
from crp.cli.trust_answers import TrustAnswer
from crp.cli.unit_answers import AblationAnswer, RankingAnswer

ANSWERS: dict[str, tuple[type[Answer], ...]] = {
    "demo": (DemoPage,), "run": (StoreInfo, Estimate), "merge": (StoreInfo,), "audit": (Conservation,),
    "info": (StoreInfo,), "verify": (Verification,), "export": (Export,), "concepts": (Concepts,),
    "classes": (Classes,), "references": (References,), "patterns": (PatternsAnswer,), "maps": (MapsAnswer,),
    "rank": (RankingAnswer,), "ablate": (AblationAnswer,), "trust": (TrustAnswer,), "explore": (Explored,),
}


def schema(command: str) -> dict[str, Any]:
    """JSON Schema of all that a command may print with ``--json``."""
    kinds: Any = Failure
    for answer in ANSWERS[command]:
        kinds |= answer
    return TypeAdapter(kinds).json_schema(mode="serialization")
