"""Who sweeps into a store at present: a note that each run leaves in its folder as long as it goes on."""
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from crp.store.folder import Folder, StoreError
from crp.store.place import Place
from crp.store.records import read_record, record_bytes
from crp.store.schema import RunNote, checked
from crp.store.temporaries import is_temporary, locked, state_of, temporary

_NOTE = "run.json"


@contextmanager
def announced(place: Place, first: int, stop: int, finishes: bool) -> Iterator[None]:
    """Have a run on record as long as it goes on.

    Raises
    ------
    StoreError
        If another one is at odds with it; the message says who.
    """
    own = RunNote(first=first, stop=stop, finishes=finishes, process=os.getpid(), host=socket.gethostname())
    with ExitStack() as stack:
        with place.removal_in_words():
            folder = stack.enter_context(place.open())
            note = stack.enter_context(temporary(folder, "run"))
            with locked(folder):
                note.write(_NOTE, record_bytes(own.model_dump()))
                _check_others(place, folder, note.path.name, own)
        yield


def _check_others(place: Place, folder: Folder, own_name: str, own: RunNote) -> None:
    for name, other in _others(folder, own_name):
        if own.is_at_odds_with(other) and state_of(folder, name) == "running":
            raise StoreError(
                f"process {other.process} on {ascii(other.host)} is sweeping samples {other.first} to "
                f"{other.stop - 1} into {place.path}, and this one would sweep {own.first} to {own.stop - 1}: choose "
                "another path, or run_distributed for all parts and collect_results"
            )


def is_alone(folder: Folder, kind: str, besides: str = "") -> bool:
    """Whether no temporary of a kind but one with a name is known or suspected to be in use."""
    names = [name for name in folder.names() if is_temporary(name, kind) and name != besides]
    return all(state_of(folder, name) == "ended" for name in names)


def _others(folder: Folder, own: str) -> Iterator[tuple[str, RunNote]]:
    for name in folder.names():
        if is_temporary(name, "run") and name != own:
            try:
                with folder.folder(name) as note:
                    content, _ = read_record(note, _NOTE, "no note")
                    yield name, checked(RunNote, content, note.path / _NOTE)
            except (FileNotFoundError, StoreError):  # it ends or begins just now
                pass
