"""Samples: as the store knows them, as the model sees them now, and inputs that people bring."""
from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from crp.explorer import live as model
from crp.explorer import sample_pages as pages
from crp.explorer.documents import AuditPage, SamplePage, Uploaded
from crp.explorer.opened import Opened
from crp.explorer.pictures import as_webp, fitted
from crp.explorer.routes.common import (
    BOTH,
    FAULTS,
    NUMBERS,
    PICTURE,
    Ids,
    InputName,
    LayerNumber,
    Number,
    OfQuantity,
    OfSize,
    OfStore,
    document,
    live,
    live_answers,
    numbers,
    picture,
    raw,
    sample_ids,
)
from crp.explorer.uploads import MOST_BYTES, TooLargeError, UploadError

router = APIRouter(prefix="/api/{store}", responses=FAULTS)
NATURAL, MOST_HEATMAPS = 448, 48


@router.get("/audit", response_class=Response, responses=live_answers("A document", AuditPage))
def audit(request: Request, of: OfStore) -> Response:
    """Whether relevance adds up in the model."""
    of.source.need_model()
    return live(
        request, of, {"what": "audit"}, "an audit of the model",
        lambda progress: model.audit(of.source, progress).model_dump_json().encode(), "application/json",
    )


@router.get("/rows", response_class=Response, responses=raw("int32 [rows, 4]"))
def rows(request: Request, of: OfStore, quantity: OfQuantity = "relevance") -> Response:
    """Sample, target, position and prediction of each row; of activation the first target of the sample."""
    found = of.source.rows(quantity)
    return numbers(request, np.stack([found[name] for name in ("sample", "target", "position", "prediction")], 1))


@router.get("/pictures", response_class=Response, responses=raw("Pictures side by side", PICTURE))
def pictures(request: Request, of: OfStore, samples: Ids, size: OfSize = 64) -> Response:
    """Pictures of samples, in one file: 16 squares in a row."""
    chosen = of.source.samples(sample_ids(samples))
    return picture(request, of.pictures.of_samples(chosen, size, min(len(chosen), 16)), of.source.fv is not None)


@router.get("/samples/{sample}", response_model=SamplePage)
def sample_page(
    request: Request, of: OfStore, sample: int, quantity: OfQuantity = "relevance", target: Number = None,
    position: Number = None, layer: Number = None,
) -> Response:
    """What the store knows of a sample; its concepts in one layer, or in each."""
    if layer is not None:
        of.source.layer(layer)
    return document(request, pages.sample_page(of.source, sample, quantity, target, position, layer))


@router.get("/samples/{sample}/layers/{layer}/values", response_class=Response, responses=raw("float32 [concepts]"))
def values(
    request: Request, of: OfStore, sample: int, layer: LayerNumber, quantity: OfQuantity = "relevance",
    target: Number = None, position: Number = None,
) -> Response:
    """What a sample does to each concept of a layer."""
    row = pages.row_of(of.source, sample, quantity, target, position)
    of.source.layer(layer)
    return numbers(request, pages.row_values(of.source, layer, quantity, row))


@router.get("/inputs/{input}/picture", response_class=Response, responses=raw("A picture", PICTURE))
def input_picture(request: Request, of: OfStore, input: InputName) -> Response:
    """A sample or an upload, alone."""
    if input.startswith("u"):
        from crp.pictures.kinds import vis_inputs

        return picture(request, as_webp(fitted(vis_inputs(of.uploads.raw(input[1:]))[0], NATURAL)), False)
    shown = of.pictures.plain(of.source.samples([int(input)])[0])
    return picture(request, as_webp(fitted(shown, NATURAL)), of.source.fv is not None)


@router.get("/inputs/{input}/explained", response_class=Response, responses=live_answers(
    "A document (LiveSample) and its heatmap: int32 length, JSON, float32 [height, width]", BOTH
))
def explained(
    request: Request, of: OfStore, input: InputName, target: Number = None, against: Number = None,
    layer: Number = None, concept: Number = None,
) -> Response:
    """What the model answers, why, and which concepts it takes; with a concept, the heatmap is of that alone."""
    condition = None
    if layer is not None and concept is not None:
        of.source.concepts(layer, [concept])
        condition = layer, concept
    if against is not None and against == target:
        raise ValueError("a class has no contrast to itself")
    key = {
        "what": "explained", "input": input, "target": target, "against": against, "condition": condition,
        "naming": of.source.naming(),
    }
    return live(
        request, of, key, f"an explanation of {_in_words(input)}",
        lambda progress: model.explain(of.source, data_of(of, input), target, against, condition, progress).to_bytes(),
        BOTH, on_disk=not input.startswith("u"),
    )


@router.get("/inputs/{input}/layers/{layer}/heatmaps", response_class=Response, responses=live_answers(
    "float32 [concepts, height, width]", NUMBERS
))
def heatmaps(
    request: Request, of: OfStore, input: InputName, layer: LayerNumber, concepts: Ids, target: Number = None,
    against: Number = None,
) -> Response:
    """A conditional heatmap for each of several concepts."""
    chosen = of.source.concepts(layer, sample_ids(concepts))
    if len(chosen) > MOST_HEATMAPS:
        raise ValueError(f"{len(chosen)} heatmaps at once; at most {MOST_HEATMAPS} are drawn")
    key = {
        "what": "heatmaps", "input": input, "layer": layer, "concepts": chosen, "target": target, "against": against,
    }
    return live(
        request, of, key, f"{len(chosen)} heatmaps of {_in_words(input)}",
        lambda progress: model.heatmaps_of_concepts(
            of.source, data_of(of, input), target, against, layer, chosen, progress
        ).astype("<f4").tobytes(),
        NUMBERS, on_disk=not input.startswith("u"),
    )


def data_of(of: Opened, name: str) -> Any:
    """An input as the model takes it: of a sample, or an upload."""
    fv, _ = of.source.need_model()
    if name.startswith("u"):
        return of.uploads.ready(name[1:])
    sample = of.source.samples([int(name)])[0]
    with of.source.reading:
        return fv.get_data_sample(sample)[0]


def _in_words(name: str) -> str:
    return "an upload" if name.startswith("u") else f"sample {name}"


@router.post(
    "/uploads", response_model=Uploaded, status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
    }}},
)
async def upload(request: Request, of: OfStore) -> Uploaded:
    """Bring a picture: the body is the file. What the model says of it is then asked like that of a sample."""
    of.source.need_model()
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                raise TooLargeError(f"the file has more than the {MOST_BYTES:,} bytes that are taken")
    except ClientDisconnect:
        raise UploadError("the file did not arrive whole") from None
    name, values = await request.app.state.in_thread(of.uploads.add, bytes(content))
    return Uploaded(upload=name, height=values.shape[-2], width=values.shape[-1])
