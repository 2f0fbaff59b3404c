"""The server: FastAPI over stores, and the pages that ask it."""
from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from crp import __version__
from crp.explorer import documents
from crp.explorer.documents import Fault, NoteChange, Notes, Stores
from crp.explorer.joining import as_script, source_of, styles
from crp.explorer.opened import Shelf
from crp.explorer.routes import concepts, patterns, samples, texts, units, work
from crp.explorer.routes.common import ASKED_AGAIN, FAULTS, OfStore, WorkFailedError, document, tagged
from crp.explorer.safety import COOKIE, Guard
from crp.explorer.source import NotThereError, Source
from crp.explorer.uploads import TooLargeError
from crp.explorer.worker import CancelledError
from crp.store import StoreError

_TRAVELLING = (
    documents.Fault, documents.LiveSample, documents.Manipulated, documents.Assignment, documents.Graph,
    documents.Continuation,
)
_CODES: dict[type[Exception], int] = {
    StoreError: 409, TooLargeError: 413, NotThereError: 404, ValueError: 422, CancelledError: 503, WorkFailedError: 503,
}


def create_app(sources: list[Source], token: str | None = None) -> ASGIApp:
    """The application that serves stores, with its guard.

    Parameters
    ----------
    sources : list of Source
    token : str, optional
        What requests need to know; without it, only this machine is answered.
    """
    guard = Guard(create_api(sources), token)
    api = guard.app
    assert isinstance(api, FastAPI)

    @api.post("/api/session", status_code=204, response_class=Response, include_in_schema=False)
    def begin_session(given: Annotated[str, Body(max_length=200, embed=True, alias="token")]) -> Response:
        """Remember in the browser that it has the token."""
        if not guard.is_token(given):
            return JSONResponse({"error": "this is not the token that crp explore printed"}, 401)
        answer = Response(status_code=204)
        answer.set_cookie(COOKIE, given, httponly=True, samesite="strict")
        return answer

    files = {
        "": ("text/html", source_of("index.html")), "icon.svg": ("image/svg+xml", source_of("icon.svg")),
        "explorer.js": ("text/javascript", as_script("served.js")), "explorer.css": ("text/css", styles()),
    }

    async def page(request: Request) -> Response:
        """The page, and what it is made of."""
        if request.path_params["file"] not in files:
            raise HTTPException(404)
        kind, content = files[request.path_params["file"]]
        return tagged(request, content.encode(), kind, ASKED_AGAIN)

    api.add_route("/{file:path}", page, include_in_schema=False)
    return guard


def create_api(sources: list[Source]) -> FastAPI:
    """What is answered, without guard and pages."""
    shelf = Shelf(sources)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        shelf.close()

    api = FastAPI(title="crp explorer", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                  lifespan=lifespan)
    api.state.shelf, api.state.in_thread = shelf, asyncio.to_thread
    for kind in _CODES:
        api.add_exception_handler(kind, _refuse)
    api.add_exception_handler(RequestValidationError, _refuse_arguments)
    api.add_exception_handler(HTTPException, _refuse_address)

    @api.get("/api/stores", response_model=Stores, responses=FAULTS)
    def stores(request: Request) -> Response:
        """What there is to explore."""
        return document(request, shelf.stores(__version__))

    @api.get("/api/{store}/notes", response_model=Notes, responses=FAULTS)
    def notes(request: Request, of: OfStore) -> Response:
        """Pins, notes and names that people gave."""
        return document(request, of.source.notebook.read())

    @api.patch("/api/{store}/notes", response_model=Notes, responses=FAULTS)
    def change_notes(of: OfStore, change: NoteChange) -> Notes:
        """Pin something, name it, or write about it; the others stay as they are."""
        try:
            return of.source.notebook.change(change)
        except OSError as error:
            raise StoreError(f"nothing can be written to {of.source.store.path}: {error.strerror}") from error

    for routes in (work, concepts, samples, patterns, units, texts):
        api.include_router(routes.router)
    return api


def specification() -> dict[str, Any]:
    """What the server says it answers: an OpenAPI document, with the documents that travel with numbers."""
    found = create_api([]).openapi()
    for kind in _TRAVELLING:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        found["components"]["schemas"] |= schema.pop("$defs", {}) | {kind.__name__: schema}
    del found["info"]["version"]
    return json.loads(json.dumps(found, sort_keys=True))


def _refuse(request: Request, error: Exception) -> Response:
    """Why something is not answered, in words."""
    code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
    return _fault(str(error), code)


def _refuse_arguments(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _fault("; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:5]), 422)


def _refuse_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _fault(f"{request.url.path}: {error.detail}", error.status_code)


def _fault(reason: str, code: int) -> Response:
    return JSONResponse(Fault(error=reason[:4000]).model_dump(), code, {"Cache-Control": "no-store"})
