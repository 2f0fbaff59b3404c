"""Processes that sweep into one folder at once: each returns a store of its samples, or is told who is there."""
import errno
import fcntl
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from killing import ended, fork
from large_sweeps import Images, contents, visualization
from zennit.composites import EpsilonPlusFlat

from crp.cli.runs import merge
from crp.store import StoreError, verify
from crp.store.place import Place, place_of_store
from crp.store.shards import swept_ranges

pytestmark = pytest.mark.usefixtures("quick")
SAMPLES = 16


class Interrupted(Images):
    """A dataset at one sample of which something else happens, once."""

    def __init__(self, at, meanwhile):
        super().__init__(length=SAMPLES)
        self.at, self.meanwhile, self.has_begun = at, meanwhile, False

    def __getitem__(self, index):
        if index == self.at and not self.has_begun and place_exists(self.meanwhile):
            self.has_begun = True
            self.meanwhile()
        return super().__getitem__(index)


def place_exists(meanwhile):
    """Whether the sweep itself has begun: before, samples are read to describe them."""
    return bool(list(meanwhile.path.glob(".run.*")))


class Meanwhile:
    """Run something in another process while a sweep into a folder goes on."""

    def __init__(self, path, function):
        self.path, self.function, self.codes = path, function, []

    def __call__(self):
        self.codes.append(ended(fork(self.function)))


def make(path, samples=(0, SAMPLES), dataset=None, **options):
    dataset = Images(length=SAMPLES) if dataset is None else dataset
    return visualization(path, dataset).run(EpsilonPlusFlat(), *samples, 2, 1, **options)


def is_tidy(path):
    return verify(path) == [] and not list(path.rglob(".*"))


@pytest.fixture(params=[None, errno.ENOSYS, errno.ENOLCK, errno.EBADF])
def file_system(request, monkeypatch):
    """One with locks and links, and some without."""
    def refuse(*arguments, **options):
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("other", [(8, 16), (0, 4), (4, 12)])
def test_another_range_is_told_who_is_there(tmp_path, file_system, other):
    def try_other():
        with pytest.raises(StoreError, match=f"process {os.getppid()} on .* is sweeping samples 0 to 7 "):
            make(tmp_path, other)

    meanwhile = Meanwhile(tmp_path, try_other)
    store = make(tmp_path, (0, 8), Interrupted(5, meanwhile))
    assert meanwhile.codes == [0] and store.ranges == [[0, 8]] and is_tidy(tmp_path)


@pytest.mark.parametrize("keep", ["all", "top"])
@pytest.mark.parametrize("at", [9, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 15))])
def test_the_same_sweep_twice(tmp_path, file_system, keep, at):
    meanwhile = Meanwhile(tmp_path / "both", lambda: make(tmp_path / "both", keep=keep))
    store = make(tmp_path / "both", dataset=Interrupted(at, meanwhile), keep=keep)
    assert meanwhile.codes == [0] and store.ranges == [[0, SAMPLES]] and is_tidy(tmp_path / "both")
    if at == 9:
        make(tmp_path / "alone", keep=keep)
        assert contents(tmp_path / "both") == contents(tmp_path / "alone")


@pytest.mark.parametrize("read", [
    lambda path: make(path, keep="top").ranges, lambda path: swept_ranges(place_of_store(path)),
    lambda path: merge(path).ranges,
])
def test_shards_that_are_merged_and_removed_while_they_are_read(tmp_path, monkeypatch, read):
    visualization(tmp_path, Images(length=SAMPLES)).sweep(
        EpsilonPlusFlat(), batch_size=2, checkpoint=1, keep="top").run_part(0, SAMPLES)
    shard, asked = Place.shard, []

    def finished_meanwhile(self, name):
        asked.append(name)
        if len(asked) == 3:
            monkeypatch.setattr(Place, "shard", shard)
            assert ended(fork(lambda: make(tmp_path, keep="top"))) == 0
        return shard(self, name)

    monkeypatch.setattr(Place, "shard", finished_meanwhile)
    assert read(tmp_path) == [[0, SAMPLES]]
    assert make(tmp_path, keep="top").ranges == [[0, SAMPLES]] and is_tidy(tmp_path)
    assert not (tmp_path / "shards").exists()


def test_parts_that_come_too_late_are_told(tmp_path):
    def finish():
        merge(tmp_path, 0, 4)

    fv = visualization(tmp_path, Interrupted(7, Meanwhile(tmp_path, finish)))
    with pytest.raises(StoreError, match="finished by another process without samples 6 to 7"):
        fv.sweep(EpsilonPlusFlat(), batch_size=2, checkpoint=1).run_part(0, 8)
    assert swept_ranges(place_of_store(tmp_path)) == [[0, 6]] and is_tidy(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["all", "top"])
def test_three_processes_at_once(tmp_path, keep):
    for attempt in range(15):
        path = tmp_path / str(attempt)
        assert [ended(child) for child in [fork(lambda: make(path, keep=keep)) for _ in range(3)]] == [0] * 3
        assert is_tidy(path) and (path / "shards").exists() == (keep == "all")


@pytest.mark.slow
def test_two_ranges_at_once(tmp_path):
    def try_range(path, samples):
        try:
            assert make(path, samples).ranges == [list(samples)]
        except StoreError as error:
            assert any(words in str(error) for words in ("is sweeping", "holds a sweep of", "another run"))
            os._exit(2)

    for attempt in range(15):
        path, ranges = tmp_path / str(attempt), [(0, 6), (6, 16)]
        codes = [ended(child) for child in [fork(lambda: try_range(path, samples)) for samples in ranges]]
        assert set(codes) <= {0, 2}
        if 0 in codes:
            assert is_tidy(path) and swept_ranges(place_of_store(path)) == [list(ranges[codes.index(0)])]


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["all", "top"])
def test_many_shards_with_few_descriptors(tmp_path, keep):
    code = f"import test_together; test_together.with_few_descriptors({str(tmp_path)!r}, {keep!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(__file__), env={
        **os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *sys.path])})


def with_few_descriptors(path, keep):
    dataset = Images(length=300)
    fv = visualization(path, dataset)
    fv.sweep(EpsilonPlusFlat(), batch_size=1, checkpoint=1, keep=keep).run_part(0, 300)
    is_open = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (is_open + 64,) * 2)
    store = fv.run(EpsilonPlusFlat(), 0, 300, 1, 1, keep=keep)
    assert store.ranges == [[0, 300]] and verify(path) == []
    if keep == "all":
        assert store.rows()["sample"].tolist() == list(range(300))
        assert np.array_equal(np.concatenate(list(store.values("conv").blocks())), store.values("conv")[:])
        assert store.top("conv", 0, target=1).samples.shape == (8,)
