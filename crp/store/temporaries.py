"""Folders that exist while something is written, and are known to be dead when whoever wrote there has ended."""
from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from crp.store.folder import Folder, StoreError, walk

_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.EPERM}
LOCK = ".lock"
_LOCK = "lock"
_HAS_BEEN_LOCKED = b"locked"
_own: set[str] = set()


def process_tag() -> str:
    """A part of the names of temporaries: on which machine, by which process, and a number that occurs once."""
    return f"{_machine()}.{os.getpid()}.{secrets.token_hex(4)}"


@contextmanager
def temporary(folder: Folder, kind: str) -> Iterator[Folder]:
    """A new folder in another one, removed at the end; locked, where there are locks, so that others see it is in use.

    What shall last is moved out of it by a rename.
    """
    name = f".{kind}.{process_tag()}"
    _own.add(name)
    try:
        os.mkdir(name, dir_fd=folder.descriptor)
        with folder.folder(name) as made, made.create(_LOCK) as file:
            if _lock(file.fileno()):
                os.write(file.fileno(), _HAS_BEEN_LOCKED)
            yield made
    finally:
        folder.remove(name)
        _own.remove(name)


def discard(folder: Folder, name: str) -> None:
    """Remove a file or folder at once, so that nobody finds a part of it; passed by if it is not there."""
    try:
        with temporary(folder, "old") as old:
            folder.rename(name, old, "old")
    except OSError:  # it is not there, or cannot be moved
        folder.remove(name)


@contextmanager
def locked(folder: Folder, name: str = LOCK) -> Iterator[None]:
    """Be the only process in a part of the program, where the file system has locks; elsewhere anybody goes on."""
    with _file_of(folder, name) as file:
        try:
            yield
        finally:
            if _is_in(folder, name, file):
                folder.remove(name)


def remove_free_lock(folder: Folder, name: str = LOCK) -> None:
    """Remove the file that a process left which was killed in the part of the program that it locks."""
    if folder.has(name):
        with locked(folder, name):
            pass


def _file_of(folder: Folder, name: str) -> BufferedRandom:
    """The file of a name, locked; there is none before the first process locks it, and after the last one has."""
    while True:
        try:
            folder.create(name).close()
        except FileExistsError:
            pass
        try:
            file = folder.extend(name)
        except FileNotFoundError:
            continue
        try:
            if not _lock(file.fileno()) or _is_in(folder, name, file):
                return file
        except OSError:
            file.close()
            raise
        file.close()


def _is_in(folder: Folder, name: str, file: BufferedRandom) -> bool:
    """Whether a file that is open is the one that has a name now."""
    try:
        return os.path.samestat(folder.status(name), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    """Lock a file when no other process does; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_locked(descriptor: int) -> bool | None:
    """Whether a process holds the lock of a file; None where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return False


def remove_lock(made: Folder) -> None:
    """Unlock a temporary that is about to be what it was made for."""
    made.remove(_LOCK)


def is_temporary(name: str, kind: str = r"\w+") -> bool:
    """Whether a name is that of a temporary, of a kind that a regular expression gives."""
    return re.fullmatch(rf"\.{kind}\.[0-9a-f]{{12}}\.\d{{1,19}}\.[0-9a-f]{{8}}", name) is not None


def state_of(folder: Folder, name: str) -> str:
    """Whether whoever made a temporary is "running" or has "ended", or that this is "unknown".

    It runs while it holds the lock. Where there was none to be had, a process of this machine is asked for by its
    number. The locks of other machines may not reach here: what they left is said to have ended only if it has been
    locked, is not any more, and nothing was written for a day by the clock of the file system.
    """
    if name in _own:
        return "running"
    _, machine, process, _ = name.rsplit(".", 3)
    is_locked, has_been_locked, last = None, False, float("inf")
    try:
        with folder.folder(name) as found, found.extend(_LOCK) as file:
            is_locked = _is_locked(file.fileno())
            has_been_locked = file.read() == _HAS_BEEN_LOCKED
            last = max((status.st_mtime for _, status in walk(found)), default=last)
    except (OSError, StoreError):  # it begins or ends just now, or cannot be looked at
        pass
    if is_locked:
        return "running"
    was_let_go = is_locked is False and has_been_locked
    if machine == _machine():
        return "ended" if was_let_go or not _runs(int(process)) else "running"
    return "ended" if was_let_go and last < _clock_of(folder) - 86_400 else "unknown"


def remove_ended(folder: Folder, kind: str = r"\w+") -> None:
    """Remove the temporaries of processes that have ended, of a kind that a regular expression gives."""
    for name in folder.names():
        if is_temporary(name, kind) and state_of(folder, name) == "ended":
            folder.remove(name)


def _clock_of(folder: Folder) -> float:
    """The time by the clock of the file system."""
    with temporary(folder, "clock") as made:
        return made.status(_LOCK).st_mtime


def _runs(process: int) -> bool:
    """Whether another process has a number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _machine() -> str:
    """A name for what numbers processes: this boot of this machine, and this container."""
    known = [socket.gethostname()]
    for place in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            known.append(os.readlink(place) if "/ns/" in place else Path(place).read_text())
        except OSError:  # not on this system
            pass
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:12]
