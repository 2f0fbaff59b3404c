"""The one thread that runs the model: a queue of jobs with progress, of which the newest goes first."""
from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, TypeAlias

from crp.explorer.documents import Job

MOST_WAITING, MOST_ENDED = 128, 256

Progress: TypeAlias = Callable[[float], None]
State: TypeAlias = Literal["waiting", "running", "done", "failed", "cancelled"]


class CancelledError(Exception):
    """Raised within a job that is no longer wanted."""


class Work:
    """A job: what it computes, and how far it is."""

    def __init__(self, key: str, what: str, compute: Callable[[Progress], Any]):
        self.key, self.what, self._compute = key, what, compute
        self.state: State = "waiting"
        self.progress = 0.
        self.future: Future[Any] = Future()
        self.is_wanted = True
        self._lock = threading.Lock()

    def run(self) -> None:
        """Compute, unless it was cancelled before."""
        if not self._begin():
            return
        try:
            result = self._compute(self.report)
        except BaseException as error:  # whatever a model or a dataset raises, also SystemExit
            if self.is_wanted:
                self._end("failed", error)
            else:
                self._end("cancelled", CancelledError(f"{self.what}: cancelled"))
        else:
            self._end("done", None, result)

    def _begin(self) -> bool:
        with self._lock:
            if self.state == "waiting":
                self.state = "running"
            return self.state == "running"

    def report(self, progress: float) -> None:
        """Say how far the job is, and end it if it is no longer wanted."""
        if not self.is_wanted:
            raise CancelledError(f"{self.what}: cancelled")
        self.progress = min(max(progress, 0.), 1.)

    def cancel(self) -> None:
        """End the job at its next report."""
        self.is_wanted = False
        if self.state == "waiting":
            self._end("cancelled", CancelledError(f"{self.what}: cancelled"))

    def _end(self, state: State, error: BaseException | None, result: Any = None) -> None:
        with self._lock:
            if self.future.done():
                return
            self.state = state
            if error is None:
                self.progress = 1.
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

    @property
    def is_alive(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ("waiting", "running")

    def document(self) -> Job:
        """What to say of it."""
        error = self.future.exception() if self.state in ("failed", "cancelled") else None
        return Job(
            job=self.key, what=self.what, state=self.state, progress=self.progress,
            error="" if error is None else f"{type(error).__name__}: {error}"[:2000],
        )


class Worker:
    """Runs jobs one after the other in a thread; those of one key once."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Work] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def submit(self, key: str, what: str, compute: Callable[[Progress], Any]) -> Work:
        """A job of a key: the one that there is, waiting, running or failed, or a new one, which goes first."""
        with self._changed:
            found = self._jobs.get(key)
            if found is not None and found.is_wanted and found.state != "done":
                self._jobs.move_to_end(key)
                return found
            job = self._jobs[key] = Work(key, what, compute)
            self._jobs.move_to_end(key)
            self._forget()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="crp-explorer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    def _forget(self) -> None:
        """Drop what has ended long ago, and what has waited longest where too much waits."""
        waiting = [job for job in self._jobs.values() if job.state == "waiting"]
        for job in waiting[:max(len(waiting) - MOST_WAITING, 0)]:
            job.cancel()
        ended = [key for key, job in self._jobs.items() if not job.is_alive]
        for key in ended[:max(len(ended) - MOST_ENDED, 0)]:
            del self._jobs[key]

    def job(self, key: str) -> Work | None:
        """The job of a key, if there is one."""
        with self._changed:
            return self._jobs.get(key)

    def cancel(self, key: str) -> bool:
        """End a job; whether there is one. One that failed can be tried again afterwards."""
        with self._changed:
            job = self._jobs.get(key)
            if job is None:
                return False
            job.cancel()
            if not job.is_alive:
                del self._jobs[key]
            return True

    def forget(self, job: Work) -> None:
        """Let go of a job that has ended, once its result was delivered: another request tries again."""
        with self._changed:
            if self._jobs.get(job.key) is job and not job.is_alive:
                del self._jobs[job.key]

    def jobs(self) -> list[Job]:
        """All that is waiting or running."""
        with self._changed:
            return [job.document() for job in self._jobs.values() if job.is_alive]

    def close(self) -> None:
        """Cancel all, and end the thread."""
        with self._changed:
            self._is_closed = True
            for job in self._jobs.values():
                if job.is_alive:
                    job.cancel()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                job = None
                while job is None and not self._is_closed:
                    job = next((job for job in reversed(self._jobs.values()) if job.state == "waiting"), None)
                    if job is None:
                        self._changed.wait()
                if job is None:
                    return
            job.run()
