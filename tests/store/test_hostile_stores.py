"""Whatever a stranger does to a store, it answers as a store can or raises a StoreError, at once, and nothing leaks."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile_stores import KINDS, ask, ask_slowly, make, mutate
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from crp.store import StoreError, verify

pytestmark = pytest.mark.usefixtures("quick")
OURS = "there are no samples to average", "responses hold NaN", "a map needs two", "hold NaN or infinite numbers"
MOST_SECONDS, MOST_BYTES = 2, 100 * 10 ** 6
_watched: list[Path] = []
_opened_outside: list[str] = []


def watch(event, arguments):
    """Note what is opened in the folder beside the store, and files that hostile names stand for."""
    if _watched and event == "open" and isinstance(arguments[0], (str, bytes)):
        name = os.fsdecode(arguments[0])
        if "secret" in name or name == "/etc/passwd":
            _opened_outside.append(name)


sys.addaudithook(watch)


@pytest.fixture(scope="module", params=KINDS)
def sound(request, quick):
    """A store that is as it was at the end, although others are linked to its files; its readers are imported."""
    with tempfile.TemporaryDirectory() as folder:
        store, copy = Path(folder) / request.param / "sound", Path(folder) / "copy"
        make(store, request.param)
        shutil.copytree(store, copy)
        for question in ask_slowly(copy):
            try:
                question()
            except (StoreError, ValueError):  # such a store does not hold that
                pass
        yield store
        assert verify(store) == []


def expect_answers_or_errors_of_ours(question):
    """Ask, and bound how long that takes; any other error than ours comes through."""
    begin = time.process_time()
    try:
        question()
    except StoreError as error:
        assert str(error)
    except ValueError as error:
        assert any(known in str(error) for known in OURS), error
    assert time.process_time() - begin < MOST_SECONDS


@contextmanager
def bounded_memory():
    """Bound how far the memory of this process grows meanwhile, where the system can tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the largest so far is what it is now
    except OSError:
        yield
        return
    before = largest_memory()
    yield
    assert largest_memory() - before < MOST_BYTES


def largest_memory():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def check_mutated(sound, data, questions_at, most):
    """Ask a store that has been changed, and look whether anything beside it was read or written."""
    with tempfile.TemporaryDirectory() as folder:
        store, secret = Path(folder) / "store", Path(folder) / "secret"
        secret.mkdir()
        (secret / "file").write_text("secret")
        shutil.copytree(sound, store, copy_function=os.link)
        mutate(data.draw, store)
        questions = list(questions_at(store))
        chosen = data.draw(st.lists(st.sampled_from(questions), min_size=1, max_size=most))
        _watched.append(store)
        try:
            with warnings.catch_warnings(), bounded_memory():
                warnings.simplefilter("ignore")
                for question in (lambda: verify(store), *chosen):
                    expect_answers_or_errors_of_ours(question)
        finally:
            _watched.clear()
        assert not _opened_outside
        assert {path.name for path in Path(folder).iterdir()} <= {"store", "secret", "copies"}
        assert [(path.name, path.read_text()) for path in secret.iterdir()] == [("file", "secret")]


def checked(examples):
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )


@checked(8)
@given(data=st.data())
def test_a_store_of_a_stranger(sound, data):
    check_mutated(sound, data, ask, most=4)


@pytest.mark.slow
def test_many_stores_of_strangers(sound):
    """20,000 in all, more of the kinds that take less time."""
    examples = {"top": 8000, "unfinished": 4000, "unfinished_top": 4000}.get(sound.parent.name, 2000)
    checked(examples)(given(st.data())(lambda data: check_mutated(sound, data, ask, most=1)))()


@pytest.mark.slow
@checked(40)
@given(data=st.data())
def test_what_takes_long_to_ask_of_stores_of_strangers(sound, data):
    check_mutated(sound, data, ask_slowly, most=2)


@pytest.mark.slow
def test_bytes_that_a_fuzzer_makes_up(tmp_path):
    pytest.importorskip("atheris", reason="there is none for this system")
    limits = "-runs=100000", "-seed=1", f"-timeout={10 * MOST_SECONDS}", "-rss_limit_mb=0"  # it counts this process's
    fuzzer = Path(__file__).parent.parent / "fuzz_files.py"
    done = subprocess.run([sys.executable, fuzzer, *limits], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "Done 100000 runs" in done.stderr, done.stderr[-2000:]
