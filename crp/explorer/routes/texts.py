"""Texts."""
from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from crp.explorer import live as model
from crp.explorer import text_pages as pages
from crp.explorer.documents import Continuation, Snippets, Texts, Words
from crp.explorer.routes.common import (
    FAULTS,
    ConceptNumber,
    Ids,
    LayerNumber,
    OfQuantity,
    OfStore,
    Units,
    document,
    ids,
    live,
    live_answers,
    numbers,
    raw,
    settings,
)

router = APIRouter(prefix="/api/{store}", responses=FAULTS)


@router.get("/texts", response_model=Texts)
def texts(
    request: Request, of: OfStore, first: Annotated[int, Query(ge=0, lt=2 ** 53)] = 0,
    count: Annotated[int, Query(ge=1, le=pages.MOST_TEXTS)] = 20,
) -> Response:
    """Some texts, token by token."""
    return document(request, pages.texts(of.source, first, count))


@router.get(
    "/texts/{sample}/layers/{layer}/values", response_class=Response, responses=raw("float32 [concepts, tokens]")
)
def token_values(
    request: Request, of: OfStore, sample: int, layer: LayerNumber, concepts: Ids, quantity: OfQuantity = "relevance"
) -> Response:
    """What concepts do at each token of a text."""
    chosen = of.source.concepts(layer, ids(concepts))
    return numbers(request, pages.token_values(of.source, layer, quantity, chosen, sample))


@router.get("/layers/{layer}/snippets", response_model=Snippets)
def snippets(
    request: Request, of: OfStore, layer: LayerNumber, concepts: Ids, quantity: OfQuantity = "relevance",
    k: Annotated[int, Query(ge=1, le=40)] = 5,
) -> Response:
    """Where in texts concepts are strongest."""
    chosen = of.source.concepts(layer, ids(concepts))
    return document(request, pages.snippets(of.source, layer, quantity, chosen, k))


@router.get("/layers/{layer}/concepts/{concept}/words", response_model=Words)
def words(
    request: Request, of: OfStore, layer: LayerNumber, concept: ConceptNumber, quantity: OfQuantity = "relevance"
) -> Response:
    """The words at which a concept is strongest."""
    of.source.concepts(layer, [concept])
    return document(request, pages.words(of.source, layer, quantity, concept))


@router.get("/continuation", response_class=Response, responses=live_answers(
    "A document", Continuation
))
def continuation(
    request: Request, of: OfStore, text: Annotated[str, Query(min_length=1, max_length=4000)], units: Units,
    tokens: Annotated[int, Query(ge=1, le=pages.MOST_NEW_TOKENS)] = 8,
) -> Response:
    """What a language model writes after a text, before and after units are set."""
    pages.need_corpus(of.source)
    key = {"what": "continuation", "text": text, "units": units, "tokens": tokens}
    return live(
        request, of, key, "what the model writes",
        lambda progress: model.continue_text(
            of.source, text, settings(units), tokens, progress
        ).model_dump_json().encode(),
        "application/json", on_disk=False,
    )
