"""Whatever a stranger does to a store, it answers as a store can or raises a StoreError, at once, and nothing leaks."""
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
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
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "sound", request.param)
        yield Path(folder) / "sound"


def expect_answers_or_errors_of_ours(question):
    """Ask, and bound what that takes; any other error than ours comes through."""
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        question()
    except StoreError as error:
        assert str(error)
    except IndexError as error:  # which positions a sample has is known when the model has seen it
        assert "neuron" in str(error) and "out of range: positions of layer" in str(error)
    except ValueError as error:
        assert any(known in str(error) for known in OURS), error
    assert time.process_time() - begin < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


def check_mutated(sound, data, slowly, most):
    with tempfile.TemporaryDirectory() as folder:
        store, secret = Path(folder) / "store", Path(folder) / "secret"
        secret.mkdir()
        (secret / "file").write_text("secret")
        shutil.copytree(sound, store)
        mutate(data.draw, store)
        _watched.append(store)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expect_answers_or_errors_of_ours(lambda: verify(store))
                questions = [*ask_slowly(store, Path(folder) / "copies")] if slowly else [*ask(store)]
                for question in data.draw(st.lists(st.sampled_from(questions), min_size=2, max_size=most)):
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
    check_mutated(sound, data, slowly=False, most=4)


@pytest.mark.slow
@checked(150)
@given(data=st.data())
def test_many_stores_of_strangers(sound, data):
    check_mutated(sound, data, slowly=data.draw(st.integers(0, 99)) == 0, most=2)
