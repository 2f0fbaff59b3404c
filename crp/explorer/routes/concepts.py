"""Layers and their concepts."""
from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from crp.explorer import concept_pages as pages
from crp.explorer.documents import MOST_REFERENCES, ConceptPage, LayerPage, Neighbours, PictureKind
from crp.explorer.pictures import StripRequest
from crp.explorer.routes.common import (
    FAULTS,
    PICTURE,
    ConceptNumber,
    Ids,
    LayerNumber,
    Number,
    OfQuantity,
    OfSize,
    OfStore,
    document,
    ids,
    in_background,
    live_answers,
    numbers,
    picture,
    raw,
)

router = APIRouter(prefix="/api/{store}/layers/{layer}", responses=FAULTS)
OfMany = Annotated[int, Query(ge=1, le=MOST_REFERENCES)]


@router.get("", response_model=LayerPage)
def layer_page(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "relevance") -> Response:
    """What is said of the concepts of a layer."""
    return document(request, pages.layer_page(of.source, layer, quantity))


@router.get("/columns", response_class=Response, responses=raw("float32 [columns, concepts]"))
def layer_columns(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "relevance") -> Response:
    """Numbers of each concept: the columns that the page of the layer names."""
    columns = pages.layer_columns(of.source, layer, quantity)[1]
    return numbers(request, columns, is_final=False)  # a trust report may be added


@router.get("/shares", response_class=Response, responses=raw("float32 [concepts]"))
def shares_of_class(
    request: Request, of: OfStore, layer: LayerNumber, target: Annotated[int, Query(ge=0, lt=2 ** 31)],
    quantity: OfQuantity = "relevance",
) -> Response:
    """What each concept holds of a class, with its sign."""
    of.source.layer(layer)
    of.source.need_class(target)
    return numbers(request, pages.shares_of_class(of.source, layer, quantity, target))


@router.get("/references", response_class=Response, responses=raw("int32 [concepts, k]"))
def references(
    request: Request, of: OfStore, layer: LayerNumber, concepts: Ids, quantity: OfQuantity = "relevance",
    k: OfMany = 8, target: Number = None,
) -> Response:
    """The samples at which concepts are strongest; -1 where there are fewer."""
    chosen = of.source.concepts(layer, ids(concepts))
    of.source.need_class(target)
    return numbers(request, pages.references(of.source, layer, quantity, chosen, k, target))


@router.get("/sprite", response_class=Response, responses=live_answers("A row of pictures for each concept", PICTURE))
def sprite(
    request: Request, of: OfStore, layer: LayerNumber, concepts: Ids, quantity: OfQuantity = "relevance",
    k: OfMany = 8, target: Number = None, kind: PictureKind = "plain", size: OfSize = 64,
) -> Response:
    """Pictures of the references of concepts, in one file: a row of squares for each concept."""
    source, chosen = of.source, of.source.concepts(layer, ids(concepts))
    source.need_class(target)
    if kind == "plain":
        samples = pages.references(source, layer, quantity, chosen, k, target)
        return picture(request, of.pictures.of_samples(samples.flatten().tolist(), size, k), source.fv is not None)
    strips = StripRequest(source.layer(layer), quantity, chosen, k, kind, target)
    if missing := of.pictures.strips_missing(strips):
        source.need_model()
        key = {"what": "strips", "keys": [strips.key(concept) for concept in missing]}
        waiting, _ = in_background(
            of, key, f"pictures of {len(missing)} concepts of {strips.layer}",
            lambda progress: of.pictures.draw_strips(strips, missing, progress),
        )
        if waiting is not None:
            return waiting
    return picture(request, of.pictures.of_references(strips, size))


@router.get("/concepts/{concept}", response_model=ConceptPage)
def concept_page(
    request: Request, of: OfStore, layer: LayerNumber, concept: ConceptNumber, quantity: OfQuantity = "relevance"
) -> Response:
    """All that the store knows of a concept."""
    of.source.concepts(layer, [concept])
    return document(request, pages.concept_page(of.source, layer, quantity, concept))


@router.get("/concepts/{concept}/neighbours", response_model=Neighbours)
def neighbours(request: Request, of: OfStore, layer: LayerNumber, concept: ConceptNumber) -> Response:
    """Concepts that are like it."""
    of.source.concepts(layer, [concept])
    return document(request, pages.neighbours(of.source, layer, concept))


@router.get("/concepts/{concept}/values", response_class=Response, responses=raw("float32 [rows]"))
def values(
    request: Request, of: OfStore, layer: LayerNumber, concept: ConceptNumber, quantity: OfQuantity = "relevance"
) -> Response:
    """What it does at each row."""
    of.source.concepts(layer, [concept])
    return numbers(request, pages.column(of.source, layer, quantity, concept))
