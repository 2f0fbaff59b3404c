"""Runs the server until it is interrupted."""
from __future__ import annotations

import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress

from crp.explorer.safety import is_loopback
from crp.explorer.source import Source, check_different
from crp.store import StoreError

PORT, PORTS_TRIED = 8765, 20
FIRST_PAGE = 2.  # seconds before matrices are read, so that the first page need not wait
SWITCH = .0005  # seconds; by default threads that wait for a file wait ten times as long for their turn


def serve(
    sources: list[Source], host: str = "127.0.0.1", port: int | None = None, open_browser: bool = False,
    report: Callable[[str], object] = print,
) -> str:
    """Serve stores to browsers, until the process is interrupted.

    Parameters
    ----------
    sources : list of Source
    host : str, default "127.0.0.1"
        The address to listen on. Others than this machine's own ask for a token, which is part of the address that is
        told.
    port : int, optional
        By default the first that is free from 8765 on.
    open_browser : bool, default False
    report : callable, default print
        Is told the address.

    Returns
    -------
    str
        The address, without the token.

    Raises
    ------
    OSError
        If the port is taken.
    ValueError
        If two sources are of the same sweep.
    """
    check_different(sources)
    token = None if is_loopback(host) else new_token()
    listening = listen(host, port)
    address = f"http://{_in_address(host)}:{listening.getsockname()[1]}/"
    whole = address if token is None else f"{address}#token={token}"
    report(f"explore at {whole}  (Ctrl+C ends)")
    if open_browser:
        threading.Timer(.5, webbrowser.open, (whole,)).start()
    import uvicorn  # this and the server take a second, in which a browser opens the address already

    from crp.explorer.server import create_app

    threading.Thread(target=_prepare, args=(sources,), name="crp-explorer-prepares", daemon=True).start()
    settings = uvicorn.Config(
        create_app(sources, token), log_level="warning", access_log=False, server_header=False, ws="none",
        timeout_keep_alive=10, timeout_graceful_shutdown=2, lifespan="on",
    )
    sys.setswitchinterval(SWITCH)
    try:
        uvicorn.Server(settings).run([listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
    return address


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket on a port, or on the first that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    tried = [port] if port is not None else [*range(PORT, PORT + PORTS_TRIED), 0]
    for number in tried:
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen()  # who comes before the server is there waits
            return found
        except OSError as error:
            found.close()
            if number == tried[-1]:
                raise OSError(f"{host} port {number} cannot be listened on: {error.strerror or error}") from error
    raise AssertionError("one port at least is tried")


def _in_address(host: str) -> str:
    """A host as it stands in an address that a browser of this machine can open."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _prepare(sources: list[Source]) -> None:
    """Read through the matrices, the last layers first, so that pages need not; the store keeps what is found."""
    from crp.explorer.portraits import keep_portraits
    from crp.explorer.summaries import keep_summary

    matrices = [
        (source, number, quantity) for source in sources for number in reversed(range(len(source.store.layers)))
        for quantity in ("relevance", "activation")
    ]
    with suppress(StoreError):  # which the page of the layer will say
        for source in sources:
            source.document(has_pictures=False)  # which remembers the rows, while browsers load the pages
        time.sleep(FIRST_PAGE)
        for source, number, quantity in matrices:
            keep_summary(source.store, source.kept, source.store.layers[number], quantity)
        for source, number, quantity in matrices:
            if source.store.options["keep"] == "all":
                keep_portraits(source.store, source.kept, source.store.layers[number], quantity)
