"""The server's answers without a server: for copies and for notebooks."""
from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message

_PAUSE = .02


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    status: int
    type: str
    shape: str
    content: bytes = field(repr=False)  # which asyncio writes out, otherwise


def ask(app: ASGIApp, path: str, method: str = "GET", body: bytes = b"", patience: float = 0.) -> Answer:
    """What an application answers to a request that this machine makes.

    Parameters
    ----------
    app : ASGI application
    path : str
        With its query.
    method : str, default "GET"
    body : bytes
    patience : float, default 0
        How many seconds to ask again while the answer is that work goes on.
    """
    until = time.monotonic() + patience
    while True:
        found = _run(_ask(app, path, method, body))
        if found.status != 202 or method != "GET" or time.monotonic() > until:
            return found
        time.sleep(_PAUSE)


def _run(asking: Coroutine[Any, Any, Answer]) -> Answer:
    """What a coroutine gives; in a thread of its own where a loop runs already, as in notebooks."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asking).result()


async def _ask(app: ASGIApp, path: str, method: str, body: bytes) -> Answer:
    split = urlsplit(path)
    kind = b"application/json" if body[:1] in (b"{", b"[") else b"application/octet-stream"
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(split.path), "raw_path": split.path.encode(), "query_string": split.query.encode(),
        "root_path": "", "headers": [(b"host", b"localhost"), (b"content-type", kind)], "client": None, "server": None,
    }
    requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answers: list[Message] = []

    async def receive() -> Message:
        return requests.pop() if requests else await asyncio.Future()

    async def send(message: Message) -> None:
        answers.append(message)

    await app(scope, receive, send)
    start = next(message for message in answers if message["type"] == "http.response.start")
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    content = b"".join(message.get("body", b"") for message in answers if message["type"] == "http.response.body")
    return Answer(start["status"], headers.get("content-type", ""), headers.get("x-shape", ""), content)
