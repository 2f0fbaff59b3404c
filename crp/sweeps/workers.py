"""Shards computed by the workers of an executor: process pools, loky, dask and whatever else has ``submit``.

A worker gets its sweep through a file in the folder of the store, loads it once, and writes shards where they belong.
Nothing else travels. The file is pickled; it is there while workers run, is read by them alone, and only if it has the
sha256 that came with the task.
"""
from __future__ import annotations

import hashlib
import importlib
import io
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import torch

from crp.store.folder import StoreError
from crp.store.place import Place
from crp.store.temporaries import temporary

_SENT = "sweep.pickle"
_loaded: dict[str, Any] = {}
_one_at_a_time = threading.Lock()


class WritesShards(Protocol):
    """What can be shared among workers, such as a :class:`crp.sweeps.Sweep`."""

    path: Path

    def join(self, manifest: str) -> None:
        """Get ready to write shards of a sweep that has been begun; ``manifest`` is the sha256 of its manifest."""

    def write_shard(self, first: int, stop: int) -> None:
        """Write one shard of it."""


@dataclass(frozen=True)
class _Job:
    """What a worker is told: where its sweep is, and how many threads it may use."""

    path: str
    file: str
    sha256: str
    manifest: str
    threads: int


class Workers:
    """Computes the shards of a sweep through an executor.

    Parameters
    ----------
    executor : object
        ``submit(function, *args)`` returns something with ``result()``.
    sweep : WritesShards
    make : callable, optional
        ``() -> WritesShards``, called in each worker instead of sending the sweep there.
    """

    def __init__(self, executor: Any, sweep: WritesShards, make: Callable[[], WritesShards] | None = None):
        if not callable(getattr(executor, "submit", None)):
            raise TypeError(f"an executor has a method submit, which {type(executor).__name__} lacks")
        self.executor = executor
        self._content = _pickled(make or sweep)

    def write_shards(self, place: Place, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Let workers write shards of a sweep; yields the samples of each that is there, in order.

        Raises
        ------
        Exception
            Whatever a worker raises. Other shards that have been begun are finished.
        """
        digest = hashlib.sha256(self._content).hexdigest()
        with place.open() as folder, temporary(folder, "job") as sent:
            sent.write(_SENT, self._content)
            job = _Job(str(place.path.absolute()), str(sent.path.absolute() / _SENT), digest, place.manifest_hash,
                       torch.get_num_threads())
            yield from self._results(job, parts)

    def _results(self, job: _Job, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        futures = []
        try:
            for part in parts:
                futures.append(self.executor.submit(_write_shard, job, *part))
            for part, future in zip(parts, futures):
                future.result()
                yield part
        except BrokenExecutor:
            futures.clear()  # all fail by themselves; Python's pool never ends if it finds one cancelled meanwhile
            raise
        finally:
            for future in futures:
                getattr(future, "cancel", bool)()


class _Pickler(cloudpickle.CloudPickler):
    def reducer_override(self, value: Any) -> Any:
        """Modules of a kind of their own, such as torch.classes, go by name; cloudpickle fails with them."""
        if isinstance(value, types.ModuleType) and type(value) is not types.ModuleType:
            return importlib.import_module, (value.__name__,)
        return super().reducer_override(value)


def _pickled(value: Any) -> bytes:
    content = io.BytesIO()
    try:
        _Pickler(content).dump(value)
    except Exception as error:  # whatever an object raises that cannot be pickled
        raise TypeError(
            f"a model, dataset or composite cannot be sent to workers: {error}. "
            "factory= takes a function that makes them there"
        ) from error
    return content.getvalue()


def _write_shard(job: _Job, first: int, stop: int) -> None:
    """What a worker does; one shard at a time, also where the worker has several threads."""
    with _one_at_a_time:
        if torch.get_num_threads() != job.threads:
            torch.set_num_threads(job.threads)
        if job.sha256 not in _loaded:
            _loaded.clear()
            _loaded[job.sha256] = _load(job)
        _loaded[job.sha256].write_shard(first, stop)


def _load(job: _Job) -> WritesShards:
    try:
        content = Path(job.file).read_bytes()
    except FileNotFoundError:
        raise StoreError(
            f"{job.file} is not there: the sweep has ended, or this worker does not see the folder of the store"
        ) from None
    if hashlib.sha256(content).hexdigest() != job.sha256:
        raise StoreError(f"{job.file} is not what was sent")
    sent = cloudpickle.loads(content)
    sweep: WritesShards = sent() if callable(sent) else sent
    sweep.path = Path(job.path)
    sweep.join(job.manifest)
    return sweep
