"""What goes wrong in another process is told in this one: where, and in the words of the error."""
import multiprocessing
import os
import pickle
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from urllib.error import HTTPError

import pytest
import torch
from large_sweeps import Images, contents, run, visualization
from zennit.composites import EpsilonPlusFlat

from crp.model.samples import SampleError
from crp.store import StoreError, verify
from crp.store.place import place_of_store
from crp.store.shards import finished_shards
from crp.sweeps.workers import Workers

pytestmark = pytest.mark.usefixtures("quick")


class Elsewhere:
    """An executor whose results and errors come back as from another process: pickled."""

    def submit(self, function, *arguments):
        future = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(function(*arguments))))
        except Exception as error:
            future.set_exception(pickle.loads(pickle.dumps(error)))
        return future


class ClientError(Exception):
    """Pickles, but cannot be unpickled, like many errors with arguments of their own."""

    def __init__(self, response, operation):
        super().__init__(f"{operation} failed: {response}")


class Bucket(Images):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, index):
        if index == 21:
            raise self.error()
        return super().__getitem__(index)


def client_error():
    return ClientError("NoSuchKey", "GetObject")


def http_error():
    return HTTPError("http://host/21.png", 503, "busy", {}, None)


@pytest.mark.parametrize("how", [{"executor": Elsewhere()}, {"num_workers": 1}])
@pytest.mark.parametrize("error, text", [
    (client_error, "sample 21: ClientError: GetObject failed: NoSuchKey"),
    (http_error, "sample 21: HTTPError: HTTP Error 503: busy"),
])
def test_errors_of_a_dataset_that_cannot_be_unpickled(tmp_path, error, text, how):
    with pytest.raises(SampleError, match=text) as caught:
        run(tmp_path, Bucket(error), **how)
    assert caught.value.index == 21
    assert "raise self.error()" in "".join(traceback.format_exception(caught.value))
    assert run(tmp_path, Bucket(error), on_error="skip", **how).skipped == {21: text.removeprefix("sample 21: ")}


def test_errors_of_samples_can_be_sent_to_any_process():
    error = pickle.loads(pickle.dumps(SampleError(3, client_error())))
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "sample 3: ClientError: GetObject failed: NoSuchKey"


@pytest.mark.parametrize("make, kind, text", [
    (lambda: StoreError("not that one"), StoreError, "not that one"), (lambda: ValueError("five"), ValueError, "five"),
    (lambda: UnicodeDecodeError("ascii", b"a", 0, 1, "no"), ValueError,
     "UnicodeDecodeError: 'ascii' codec can't decode byte 0x61 in position 0: no"),
    (lambda: FileNotFoundError("model.pt"), OSError, "FileNotFoundError: model.pt"),
    (client_error, RuntimeError, "ClientError: GetObject failed: NoSuchKey"),
    (lambda: KeyError("weight"), RuntimeError, "KeyError: 'weight'"),
])
def test_errors_of_a_factory_are_of_the_nearest_kind(tmp_path, make, kind, text):
    def factory():
        raise make()

    with pytest.raises(kind) as caught:
        run(tmp_path, executor=Elsewhere(), factory=factory)
    assert type(caught.value) is kind and str(caught.value) == text
    assert "in factory" in caught.value.__notes__[0]


class Dying(Images):
    """Ends a process that reads it, as if it was killed, as long as a file is there."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def __getitem__(self, index):
        if index == 21 and multiprocessing.parent_process() is not None and self.file.exists():
            os._exit(137)
        return super().__getitem__(index)


def check_told_of_death(tmp_path, finished, **how):
    (tmp_path / "deadly").touch()
    data = Dying(tmp_path / "deadly")
    with pytest.raises(RuntimeError, match=f"a worker died; .* {finished} of 5 shards are finished, and the same call"):
        run(tmp_path / "store", data, **how)
    assert str(len(finished_shards(place_of_store(tmp_path / "store")))) in finished
    (tmp_path / "deadly").unlink()
    run(tmp_path / "store", data)
    run(tmp_path / "whole", data)
    assert contents(tmp_path / "store") == contents(tmp_path / "whole") and verify(tmp_path / "store") == []


@pytest.mark.slow
def test_a_process_that_reads_the_dataset_dies(tmp_path):
    check_told_of_death(tmp_path, "2", num_workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spawn", "loky"])
def test_a_process_that_computes_shards_dies(tmp_path, kind):
    if kind == "loky":
        pool = pytest.importorskip("loky").ProcessPoolExecutor(1)
    else:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context(kind))
    with pool:
        check_told_of_death(tmp_path, "[12]", executor=pool)


def test_a_scheduler_gives_up_after_several_workers_died(tmp_path):
    killed = type("KilledWorker", (Exception,), {})  # as dask calls it

    class Scheduler:
        def submit(self, function, *arguments):
            future = Future()
            future.set_exception(killed("4 times"))
            return future

    with pytest.raises(RuntimeError, match="a worker died; .* 0 of 5 shards are finished.* KilledWorker: 4 times"):
        run(tmp_path, executor=Scheduler())


def test_pools_that_fork_threads_are_refused(tmp_path):
    sweep = visualization(tmp_path).sweep(EpsilonPlusFlat())
    pools = {kind: ProcessPoolExecutor(1, multiprocessing.get_context(kind)) for kind in
             ("fork", "spawn", "forkserver")}  # none starts a process yet
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match=r'they would hang.*mp_context=multiprocessing.get_context\("spawn"\)'):
            run(tmp_path, executor=pools["fork"])
        assert not list(tmp_path.iterdir())
        for pool in (pools["spawn"], pools["forkserver"], ThreadPoolExecutor(1), Elsewhere()):
            Workers(pool, sweep)
    finally:
        torch.set_num_threads(1)
    Workers(pools["fork"], sweep)
