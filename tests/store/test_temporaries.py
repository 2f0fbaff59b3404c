"""Temporaries are removed when whoever made them has ended, and not before; locks let one process in at a time."""
import errno
import fcntl
import itertools
import os
import time

import pytest
from killing import ended, fork, kill_at

from crp.store.folder import opened
from crp.store.temporaries import _machine, discard, locked, process_tag, remove_ended, state_of, temporary

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EBADF]


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path) as folder:
        yield folder


def refuse(code):
    def refusing(*arguments, **options):
        raise OSError(code, os.strerror(code))
    return refusing


def left_by(folder, process, machine=None, content=b"locked", age=0):
    """The name of a temporary that somebody left."""
    name = f".run.{machine or _machine()}.{process}.0123abcd"
    with folder.make(name) as made:
        made.write("lock", content)
        for path in (made.path / "lock", made.path):
            os.utime(path, (time.time() - age,) * 2)
    return name


def number_of_ended():
    child = fork(lambda: None)
    ended(child)
    return child


@pytest.mark.parametrize("code", [None, *NO_LOCKS])
def test_others_see_that_a_temporary_is_in_use_until_its_process_is_killed(folder, monkeypatch, code):
    if code is not None:
        monkeypatch.setattr(fcntl, "flock", refuse(code))

    def look(expected):
        name, = folder.names()
        assert state_of(folder, name) == expected
        remove_ended(folder)
        assert folder.has(name) == (expected == "running")

    with temporary(folder, "run"):
        assert ended(fork(lambda: look("running"))) == 0
        look("running")
    assert folder.names() == []

    def leave():
        with temporary(folder, "run"):
            os._exit(0)

    ended(fork(leave))
    look("ended")


def test_numbers_of_processes_are_used_again(folder):
    for process in (os.getpid(), os.getppid()):
        assert state_of(folder, left_by(folder, process)) == "ended"
    name = left_by(folder, 1, content=b"")
    assert state_of(folder, name) == "running"


@pytest.mark.parametrize("content, age, state", [
    (b"locked", 100_000, "ended"), (b"locked", 80_000, "unknown"), (b"", 100_000, "unknown"),
])
def test_other_machines(folder, content, age, state):
    name = left_by(folder, number_of_ended(), "0123456789ab", content, age)
    assert state_of(folder, name) == state
    assert folder.names() == [name]


def test_names_of_temporaries_that_are_something_else(folder):
    ended_number = number_of_ended()
    file, link, empty = (f".run.{_machine()}.{ended_number}.{number:08x}" for number in range(3))
    (folder.path / file).write_bytes(b"")
    (folder.path / link).symlink_to("/")
    (folder.path / empty).mkdir()
    remove_ended(folder)
    assert folder.names() == []


def test_a_temporary_is_locked_although_another_process_looks_at_it(folder, monkeypatch):
    flock, calls = fcntl.flock, []

    def looked_at(descriptor, operation):
        calls.append(operation)
        if len(calls) == 1:
            name, = folder.names()
            with folder.folder(name) as made, made.read("lock") as file:
                flock(file.fileno(), fcntl.LOCK_EX)
                if operation & fcntl.LOCK_NB:
                    flock(descriptor, operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", looked_at)
    with temporary(folder, "run") as made:
        assert made.path.joinpath("lock").read_bytes() == b"locked"
        assert ended(fork(lambda: state_of(folder, made.path.name) == "running" or os._exit(1))) == 0


def test_one_process_at_a_time(folder):
    counter = folder.path / "counter"
    counter.write_text("0")

    def count():
        for _ in range(20):
            with locked(folder):
                number = int(counter.read_text())
                time.sleep(.0005)
                counter.write_text(str(number + 1))

    assert [ended(child) for child in [fork(count) for _ in range(3)]] == [0] * 3
    assert counter.read_text() == "60" and folder.names() == ["counter"]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_locks_anybody_goes_on(folder, monkeypatch, code):
    monkeypatch.setattr(fcntl, "flock", refuse(code))
    with locked(folder), locked(folder):
        pass
    assert folder.names() == []


def test_what_is_discarded_is_whole_or_absent(folder):
    for number in itertools.count(1):
        for name in "abc":
            (folder.path / "left" / name).mkdir(parents=True, exist_ok=True)
        was_killed = kill_at(number, lambda: discard(folder, "left"))
        assert not folder.has("left") or len(os.listdir(folder.path / "left")) == 3
        remove_ended(folder)
        assert folder.names() in ([], ["left"])
        if not was_killed:
            break
    assert number > 5 and folder.names() == []
    discard(folder, "left")


def test_tags_occur_once():
    assert len({process_tag() for _ in range(100)}) == 100
