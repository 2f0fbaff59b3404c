"""Who may ask: hosts, tokens, other pages; and what browsers may do with answers."""
from __future__ import annotations

import hmac
import logging
from http.cookies import CookieError, SimpleCookie
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "crp-explorer"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
}
MOST_BYTES = {"/api/session": 2 ** 10, "/notes": 2 ** 16, "/uploads": 2 ** 24}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_Verdict: TypeAlias = tuple[int, str]


def is_loopback(host: str) -> bool:
    """Whether an address is one of those by which this machine alone is reached, and that are answered."""
    return host.lower() in LOOPBACK_NAMES


class Guard:
    """Answers only those who may ask, before anything is computed.

    Without a token, only requests to this machine by its own names are answered, so that no other page can reach it
    through a name of its own (DNS rebinding). With a token, whoever has it is. Requests that other pages make are
    refused.

    Parameters
    ----------
    app : ASGI application
    token : str, optional
    """

    def __init__(self, app: ASGIApp, token: str | None = None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            elif scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        has_begun, limited = False, _Limited(receive, scope["path"])

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                if limited.is_too_much and not code:  # which has been taken for a fault of the body
                    raise _TooMuchError
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        code, reason = self._verdict(scope, headers) or (0, "")
        if not code:
            try:
                await self.app(scope, limited, send_with_headers)
                return
            except _TooMuchError:
                code, reason = 413, "more was sent than is taken at once"
            except Exception:  # a fault of ours, which shall end nothing else
                logging.getLogger(__name__).exception("%s %s", scope["method"], scope["path"])
                code, reason = 500, "this is a fault of the explorer; the server's output says more"
            if has_begun:
                return
        await JSONResponse({"error": reason}, code)(scope, receive, send_with_headers)

    def _verdict(self, scope: Scope, headers: Headers) -> _Verdict | None:
        """Why a request is refused; None if it is not."""
        host = headers.get("host", "")
        if self.token is None and _name_of(host) not in LOOPBACK_NAMES:
            return 421, "this server answers to localhost and 127.0.0.1 only"
        if not scope["path"].startswith("/api/"):
            return None
        origin = headers.get("origin")
        if origin is not None and _netloc_of(origin) != host:
            return 403, "this server answers its own pages only"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return 403, "this server answers its own pages only"
        if self.token is not None and scope["path"] != "/api/session" and not self._has_token(headers):
            return 401, "a token is needed: open the address that crp explore printed"
        return None

    def _has_token(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        return self.is_token(given) or cookie is not None and self.is_token(cookie.value)

    def is_token(self, given: str) -> bool:
        """Whether a text is the token, in a time that does not tell how much of it is right."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())


class _TooMuchError(Exception):
    """A body with more bytes than are taken."""


class _Limited:
    """What is received, up to so many bytes."""

    def __init__(self, receive: Receive, path: str):
        self._receive = receive
        self._left = next((most for end, most in MOST_BYTES.items() if path.endswith(end)), 2 ** 14)

    @property
    def is_too_much(self) -> bool:
        """Whether more came."""
        return self._left < 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.is_too_much:
            raise _TooMuchError
        return message


def _netloc_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
