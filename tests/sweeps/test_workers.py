"""Shards may be computed by workers of any executor, in any order, and some may be lost on the way."""
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from large_sweeps import SAMPLES, Images, contents, network, run, specification, visualization
from torch import nn
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import StoreError, verify
from crp.store.place import place_of_store
from crp.store.shards import finished_shards
from crp.visualization import FeatureVisualization


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads as workers will have, so that results are the same to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, one_thread):
    path = tmp_path_factory.mktemp("undisturbed")
    run(path)
    return contents(path)


class Backwards:
    """An executor of the simplest kind: it computes when asked, the last first."""

    def __init__(self, lost=()):
        self.tasks, self.lost = [], set(lost)

    def submit(self, function, *arguments):
        future = Future()
        number = len(self.tasks)
        self.tasks.append((future, function, arguments, number))

        class Result:
            @staticmethod
            def result():
                self.work()
                return future.result()

        return Result()

    def work(self):
        while self.tasks:
            future, function, arguments, number = self.tasks.pop()
            try:
                if number in self.lost:
                    raise ConnectionError("the worker was lost")
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)


def spawned(workers=2):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def worker(one_thread):
    """A pool of one process, which computes for one test after another."""
    with spawned(1) as pool:
        yield pool


def test_any_order_gives_the_same_store(tmp_path, undisturbed):
    run(tmp_path, executor=Backwards())
    assert contents(tmp_path) == undisturbed


def test_what_lost_workers_leave_is_completed(tmp_path, undisturbed):
    with pytest.raises(ConnectionError, match="was lost"):
        run(tmp_path, executor=Backwards(lost=[1, 3]))
    assert list(finished_shards(place_of_store(tmp_path))) == ["00000000", "00000016", "00000032"]
    assert verify(tmp_path) == []
    run(tmp_path, executor=Backwards())
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_spawned_processes(tmp_path, undisturbed):
    with spawned() as pool:
        run(tmp_path / "store", executor=pool)
        assert contents(tmp_path / "store") == undisturbed
        with pytest.raises(SampleError, match="sample 21: OSError: image21.png is truncated"):
            run(tmp_path / "broken", Images(broken=[21]), executor=pool)
        assert not list((tmp_path / "broken").glob(".*"))
        run(tmp_path / "broken", executor=pool)
    assert contents(tmp_path / "broken") == undisturbed


def test_a_killed_process_of_a_pool(tmp_path, undisturbed):
    with spawned() as pool:
        pool.submit(os.getpid).result()
        threading.Timer(.2, os.kill, (next(iter(pool._processes)), signal.SIGKILL)).start()
        with pytest.raises(RuntimeError, match="a worker died.* of 2000 shards are finished.* terminated abruptly"):
            run(tmp_path, Images(length=4000), batch_size=1, executor=pool)
    assert verify(tmp_path) == []


def test_a_pool_that_is_broken_is_left_to_fail_its_futures(tmp_path):
    class Broken:
        futures = []

        def submit(self, function, *arguments):
            self.futures.append(Future())
            self.futures[0].set_exception(BrokenProcessPool("ended")) if len(self.futures) == 1 else None
            return self.futures[-1]

    with pytest.raises(RuntimeError, match="a worker died.* 0 of 5 shards are finished.* BrokenProcessPool: ended"):
        run(tmp_path, executor=Broken())
    assert len(Broken.futures) > 2 and not any(future.cancelled() for future in Broken.futures)


@pytest.mark.slow
def test_loky(tmp_path, undisturbed):
    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=1)
    try:
        run(tmp_path, executor=pool)
    finally:
        pool.shutdown(wait=True, kill_workers=True)
    assert contents(tmp_path) == undisturbed


def slow_network():
    class Slow(nn.ReLU):
        def forward(self, x):
            time.sleep(.05)
            return super().forward(x)

    model = network()
    model.relu = Slow()
    return model


@pytest.mark.slow
def test_a_dask_cluster_whose_worker_is_killed(tmp_path):
    from distributed import Client, LocalCluster

    model = slow_network()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))

        def kill():
            while len(list(tmp_path.glob("store/shards/0*"))) < 2:
                time.sleep(.01)
            os.kill(victim, signal.SIGKILL)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        options = {"visualization_options": {"model": model}}
        store = run(tmp_path / "store", executor=client, **options)
        thread.join()
        assert client.run(os.getpid).values() != victim
    assert store.ranges == [[0, SAMPLES]] and verify(tmp_path / "store") == []
    run(tmp_path / "alone", **options)
    assert contents(tmp_path / "store") == contents(tmp_path / "alone")


def specified_differently():
    return {**specification(), "composite": EpsilonPlusFlat(epsilon=1e-2)}


@pytest.mark.slow
def test_factories_make_models_and_datasets_in_the_workers(tmp_path, undisturbed, worker):
    loaded = []

    def factory():
        loaded.append(os.getpid())
        return specification()

    run(tmp_path / "store", executor=Backwards(), factory=factory)
    assert contents(tmp_path / "store") == undisturbed
    run(tmp_path / "spawned", executor=worker, factory=specification)
    assert contents(tmp_path / "spawned") == undisturbed
    with pytest.raises(StoreError, match="composite.rules.fc"):
        run(tmp_path / "other", executor=Backwards(), factory=specified_differently)
    with pytest.raises(SampleError):
        run(tmp_path / "broken", Images(broken=[30]), executor=Backwards())


def test_a_worker_loads_once(tmp_path):
    run(tmp_path, executor=Backwards(), factory=counted, dataset=Images())
    assert COUNT == [1]


COUNT = [0]


def counted():
    import test_workers

    test_workers.COUNT[0] += 1
    return specification()


def test_what_is_no_executor(tmp_path):
    with pytest.raises(TypeError, match="has a method submit, which list lacks"):
        run(tmp_path, executor=[])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_sent_is_refused_before_work_starts(tmp_path):
    images = Images()
    images.lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to workers: cannot pickle .*lock.*factory="):
        run(tmp_path, images, executor=Backwards())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_use_as_many_threads_as_the_caller(tmp_path, worker):
    worker.submit(torch.set_num_threads, 2).result()
    run(tmp_path, executor=worker)
    assert worker.submit(torch.get_num_threads).result() == 1


def test_tampered_jobs_are_not_unpickled(tmp_path):
    class Tampering(Backwards):
        def work(self):
            for file in tmp_path.glob(".job.*/sweep.pickle"):
                file.write_bytes(file.read_bytes() + b"x")
            super().work()

    with pytest.raises(StoreError, match="is not what was sent"):
        run(tmp_path, executor=Tampering())
    assert visualization(tmp_path).path == tmp_path


SCRIPT = """
import torch
from large_sweeps import Images

class LabelledImages(Images):
    classes = ["a", "b", "c"]  # named like one of torch's modules, for which a pickler may take it

    def __getitem__(self, index):
        image, target = Images.__getitem__(self, index)
        return torch.as_tensor(image), self.classes.index(self.classes[target])
"""


@pytest.mark.slow
def test_classes_of_a_script_are_sent_by_value(tmp_path, undisturbed, worker):
    script = {"__name__": "__main__"}
    exec(SCRIPT, script)
    run(tmp_path, script["LabelledImages"](), executor=worker)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_classes_of_a_function_are_sent_by_value(tmp_path, worker):
    class Halved(nn.ReLU):
        def forward(self, x):
            return super().forward(x) / 2

    class Network(nn.Sequential):
        def forward(self, x):
            return super().forward(x)

    class Channels(ChannelConcept):
        def mask(self, batch_id, concept_ids, layer_name=None):
            return super().mask(batch_id, concept_ids, layer_name)

    class Attribution(CondAttribution):
        pass

    class Plus(EpsilonPlusFlat):
        pass

    def everything(path, **options):
        layers = {"conv": Channels(), "fc": Channels()}
        model = Network(OrderedDict(network().named_children())).eval()
        model.relu = Halved()
        FeatureVisualization(Attribution(model), Images(), layers, path=path).run(Plus(), 0, SAMPLES, 4, 2, **options)
        return contents(path)

    assert everything(tmp_path / "sent", executor=worker) == everything(tmp_path / "alone")


@pytest.mark.slow
def test_workers_in_another_folder_write_where_they_are_told(tmp_path, undisturbed, worker, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = worker.submit(os.getcwd).result()
    worker.submit(os.chdir, "/").result()
    run("store", executor=worker)
    worker.submit(os.chdir, before).result()
    assert contents(tmp_path / "store") == undisturbed


def test_several_threads_of_one_worker(tmp_path, undisturbed):
    with ThreadPoolExecutor(4) as pool:
        run(tmp_path, executor=pool)
    assert contents(tmp_path) == undisturbed
