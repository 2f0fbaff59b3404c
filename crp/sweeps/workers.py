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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import torch

from crp.model.samples import RemoteError, SampleError, describe_error, is_death_of_reader
from crp.store.folder import StoreError
from crp.store.place import Place
from crp.store.schema import range_of
from crp.store.shards import finished_shards
from crp.store.temporaries import temporary

_SENT = "sweep.pickle"
_KINDS = StoreError, FloatingPointError, IndexError, ValueError, TypeError, ImportError, MemoryError, OSError
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

    Raises
    ------
    TypeError
        If the executor is none, or the sweep cannot be sent.
    ValueError
        If the executor forks this process, which would hang.
    """

    def __init__(self, executor: Any, sweep: WritesShards, make: Callable[[], WritesShards] | None = None):
        if not callable(getattr(executor, "submit", None)):
            raise TypeError(f"an executor has a method submit, which {type(executor).__name__} lacks")
        _check_start(executor)
        self.executor = executor
        self._content = _pickled(make or sweep)

    def write_shards(self, place: Place, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Let workers write shards of a sweep; yields the samples of each that is there, in order.

        Raises
        ------
        SampleError, StoreError, RuntimeError, ...
            What a worker met with, in words: the error is of the nearest kind that Python has, and a note holds the
            traceback. Other shards that have been begun are finished.
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
                error = future.result()
                if error is not None:
                    raise error from getattr(error, "error", None)
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


def _check_start(executor: Any) -> None:
    context = getattr(executor, "_mp_context", None)
    if context is None or context.get_start_method() != "fork":
        return
    if torch.get_num_threads() > 1 or torch.cuda.is_initialized():
        raise ValueError(
            "the executor forks this process, in which PyTorch has threads or a GPU that its children lack: they would "
            'hang. Let it start them anew: ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))'
        )


@contextmanager
def deaths_in_words(place: Place, parts: list[tuple[int, int]]) -> Iterator[None]:
    """Say of processes that die within the context how many of the shards are finished, and how to go on.

    Raises
    ------
    RuntimeError
        If one does.
    """
    try:
        yield
    except Exception as error:
        is_death = isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"  # that of dask
        if not is_death and not is_death_of_reader(error):
            raise
        finished = {range_of(record) for record in finished_shards(place).values()}
        raise RuntimeError(
            f"a worker died; often memory has run out, something killed it, or a script that starts processes lacks "
            f'if __name__ == "__main__". {len(finished.intersection(parts))} of {len(parts)} shards are finished, and '
            f"the same call goes on with the others. {describe_error(error)}"
        ) from error


def _write_shard(job: _Job, first: int, stop: int) -> Exception | None:
    """What a worker does; one shard at a time, also where the worker has several threads. Errors are given back."""
    try:
        with _one_at_a_time:
            if torch.get_num_threads() != job.threads:
                torch.set_num_threads(job.threads)
            if job.sha256 not in _loaded:
                _loaded.clear()
                _loaded[job.sha256] = _load(job)
            _loaded[job.sha256].write_shard(first, stop)
    except Exception as error:  # others may be unable to unpickle it
        return _in_words(error)
    return None


def _in_words(error: Exception) -> Exception:
    """The same error, of a class that every process has."""
    remote = RemoteError.of(error.error if isinstance(error, SampleError) else error)
    if isinstance(error, SampleError):
        return SampleError(error.index, remote)
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), RuntimeError)
    told = kind(str(error) if type(error) is kind else str(remote))
    told.add_note(remote.__notes__[0])
    return told


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
