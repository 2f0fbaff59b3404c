"""Rankings, ablations, and experiments with units."""
from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from crp.explorer import live as model
from crp.explorer import unit_pages as pages
from crp.explorer.documents import Ablation, Graph, Rankings, UnitRange
from crp.explorer.routes.common import (
    BOTH,
    FAULTS,
    ConceptNumber,
    InputName,
    LayerNumber,
    Number,
    OfStore,
    Units,
    document,
    live,
    live_answers,
    settings,
)
from crp.explorer.routes.samples import data_of

router = APIRouter(prefix="/api/{store}", responses=FAULTS)
_KEY = r"ranking\.[a-z_]{1,40}\.[0-9a-f]{16}"
Keys = Annotated[str, Query(pattern=f"^{_KEY}(,{_KEY}){{0,7}}$")]
Pairs = Annotated[str, Query(pattern=r"^[0-9]{1,9}:[0-9]{1,9}(,[0-9]{1,9}:[0-9]{1,9}){0,63}$")]


class UnitRanges(BaseModel):
    """What values units have."""

    units: list[UnitRange]


@router.get("/rankings", response_model=Rankings)
def rankings(request: Request, of: OfStore) -> Response:
    """All rankings that the store keeps."""
    return document(request, pages.rankings(of.source))


@router.get("/ablation", response_model=Ablation)
def ablation(request: Request, of: OfStore, rankings: Keys) -> Response:
    """An ablation by rankings; without curves, if none has been made."""
    content = of.source.kept.read(pages.ablation_key(rankings.split(",")))
    return document(request, pages.NO_ABLATION if content is None else pages.read_ablation(content))


@router.get("/ranges", response_model=UnitRanges)
def ranges(request: Request, of: OfStore, units: Pairs) -> Response:
    """Least, mean and most value of units, over the samples."""
    pairs = [(int(layer), int(concept)) for layer, concept in (part.split(":") for part in units.split(","))]
    for layer, concept in pairs:
        of.source.concepts(layer, [concept])
    return document(request, UnitRanges(units=pages.unit_ranges(of.source, pairs)))


@router.get("/inputs/{input}/manipulated", response_class=Response, responses=live_answers(
    "A document (Manipulated) and its heatmap: int32 length, JSON, float32 [height, width]", BOTH
))
def manipulated(request: Request, of: OfStore, input: InputName, units: Units, target: Number = None) -> Response:
    """What the model answers with units set to other values."""
    chosen = settings(units)
    key = {
        "what": "manipulated", "input": input, "units": units, "target": target, "naming": of.source.naming(),
    }
    return live(
        request, of, key, "the model with other values",
        lambda progress: model.manipulate(of.source, data_of(of, input), chosen, target, progress).to_bytes(),
        BOTH, on_disk=False,
    )


@router.get("/inputs/{input}/layers/{layer}/concepts/{concept}/graph", response_class=Response, responses=live_answers(
    "A document", Graph
))
def graph(
    request: Request, of: OfStore, input: InputName, layer: LayerNumber, concept: ConceptNumber, target: Number = None
) -> Response:
    """What a concept is made of in an input, and where it goes."""
    of.source.concepts(layer, [concept])
    key = {
        "what": "graph", "input": input, "layer": layer, "concept": concept, "target": target,
        "naming": of.source.naming(),
    }
    return live(
        request, of, key, f"what concept {concept} is made of",
        lambda progress: model.graph(
            of.source, data_of(of, input), layer, concept, target, progress
        ).model_dump_json().encode(),
        "application/json", on_disk=False,
    )
