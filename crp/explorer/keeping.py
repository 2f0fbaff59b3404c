"""Files that are made once: in memory, and in a folder of the store, of which the oldest go when they are too many."""
from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from crp import __version__
from crp.store import ReferenceStore, StoreError
from crp.store.folder import Folder

FOLDER = "explorer"
MOST_BYTES, MOST_IN_MEMORY, LARGEST = 2 ** 29, 2 ** 26, 2 ** 27
_DIGEST = 32
_EVERY = 64  # files written between two looks at the size of the folder


class Kept:
    """What was made from a store, by all that changes it.

    Parameters
    ----------
    store : ReferenceStore
        Files lie in its folder ``explorer``; where nothing can be written there, they are kept in memory alone.
    """

    def __init__(self, store: ReferenceStore):
        self._store, self._lock = store, threading.Lock()
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._bytes, self._written = 0, 0

    def read(self, key: dict[str, Any]) -> bytes | None:
        """What was kept under a key; None if there is nothing."""
        name = self._name(key)
        with self._lock:
            if name in self._memory:
                self._memory.move_to_end(name)
                return self._memory[name]
        content = self._read_file(name)
        if content is not None:
            self._remember(name, content)
        return content

    def holds(self, key: dict[str, Any]) -> bool:
        """Whether something is kept under a key, damaged or not."""
        name = self._name(key)
        with suppress(OSError, StoreError), self._store.place.open() as parent, parent.folder(FOLDER) as folder:
            return folder.has(name)
        return False

    def write(self, key: dict[str, Any], content: bytes, on_disk: bool = True) -> bytes:
        """Keep something, which comes back; in memory alone, if it is not to outlive the process."""
        name = self._name(key)
        self._remember(name, content)
        if on_disk:
            with suppress(OSError, StoreError):  # the store may lie where nothing can be written, or be gone
                self._write_file(name, content)
        return content

    def _name(self, key: dict[str, Any]) -> str:
        whole = {"store": self._store.identity(), "version": __version__, **key}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:40]

    def _remember(self, name: str, content: bytes) -> None:
        with self._lock:
            self._bytes += len(content) - len(self._memory.pop(name, b""))
            self._memory[name] = content
            while self._bytes > MOST_IN_MEMORY and len(self._memory) > 1:
                self._bytes -= len(self._memory.popitem(last=False)[1])

    def _read_file(self, name: str) -> bytes | None:
        with suppress(OSError, StoreError), self._store.place.open() as parent, parent.folder(FOLDER) as folder:
            if folder.status(name).st_size <= LARGEST:
                with folder.read(name) as file:
                    digest, content = file.read(_DIGEST), file.read(LARGEST)
                if hashlib.sha256(content).digest() == digest:  # what is damaged is made again
                    return content
        return None

    def _write_file(self, name: str, content: bytes) -> None:
        with self._store.place.open() as parent, parent.make(FOLDER) as folder:
            unfinished = f".{name}.{secrets.token_hex(4)}"
            try:
                with folder.create(unfinished) as file:
                    file.write(hashlib.sha256(content).digest() + content)
                folder.rename(unfinished, folder, name)
            finally:
                folder.remove(unfinished)
            self._written += 1
            if self._written % _EVERY == 1:
                _remove_oldest(folder)


def _remove_oldest(folder: Folder) -> None:
    """Remove files until those that are left have few enough bytes."""
    found = []
    for name in folder.names():
        with suppress(OSError):
            status = folder.status(name)
            found.append((status.st_mtime, status.st_size, name))
    total = sum(size for _, size, _ in found)
    for _, size, name in sorted(found):
        if total <= MOST_BYTES:
            return
        folder.remove(name)
        total -= size
