"""Work on a store alone, in a process of its own: pages do not wait for it, and cancelled work ends at once."""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from crp.explorer.documents import Task
from crp.explorer.pattern_pages import find_and_keep, project_and_keep
from crp.explorer.source import Source
from crp.explorer.unit_pages import rank_and_keep
from crp.explorer.worker import Progress
from crp.store import ReferenceStore, StoreError

_PAUSE = .1  # seconds
_ERRORS: dict[str, type[Exception]] = {"StoreError": StoreError, "ValueError": ValueError}


def work_apart(store: ReferenceStore, task: Task, progress: Progress) -> None:
    """Find patterns, rank units or lay out samples; the store keeps the result.

    Parameters
    ----------
    store : ReferenceStore
    task : Task
    progress : callable
        Is told how far the work is, ten times a second; what it raises ends the work.

    Raises
    ------
    StoreError, ValueError, RuntimeError
        What the work raised.
    """
    command = [sys.executable, "-m", __name__, str(store.path), store.identity(), task.model_dump_json()]
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, bufsize=0, env=places,
        ) as process:
            try:
                last = _followed(process, progress)
            finally:
                process.kill()
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
    if "error" in last:
        raise _ERRORS.get(last["kind"], RuntimeError)(last["error"])
    if process.returncode != 0:
        raise RuntimeError(f"the process that did this ended with code {process.returncode}: {said or 'it was killed'}")


def _followed(process: subprocess.Popen[bytes], progress: Progress) -> dict[str, Any]:
    """Tell how far a process is until it ends; the last thing that it said."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    told, last = b"", {"progress": 0.}
    while True:
        has_ended = process.poll() is not None
        *lines, told = (told + (process.stdout.read() or b"")).split(b"\n")
        if lines:
            last = json.loads(lines[-1])
        progress(last.get("progress", 0.))
        if has_ended:
            return last
        time.sleep(_PAUSE)


class _WatchedStore(ReferenceStore):
    """A store that tells how much of its matrices is read."""

    def values(self, layer: str, quantity: str = "relevance", **how: Any) -> Any:
        """A matrix that is watched."""
        return _WatchedMatrix(super().values(layer, quantity, **how))


class _WatchedMatrix:
    """A matrix that tells how much of it is read: half is done after one reading, three quarters after two."""

    def __init__(self, matrix: Any):
        self._matrix, self._entries = matrix, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._matrix, name)

    def __len__(self) -> int:
        return len(self._matrix)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._told(self._matrix.__array__(dtype))

    def __getitem__(self, index: Any) -> Any:
        return self._told(self._matrix[index])

    def span(self, first: int, stop: int) -> np.ndarray:
        """Rows from one to another."""
        return self._told(self._matrix.span(first, stop))

    def blocks(self, rows: int = 1024) -> Iterator[np.ndarray]:
        """All rows in order, a few at a time."""
        return map(self._told, self._matrix.blocks(rows))

    def _told(self, read: np.ndarray) -> np.ndarray:
        self._entries += read.size
        _say(progress=1 - .5 ** (self._entries / max(self._matrix.shape[0] * self._matrix.shape[1], 1)))
        return read


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _work(path: str, identity: str, told: str) -> None:
    task, store = Task.model_validate_json(told), _WatchedStore(path)
    if store.identity() != identity:
        raise StoreError(f"{path} was replaced by another sweep")
    source = Source(store)
    if task.kind == "patterns":
        find_and_keep(source, task.layer, task.quantity)
    elif task.kind == "projection":
        project_and_keep(source, task.layer, task.quantity)
    else:
        rank_and_keep(source, task.layer, task.method)


def main(arguments: list[str]) -> int:
    """Do what a parent process asks for, and tell it on the standard output how far that is."""
    try:
        _work(*arguments)
    except Exception as error:
        _say(kind=type(error).__name__, error=str(error) or type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
