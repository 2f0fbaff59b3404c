"""Patterns, the map of all samples, and maps of layers."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response

from crp.explorer import live as model
from crp.explorer import map_pages
from crp.explorer import pattern_pages as pages
from crp.explorer.documents import Assignment, PatternsPage
from crp.explorer.pictures import as_webp, fitted
from crp.explorer.routes.common import (
    FAULTS,
    NUMBERS,
    PICTURE,
    Ids,
    InputName,
    LayerNumber,
    Number,
    OfQuantity,
    OfStore,
    document,
    ids,
    live,
    live_answers,
    numbers,
    raw,
)
from crp.explorer.routes.samples import data_of
from crp.explorer.source import NotThereError
from crp.explorer.worker import Progress

router = APIRouter(prefix="/api/{store}", responses=FAULTS)
PatternNumber = Annotated[int, Path(ge=0, lt=2 ** 31)]
_AVERAGE = 224


@router.get("/layers/{layer}/patterns", response_model=PatternsPage)
def patterns(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "activation") -> Response:
    """The patterns that the store keeps of a layer."""
    return document(request, pages.patterns_page(of.source, layer, quantity))


@router.get("/layers/{layer}/patterns/rows", response_class=Response, responses=raw("float32 [2, rows]"))
def pattern_rows(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "activation") -> Response:
    """The pattern of each row, -1 for none, and how firmly it belongs to it."""
    found = pages.need_patterns(of.source, layer, quantity)
    rows = np.stack([found.labels, found.probability]).astype(np.float32)
    return numbers(request, rows, is_final=False)  # patterns may be found again


@router.get("/layers/{layer}/patterns/boxes", response_class=Response, responses=raw("float32 [8, concepts]"))
def boxes(
    request: Request, of: OfStore, layer: LayerNumber, pattern: Annotated[int, Query(ge=-1, lt=2 ** 31)] = -1,
    quantity: OfQuantity = "activation",
) -> Response:
    """Whiskers, quartiles, mean and range of each unit over the rows of a pattern; of all rows for -1."""
    return numbers(request, pages.box_plots(of.source, layer, quantity, pattern), is_final=False)


@router.get("/layers/{layer}/patterns/{pattern}/average", response_class=Response, responses=live_answers(
    "A picture", PICTURE
))
def average_picture(
    request: Request, of: OfStore, layer: LayerNumber, pattern: PatternNumber, quantity: OfQuantity = "activation"
) -> Response:
    """The mean of the samples of a pattern, as a picture."""
    source = of.source
    fv, _ = source.need_model()
    found = pages.need_patterns(source, layer, quantity)
    if pattern >= len(found):
        raise NotThereError(f"there is no pattern {pattern}; there are {len(found)}, numbered from 0")
    samples = np.unique(found.samples[found.members(pattern)]).tolist()

    def compute(progress: Progress) -> bytes:
        def inputs() -> Iterator[Any]:
            for done, sample in enumerate(samples):
                progress(done / len(samples))
                with source.reading:
                    yield fv.get_data_sample(sample, preprocessing=False)[0]

        return as_webp(fitted(model.average(inputs()), _AVERAGE))

    key = {"what": "average", "layer": layer, "quantity": quantity, "samples": samples}
    return live(request, of, key, f"the average of pattern {pattern}", compute, PICTURE)


@router.get("/inputs/{input}/layers/{layer}/pattern", response_class=Response, responses=live_answers(
    "A document", Assignment
))
def assign(
    request: Request, of: OfStore, input: InputName, layer: LayerNumber, quantity: OfQuantity = "activation",
    target: Number = None,
) -> Response:
    """The pattern that an input belongs to."""
    pages.need_patterns(of.source, layer, quantity)
    key = {"what": "assignment", "input": input, "layer": layer, "quantity": quantity, "target": target}
    return live(
        request, of, key, "the pattern of an input",
        lambda progress: model.assign(
            of.source, data_of(of, input), layer, quantity, target, progress
        ).model_dump_json().encode(),
        "application/json", on_disk=False,
    )


@router.get("/layers/{layer}/points", response_class=Response, responses=raw("float32 [rows, 2]"))
def points(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "activation") -> Response:
    """The rows of a layer on a map, as the store keeps it; none, if it does not keep one."""
    of.source.layer(layer)
    found = pages.projection(of.source, layer, quantity)
    return numbers(request, np.empty((0, 2), np.float32) if found is None else found, is_final=False)


@router.get("/layers/{layer}/map", response_class=Response, responses=live_answers(
    "float32 [2 + 2 classes, concepts]", NUMBERS
))
def topographic_map(request: Request, of: OfStore, layer: LayerNumber, quantity: OfQuantity = "relevance") -> Response:
    """Where the concepts of a layer lie on its map, the mean of each class, and how it differs from that of all."""
    name = of.source.layer(layer)
    return live(
        request, of, {"what": "map", "layer": name, "quantity": quantity}, f"a map of {name}",
        lambda progress: map_pages.draw_map(of.source, layer, quantity, progress), NUMBERS,
    )


@router.get("/response-map", response_class=Response, responses=live_answers("float32 [6, neurons]", NUMBERS))
def response_map(request: Request, of: OfStore, layers: Ids) -> Response:
    """Where concepts of layers lie by their activations: x, y, layer, concept, lowest and highest activation."""
    chosen = ids(layers)
    names = [of.source.layer(number) for number in chosen]
    return live(
        request, of, {"what": "response map", "layers": names}, f"a map of {', '.join(names)}",
        lambda progress: map_pages.draw_response_map(of.source, chosen, progress), NUMBERS,
    )
