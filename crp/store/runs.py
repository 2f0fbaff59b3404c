"""Who sweeps into a store at present: a note that each run leaves in its folder as long as it goes on."""
from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from crp.store.folder import Folder, StoreError
from crp.store.place import Place
from crp.store.records import read_record, record_bytes
from crp.store.schema import RunNote, checked
from crp.store.temporaries import is_temporary, locked, state_of, temporary

_NOTE = "run.json"


@contextmanager
def announced(place: Place, first: int, stop: int, finishes: bool) -> Iterator[str]:
    """Have a run on record, under a name, as long as it goes on.

    Raises
    ------
    StoreError
        If another one is at odds with it; the message says who.
    """
    own = RunNote(first=first, stop=stop, finishes=finishes, process=os.getpid(), host=socket.gethostname())
    with place.open() as folder, temporary(folder, "run") as note:
        with locked(folder):
            note.write(_NOTE, record_bytes(own.model_dump()))
            for name, other in _others(folder, note.path.name):
                if own.is_at_odds_with(other) and state_of(folder, name) == "running":
                    raise StoreError(
                        f"process {other.process} on {ascii(other.host)} is sweeping samples {other.first} to "
                        f"{other.stop - 1} into {place.path}, and this one would sweep {first} to {stop - 1}: choose "
                        "another path, or run_distributed for all parts and collect_results"
                    )
        yield note.path.name


def is_alone(folder: Folder, besides: str = "") -> bool:
    """Whether no run but one with a name is known or suspected to go on in the folder of a sweep."""
    names = [name for name in folder.names() if is_temporary(name, "run") and name != besides]
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
