"""Pins, notes and names that people give while they explore: kept in the store."""
from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from crp.explorer.documents import Note, NoteChange, Notes
from crp.store import ReferenceStore, StoreError
from crp.store.archive import archive_bytes
from crp.store.attached import attached_stamp, read_attached, write_attached

_KIND, _STEM = "crp-notes 1", "notes"
MOST_LETTERS = 500_000
_LOOKED_UP = .5  # seconds


class Notebook:
    """What people keep about a store, in a file of the store.

    Parameters
    ----------
    store : ReferenceStore
    """

    def __init__(self, store: ReferenceStore):
        self._store, self._lock = store, threading.Lock()
        self._known: tuple[tuple[int, int] | None, Notes] | None = None
        self._looked = 0.

    @property
    def path(self) -> Path:
        """Of the store."""
        return self._store.path

    def read(self) -> Notes:
        """All that was kept.

        Raises
        ------
        StoreError
            If the file is damaged.
        """
        with self._lock:
            return self._read()

    def _read(self, now: bool = False) -> Notes:
        """All that was kept, read again when others have changed it, which is looked up now or not too often."""
        if self._known is None or now or time.monotonic() - self._looked > _LOOKED_UP:
            self._looked, stamp = time.monotonic(), attached_stamp(self._store, _STEM)
            if self._known is None or self._known[0] != stamp:
                found = read_attached(self._store, _STEM, _KIND, _made_of)
                self._known = stamp, Notes() if found is None else found[0]
        return self._known[1]

    def change(self, change: NoteChange) -> Notes:
        """Keep a pin, a note or a name beside the others that are there; all of them afterwards.

        Raises
        ------
        ValueError
            If they are too many or too long.
        StoreError, OSError
            If nothing can be written there.
        """
        with self._lock:
            notes = _changed(self._read(now=True), change)
            write_attached(self._store, _STEM, archive_bytes(_KIND, notes.model_dump(), {}))
            return self._read(now=True)

    def names(self, layer: int) -> dict[int, str]:
        """Names that people gave to concepts of a layer; none where the file is damaged, as :meth:`read` says."""
        try:
            notes = self.read().notes
        except StoreError:
            return {}
        return {
            note.on.number: note.name for note in notes
            if note.name and note.on.view == "concept" and note.on.layer == layer
        }


def _changed(notes: Notes, change: NoteChange) -> Notes:
    """Notes with one change."""
    pins = [pin for pin in notes.pins if pin != change.on or change.is_pinned is None]
    if change.is_pinned:
        pins.append(change.on)
    own = next((note for note in notes.notes if note.on == change.on), Note(on=change.on))
    own = own.model_copy(update=change.model_dump(include={"text", "name"}, exclude_none=True))
    said = [note for note in notes.notes if note.on != change.on] + [own] * bool(own.text or own.name)
    letters = sum(len(note.text) + len(note.name) for note in said)
    if letters > MOST_LETTERS:
        raise ValueError(f"notes and names have {letters:,} letters; a store keeps at most {MOST_LETTERS:,}")
    return Notes(pins=pins, notes=said)


def _made_of(settings: dict[str, Any], arrays: dict[str, Any]) -> Notes:
    if arrays:
        raise ValueError("notes have no arrays")
    return Notes.model_validate(settings)
