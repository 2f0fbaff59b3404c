"""Pins, notes and names that people give while they explore: kept in the store."""
from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from crp.explorer.documents import Notes
from crp.store import ReferenceStore, StoreError
from crp.store.archive import archive_bytes
from crp.store.attached import read_attached, write_attached

_KIND, _STEM = "crp-notes 1", "notes"
MOST_LETTERS = 500_000


class Notebook:
    """What people keep about a store, in a file of the store.

    Parameters
    ----------
    store : ReferenceStore
    """

    def __init__(self, store: ReferenceStore):
        self._store, self._lock = store, threading.Lock()
        self._notes: Notes | None = None

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
            if self._notes is None:
                found = read_attached(self._store, _STEM, _KIND, _made_of)
                self._notes = Notes() if found is None else found[0]
            return self._notes

    def write(self, notes: Notes) -> None:
        """Keep notes in the place of those that were there.

        Raises
        ------
        ValueError
            If they are too long.
        StoreError, OSError
            If nothing can be written there.
        """
        said = [note for note in notes.notes if note.text or note.name]
        letters = sum(len(note.text) + len(note.name) for note in said)
        if letters > MOST_LETTERS:
            raise ValueError(f"notes and names have {letters:,} letters; a store keeps at most {MOST_LETTERS:,}")
        notes = Notes(pins=notes.pins, notes=said)
        with self._lock:
            write_attached(self._store, _STEM, archive_bytes(_KIND, notes.model_dump(), {}))
            self._notes = notes

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


def _made_of(settings: dict[str, Any], arrays: dict[str, Any]) -> Notes:
    if arrays:
        raise ValueError("notes have no arrays")
    return Notes.model_validate(settings)
