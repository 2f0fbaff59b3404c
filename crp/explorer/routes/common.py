"""How requests name things, and how answers travel."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import wait
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, Path, Query, Request, Response
from pydantic import BaseModel

from crp.explorer.documents import MOST_CONCEPTS, MOST_SAMPLES, Fault, Job, Quantity, UnitSetting
from crp.explorer.opened import Opened
from crp.explorer.pictures import SIZES
from crp.explorer.worker import CancelledError, Progress
from crp.store import StoreError

PATIENCE = .25  # seconds that a request waits for the worker before it says how far that is
FOREVER, ASKED_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"
NUMBERS, PICTURE, BOTH = "application/octet-stream", "image/webp", "application/x-crp-answer"

_IDS = r"^[0-9]{1,9}(,[0-9]{1,9})*$"
_UNIT = r"[0-9]{1,9}:[0-9]{1,9}:(set|scale):-?[0-9]{1,12}(\.[0-9]{1,12})?"
_UNITS = f"^{_UNIT}(,{_UNIT})*$"


class WorkFailedError(Exception):
    """What the model, the dataset or the rules raised."""


async def find_store(request: Request, store: Annotated[str, Path(pattern="^[0-9a-f]{16}$")]) -> Opened:
    """The store that a request names."""
    found: Opened = request.app.state.shelf[store]
    return found


OfStore = Annotated[Opened, Depends(find_store)]
LayerNumber = Annotated[int, Path(ge=0, lt=4096)]
ConceptNumber = Annotated[int, Path(ge=0, lt=2 ** 31)]
OfQuantity = Annotated[Quantity, Query()]
OfSize = Annotated[int, Query(ge=min(SIZES), le=max(SIZES))]
Ids = Annotated[str, Query(pattern=_IDS, max_length=8000)]
Number = Annotated[int | None, Query(ge=0, lt=2 ** 31)]
Units = Annotated[str, Query(pattern=_UNITS, max_length=4000)]
InputName = Annotated[str, Path(pattern=r"^([0-9]{1,12}|u[0-9a-f]{16})$")]

_OF_FAULTS = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Fault.__name__}"}}}
FAULTS: dict[int | str, dict[str, Any]] = {  # as a reference, since a model would be compiled for each route and code
    code: {"description": reason, "content": _OF_FAULTS} for code, reason in {
        401: "A token is needed", 403: "Asked by another page", 404: "There is no such thing",
        409: "The store was replaced or damaged", 421: "Asked by another name", 422: "This makes no sense",
        413: "Too much at once", 500: "A fault of the explorer", 503: "The model failed, or the work was cancelled",
    }.items()
}


def raw(what: str, media_type: str = NUMBERS) -> dict[int | str, dict[str, Any]]:
    """How a route says that it answers with bytes."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": what, "content": {media_type: schema}}}


def live_answers(what: str, kind: str | type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """How a route says that its answer, a document or bytes, may take time."""
    found: dict[int | str, dict[str, Any]] = raw(what, kind) if isinstance(kind, str) else {
        200: {"description": what, "model": kind}
    }
    return found | {202: {"model": Job, "description": "The model is at work: ask again"}}


def ids(text: str, most: int = MOST_CONCEPTS) -> list[int]:
    """Numbers, between which commas stand; a ValueError if there are too many."""
    found = [int(part) for part in text.split(",")]
    if len(found) > most:
        raise ValueError(f"{len(found)} numbers at once; at most {most} are answered")
    return found


def sample_ids(text: str) -> list[int]:
    """Numbers of samples."""
    return ids(text, MOST_SAMPLES)


def settings(text: str) -> list[UnitSetting]:
    """What units are set to: ``layer:concept:how:value``, between which commas stand."""
    found = []
    for part in text.split(","):
        layer, concept, how, value = part.split(":")
        found.append(UnitSetting.model_validate(
            {"layer": int(layer), "concept": int(concept), "how": how, "value": float(value)}
        ))
    if len(found) > MOST_CONCEPTS:
        raise ValueError(f"{len(found)} units at once; at most {MOST_CONCEPTS} are set")
    return found


def document(request: Request, answer: BaseModel) -> Response:
    """A document, which may change: browsers ask whether it has."""
    return tagged(request, answer.model_dump_json().encode(), "application/json", ASKED_AGAIN)


def numbers(request: Request, values: np.ndarray, is_final: bool = True) -> Response:
    """An array in little-endian float32 or int32, row by row; its shape is in the header ``X-Shape``."""
    kind = "<i4" if values.dtype.kind in "iu" else "<f4"
    content = np.ascontiguousarray(values, kind).tobytes()
    answer = tagged(request, content, NUMBERS, FOREVER if is_final else ASKED_AGAIN)
    answer.headers["X-Shape"] = ",".join(map(str, values.shape))
    return answer


def picture(request: Request, content: bytes, is_final: bool = True) -> Response:
    """A picture."""
    return tagged(request, content, PICTURE, FOREVER if is_final else ASKED_AGAIN)


def tagged(request: Request, content: bytes, media_type: str, control: str) -> Response:
    """An answer with the hash of its content; without the content, if that is what the browser has."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": control}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def in_background(
    opened: Opened, key: Any, what: str, compute: Callable[[Progress], Any]
) -> tuple[Response | None, Any]:
    """Let the worker compute something.

    Parameters
    ----------
    key
        All that changes the result, beside the store.
    what : str
        For people who wait.
    compute : callable
        ``progress -> result``

    Returns
    -------
    Response or None
        How far it is, if it is not done.
    result
        What was computed, if it is.

    Raises
    ------
    WorkFailedError
        If the model, the dataset or the rules raised an error; another request tries again.
    """
    worker = opened.source.worker
    job = worker.submit(name_of_job(key), what, compute)
    wait([job.future], PATIENCE)
    if not job.future.done():
        return _how_far(job.document()), None
    worker.forget(job)
    try:
        return None, job.future.result()
    except (CancelledError, StoreError, ValueError):
        raise
    except BaseException as error:
        raise WorkFailedError(f"{type(error).__name__}: {error}") from error


def _how_far(job: Job) -> Response:
    return Response(
        job.model_dump_json(), 202, media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def name_of_job(key: Any) -> str:
    """By which name the work goes that something asks for."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def live(
    request: Request, opened: Opened, key: dict[str, Any], what: str, compute: Callable[[Progress], bytes],
    media_type: str, on_disk: bool = True,
) -> Response:
    """What the worker computes, as it was kept; or how far the worker is with it.

    Parameters
    ----------
    key, what
        As for :func:`in_background`.
    compute : callable
        ``progress -> content``
    on_disk : bool, default True
        Whether it may outlive the process.
    """
    kept = opened.source.kept
    content = kept.read(key)
    if content is None:
        waiting, content = in_background(
            opened, key, what, lambda progress: kept.write(key, compute(progress), on_disk)
        )
        if waiting is not None:
            return waiting
    is_final = on_disk and media_type in (NUMBERS, PICTURE)  # documents hold names, which may be given anew
    return tagged(request, content, media_type, FOREVER if is_final else ASKED_AGAIN)
