"""Whatever happens to a sweep, what was written stays valid, and another run gives the store of an undisturbed one."""
import errno
import os
import random
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from large_sweeps import SAMPLES, Images, contents, network, run, visualization
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.model.samples import SampleError
from crp.store import StoreError, verify
from crp.store.place import place_of_store
from crp.store.sealing import seal_store
from crp.store.shards import finished_shards
from crp.store.temporaries import process_tag

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, quick):
    path = tmp_path_factory.mktemp("undisturbed")
    run(path)
    return contents(path)


def no_trace(path):
    return not [file for file in path.rglob(".*")]


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path, undisturbed):
    generator, moments, kills = random.Random(0), 0.5, 0
    for attempt in range(60):
        path = tmp_path / str(attempt)
        while True:
            child = os.fork()
            if child == 0:
                tqdm.set_lock(threading.RLock())  # one that forked processes do not share
                run(path)
                os._exit(0)
            deadline = time.monotonic() + generator.uniform(0, moments)
            while time.monotonic() < deadline and (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                time.sleep(.002)
            if time.monotonic() < deadline:
                assert ended[1] == 0
                moments = max(moments * .9, .05)  # it has finished before: kill earlier
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            if (path / "manifest.json").exists():
                assert all("was left by a run" in problem for problem in verify(path))
            if generator.random() < .5:
                break
        run(path)
        assert contents(path) == undisturbed
        assert no_trace(path)
    assert kills >= 50


@pytest.mark.parametrize("moment", [1, 9, 30, 70])
@pytest.mark.parametrize("code", [errno.ENOSPC, pytest.param(errno.EDQUOT, marks=pytest.mark.slow)])
def test_full_disks(tmp_path, undisturbed, monkeypatch, moment, code):
    calls, sync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == moment:
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=os.strerror(code)):
            run(tmp_path)
    assert verify(tmp_path) == [] or not (tmp_path / "manifest.json").exists()
    model = network()
    run(tmp_path)
    assert contents(tmp_path) == undisturbed and no_trace(tmp_path)
    assert all(not module._forward_hooks for module in model.modules())


def test_a_small_disk(tmp_path, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=1M tmpfs {disk} 2>/dev/null") != 0:
        pytest.skip("file systems cannot be mounted here; the other tests inject the error")
    try:
        (disk / "filler").write_bytes(b"\0" * 1_010_000)
        with pytest.raises((OSError, StoreError), match="No space left|are free"):
            run(disk / "store")
        (disk / "filler").unlink()
        run(disk / "store")
        assert contents(disk / "store") == undisturbed
    finally:
        os.system(f"umount {disk}")


def test_an_exception_names_the_sample_and_another_run_goes_on(tmp_path, undisturbed):
    with pytest.raises(SampleError, match="sample 21: OSError: image21.png is truncated"):
        run(tmp_path, Images(broken=[21]))
    assert list(finished_shards(place_of_store(tmp_path))) == ["00000000", "00000008"] and no_trace(tmp_path)
    run(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("broken, num_workers", [([0, 21, 22], 0), ([*range(16, 24)], 0), ([0, 9], 1)])
def test_skipped_samples_are_on_record(tmp_path, broken, num_workers):
    store = run(tmp_path, Images(broken=broken), on_error="skip", num_workers=num_workers)
    assert list(store.skipped) == broken
    assert all(f"image{sample}.png is truncated" in reason for sample, reason in store.skipped.items())
    others = [sample for sample in range(SAMPLES) if sample not in broken]
    for quantity in ("relevance", "activation"):
        assert store.rows(quantity)["sample"].tolist() == others
    whole = run(tmp_path / "whole")
    np.testing.assert_allclose(store.values("fc")[:], whole.values("fc")[others], rtol=1e-5, atol=1e-7)
    assert not verify(tmp_path / "whole") and whole.skipped == {}


def test_a_sample_that_preprocessing_or_targets_break_is_skipped_too(tmp_path):
    def preprocess(image):
        if image.sum() == images[5][0].sum():
            raise ValueError("too dark")
        return image

    images = Images(length=9)
    store = run(tmp_path, images, on_error="skip", visualization_options={"preprocess_fn": preprocess})
    assert store.skipped == {5: "ValueError: too dark"}
    with pytest.raises(ValueError, match="no sample of the dataset can be read"):
        run(tmp_path / "none", Images(range(SAMPLES)), on_error="skip")


def test_unfinished_sweeps_can_be_refused(tmp_path, undisturbed):
    with pytest.raises(SampleError):
        run(tmp_path, Images(broken=[30]))
    with pytest.raises(StoreError, match="resume=True goes on with it, overwrite=True"):
        run(tmp_path, resume=False)
    run(tmp_path)
    run(tmp_path, resume=False)
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("options, message", [
    ({"composite": EpsilonPlusFlat(epsilon=1e-3)}, "composite.rules.fc is 'Epsilon"),
    ({"composite": EpsilonPlus()}, "composite.rules.conv is 'Flat .* there and 'ZPlus"),
    ({"dtype": "float16"}, "options.dtype is 'float32' there and 'float16' here"),
    ({"keep": "top"}, "options.keep is 'all' there and 'top' here"),
    ({"dataset": Images(length=39)}, "dataset.length is 40 there and 39 here"),
    ({"visualization_options": {"model": torch.nn.Sequential(network())}}, "no layer 'conv'"),
])
def test_other_settings_are_refused_and_named(tmp_path, options, message):
    with pytest.raises(SampleError):
        run(tmp_path, Images(broken=[30]))
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **options)


def test_attributions_that_compute_otherwise_are_refused(tmp_path):
    with pytest.raises(SampleError):
        run(tmp_path, Images(broken=[30]))
    for name, value in (("functional", False), ("accelerate", False)):
        fv = visualization(tmp_path)
        setattr(fv.attribution, name, value)
        with pytest.raises(StoreError, match=f"attribution.{name}"):
            fv.run(EpsilonPlusFlat(), 0, SAMPLES, 4, 2)


def test_another_environment_is_told(tmp_path):
    with pytest.raises(SampleError):
        run(tmp_path, Images(broken=[30]))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=f"threads is {threads} there and {threads + 1} here"):
            run(tmp_path)
    finally:
        torch.set_num_threads(threads)


class Greedy(torch.nn.Module):
    """Runs out of memory with more than a few samples."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error = most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return x


@pytest.mark.parametrize("error", [
    torch.cuda.OutOfMemoryError("CUDA out of memory"), pytest.param(MemoryError(), marks=pytest.mark.slow),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"),
])
def test_out_of_memory_halves_the_rows_of_the_shard(tmp_path, error):
    def with_greedy(most):
        model = network()
        model.relu = torch.nn.Sequential(torch.nn.ReLU(), Greedy(most, error))
        return {"model": model}

    with pytest.warns(UserWarning, match="out of memory with 8 rows at sample 0: 4 from there on"):
        store = run(tmp_path / "few", batch_size=8, visualization_options=with_greedy(3))
    records = finished_shards(place_of_store(tmp_path / "few")).values()
    assert all(len(record.notes) == 2 and "with 4 rows" in record.notes[1] for record in records)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = run(tmp_path / "many", batch_size=8, visualization_options=with_greedy(8))
    for layer in store.layers:
        for quantity in ("relevance", "activation"):
            assert np.array_equal(store.rows(quantity), whole.rows(quantity))
            np.testing.assert_allclose(
                store.values(layer, quantity)[:], whole.values(layer, quantity)[:], rtol=1e-5, atol=1e-7
            )
    with pytest.raises(type(error)):
        run(tmp_path / "none", visualization_options=with_greedy(0))


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(tmp_path):
    model = network()
    model.relu = Greedy(2, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(tmp_path, visualization_options={"model": model})


def test_what_can_only_be_read_from_the_start_is_refused(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    for dataset in (Stream(), (image for image in Images())):
        with pytest.raises(TypeError, match="can only be read from the start"):
            run(tmp_path, dataset)


def test_half_precision_keeps_its_promise(tmp_path):
    half, full = run(tmp_path / "half", dtype="float16"), run(tmp_path / "full")
    for layer in full.layers:
        for quantity in ("relevance", "activation"):
            expected = full.values(layer, quantity)[:]
            total = np.abs(expected).sum(1, keepdims=True)
            bound = np.maximum(5e-4 * np.abs(expected), 3e-8 * total) + 1e-6 * np.abs(expected)
            found = half.values(layer, quantity)[:]
            assert found.dtype == np.float32 and (np.abs(found - expected) <= bound).all()
            assert not np.array_equal(found, expected)
            found = half.values(layer, quantity, normalised=True)
            np.testing.assert_allclose(
                found[:], full.values(layer, quantity, normalised=True)[:], rtol=5.1e-4, atol=3e-8
            )
            assert np.array_equal(found[3:5, 1], found[:][3:5, 1])
    size = {path: os.path.getsize(tmp_path / path / "shards" / "00000000" / "L0001.relevance.value.npy")
            for path in ("half", "full")}
    assert size["full"] - 128 == 2 * (size["half"] - 128)
    assert not verify(tmp_path / "half")


class MultiHot(Images):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        hot = torch.zeros(3)
        hot[[target, *([(target + 1) % 3] if index % 4 == 0 else [])]] = 1
        return image, hot if index != 7 else torch.zeros(3)


@pytest.mark.parametrize("dataset, max_target", [
    (Images(), "sum"), (MultiHot(), "max"), pytest.param(Images(), "max", marks=pytest.mark.slow),
    pytest.param(MultiHot(), "sum", marks=pytest.mark.slow),
])
def test_keep_top_has_the_tables_and_class_means_of_all(tmp_path, dataset, max_target):
    from crp.analysis import group_profiles

    options = {"visualization_options": {"max_target": max_target}}
    top, whole = (run(tmp_path / keep, dataset, keep=keep, **options) for keep in ("top", "all"))
    for layer in whole.layers:
        for quantity in ("relevance", "activation"):
            for statistic in ("sum", "max")[:1 if max_target == "sum" else 2]:
                for normalised in (False, True):
                    tables = [store.table(layer, quantity, statistic=statistic, normalised=normalised)
                              for store in (top, whole)]
                    assert np.array_equal(*tables)
                    found = [store.top(layer, 1, quantity, 7, statistic=statistic, normalised=normalised)
                             for store in (top, whole)]
                    assert all(map(np.array_equal, *found))
            classes, counts, means = top.profile_of_classes(layer, quantity)
            for number, count, mean in zip(classes, counts, means):
                rows = whole.rows_of_target(number, quantity)
                assert count == len(rows)
                np.testing.assert_allclose(mean, whole.values(layer, quantity)[rows].mean(0), rtol=1e-5, atol=1e-7)
            assert all(map(np.array_equal, whole.profile_of_classes(layer, quantity)[:2], (classes, counts)))
    assert not (tmp_path / "top" / "shards").exists() and not verify(tmp_path / "top")
    profiles = group_profiles(top, "target", quantity="relevance")
    expected = group_profiles(whole, "target", quantity="relevance")
    assert profiles.groups == expected.groups and np.array_equal(profiles.sizes, expected.sizes)
    np.testing.assert_allclose(profiles.values["fc"], expected.values["fc"], rtol=1e-5, atol=1e-7)


def test_keep_top_says_what_is_not_there_and_how_to_get_it(tmp_path):
    store = run(tmp_path, keep="top")
    for ask in (
        lambda: store.values("fc")[:], lambda: store.top("fc", 0, k=41), lambda: store.top("fc", 0, target=1),
        lambda: store.rows(), lambda: visualization(tmp_path).compute_stats(0, "fc"),
        lambda: visualization(tmp_path).find_patterns("fc"),
    ):
        with pytest.raises(StoreError, match="keep='all'"):
            ask()
    references = visualization(tmp_path).get_max_reference([0, 1], "conv", "relevance", (0, 4), EpsilonPlusFlat())
    assert len(references[0][0]) == 4
    before = contents(tmp_path)
    assert run(tmp_path, keep="top").layers == store.layers
    assert contents(tmp_path) == before


def test_keep_top_is_resumed_and_its_size_does_not_grow(tmp_path):
    with pytest.raises(SampleError):
        run(tmp_path / "resumed", Images(broken=[30]), keep="top")
    run(tmp_path / "resumed", keep="top")
    run(tmp_path / "at once", keep="top")
    assert contents(tmp_path / "resumed") == contents(tmp_path / "at once")
    run(tmp_path / "more", Images(length=120), keep="top")
    once, more = (sum(file.stat().st_size for file in tmp_path.glob(f"{name}/tables/*"))
                  for name in ("at once", "more"))
    assert once == more > 1000


@pytest.mark.parametrize("keep", ["all", "top"])
def test_a_store_can_be_finished_twice(tmp_path, keep):
    fv = visualization(tmp_path)
    fv.sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=2, keep=keep).run_part(0, SAMPLES)
    names = list(finished_shards(place_of_store(tmp_path)))
    fv.collect_results(names, (0, SAMPLES))
    before = contents(tmp_path)
    (tmp_path / "tables" / "L0000.relevance.value.npy").touch()
    fv.collect_results(names, (0, SAMPLES))
    seal_store(place_of_store(tmp_path))
    assert contents(tmp_path) == before


def test_processes_that_finish_a_store_at_once(tmp_path, undisturbed):
    visualization(tmp_path).sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=2).run_part(0, SAMPLES)
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                seal_store(place_of_store(tmp_path))
                os._exit(0)
            finally:
                os._exit(1)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert contents(tmp_path) == undisturbed


def test_what_another_run_left_in_finishing_is_removed(tmp_path, undisturbed):
    visualization(tmp_path).sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=2).run_part(0, SAMPLES)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    machine = process_tag().split(".")[0]
    tags = f"{machine}.{child}", "0123456789ab.1", "0123456789ab.2"
    ended, other, recent = (f".tables.{tag}.0123abcd" for tag in tags)
    for name in (ended, other, recent):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_bytes(b"locked")
    old = time.time() - 100_000
    for file in (tmp_path / other / "lock", tmp_path / other):
        os.utime(file, (old, old))
    seal_store(place_of_store(tmp_path))
    (tmp_path / recent / "lock").unlink()  # of a machine that may be alive
    (tmp_path / recent).rmdir()
    assert contents(tmp_path) == undisturbed and no_trace(tmp_path)


def test_foreign_manifests_are_not_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "of another program"}')
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine").write_text("mine")
    with pytest.raises(StoreError, match="not that of a store"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "shards" / "mine").read_text() == "mine"


def test_space_that_finished_shards_take_is_not_asked_for_again(tmp_path, monkeypatch):
    with pytest.raises(SampleError):
        run(tmp_path / "store", Images(broken=[30]))
    fv = visualization(tmp_path / "store")
    sweep = fv.sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=2)
    remaining = sweep.bytes_of(sweep.parts(0, SAMPLES)[3:])
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": remaining - 1}))
    with pytest.raises(StoreError, match="are free"):
        run(tmp_path / "store")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": remaining}))
    run(tmp_path / "store")


def test_shards_of_a_store_that_was_replaced_are_not_committed(tmp_path):
    sweep = visualization(tmp_path).sweep(EpsilonPlusFlat(), batch_size=4, checkpoint=2)
    sweep.run_part(0, 8)
    sweep.join(place_of_store(tmp_path).manifest_hash)
    run(tmp_path, overwrite=True, composite=EpsilonPlus())
    with pytest.raises(StoreError, match="is missing: it was removed, or replaced"):
        sweep.write_shard(0, 8)
    assert verify(tmp_path) == []


class Scaled(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, x):
        return x * self.factor + self.shift


def with_scale(factor=1., shift=0., training=False):
    model = network()
    model.relu = torch.nn.Sequential(torch.nn.ReLU(), Scaled(factor))
    model.relu[1].shift += shift
    model.relu[1].train(training)
    return {"visualization_options": {"model": model}}


@pytest.mark.parametrize("change, name", [
    ({"factor": 2.}, "attributes"), ({"shift": 1.}, "weights"), ({"training": True}, "modules in training mode"),
])
def test_models_that_print_alike_are_told_apart(tmp_path, change, name):
    run(tmp_path, **with_scale())
    run(tmp_path, **with_scale())
    with pytest.raises(StoreError, match=f"model.{name}"):
        run(tmp_path, **with_scale(**change))


def test_reasons_are_the_same_whoever_reads(tmp_path):
    class Odd(Images):
        def __getitem__(self, index):
            if index in self.broken:
                raise ValueError(f"cannot identify {object()!r}")
            return super().__getitem__(index)

    for workers in (0, 1):
        store = run(tmp_path / str(workers), Odd(broken=[0, 9]), on_error="skip", num_workers=workers)
        assert store.skipped == dict.fromkeys([0, 9], "ValueError: cannot identify <object object at 0x...>")
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


def test_negative_targets_are_skipped_too(tmp_path):
    class Unlabelled(Images):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image, -1 if index == 5 else target

    assert list(run(tmp_path, Unlabelled(), on_error="skip").skipped) == [5]
