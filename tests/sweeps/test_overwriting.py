"""What overwrites a store is swept beside it and takes its place by one rename; whatever happens, one is there."""
import errno
import fcntl
import itertools
import json
import os
import shutil
from itertools import filterfalse

import numpy as np
import pytest
from killing import ended, fork, kill_at
from large_sweeps import Images, contents, visualization
from zennit.composites import EpsilonPlus, EpsilonPlusFlat

from crp.store import ReferenceStore, StoreError, export_parquet, verify
from crp.store.creation import replace_store, replacing
from crp.store.legacy import is_results_name
from crp.store.place import place_of_store, place_of_sweep, place_with, sweep_folders
from crp.store.sealing import seal_store
from crp.sweeps import sweep as sweep_module

pytestmark = pytest.mark.usefixtures("quick")
SAMPLES = 12
OLD, NEW, OTHER = EpsilonPlusFlat(), EpsilonPlusFlat(epsilon=.1), EpsilonPlus()


def make(path, composite=OLD, overwrite=False, samples=(0, SAMPLES), **options):
    fv = visualization(path, Images(length=SAMPLES))
    return fv.run(composite, *samples, 4, 1, overwrite=overwrite, **options)


def values(store):
    return {layer: store.table(layer).tobytes() for layer in store.layers}


def is_tidy(path):
    return verify(path) == [] and not list(path.rglob(".*")) and len(sweep_folders(path)) < 2


def never(*arguments):
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def expected(tmp_path_factory, quick):
    """The values of each sweep."""
    return {
        composite: values(make(tmp_path_factory.mktemp("expected"), composite)) for composite in (OLD, NEW, OTHER)
    }


@pytest.fixture(scope="module")
def almost_replaced(tmp_path_factory, quick):
    """A store beside whose sweep another one is complete."""
    path = tmp_path_factory.mktemp("almost")
    make(path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_module, "replace_store", never)
        make(path, NEW, overwrite=True)
    return path


def swap(path):
    name, = (name for name in sweep_folders(path) if (path / name / "manifest.json").exists())
    with replacing(path) as note:
        replace_store(place_of_sweep(path, name), note)


def test_a_damaged_sweep_beside_another_is_passed_by(tmp_path, almost_replaced):
    path = shutil.copytree(almost_replaced, tmp_path / "store")
    begun, = (name for name in sweep_folders(path) if (path / name / "manifest.json").exists())
    (path / "sweep-0000000000000000-0").mkdir()
    (path / "sweep-0000000000000000-0" / "manifest.json").write_bytes(b"{}")
    for place in (place_of_store(path), place_of_sweep(path, begun)):
        assert place_with(path, place.manifest_hash).manifest == place.manifest
    with pytest.raises(StoreError, match="has been replaced"):
        place_with(path, "0" * 64)


def check_after_kill(path, expected):
    """A store is the old or the new one, and nothing is beside it but what its verification tells."""
    assert all("was left by" in problem or "not finished" in problem for problem in verify(path))
    found = values(ReferenceStore(path))
    assert found in (expected[OLD], expected[NEW])
    return OLD if found == expected[OLD] else NEW


@pytest.mark.slow
def test_killed_while_the_new_sweep_takes_its_place(tmp_path, almost_replaced, expected):
    composites = []
    for number in itertools.count(1):
        path = tmp_path / str(number)
        shutil.copytree(almost_replaced, path)
        was_killed = kill_at(number, lambda: swap(path))
        composites.append(check_after_kill(path, expected))
        if not was_killed:
            break
        if number % 15 == 0:  # the next call is one of either
            overwrite = number % 30 == 0
            assert values(make(path, NEW if overwrite else composites[-1], overwrite)) == expected[
                NEW if overwrite else composites[-1]
            ]
            assert is_tidy(path) or not overwrite and composites[-1] is OLD
    assert set(composites) == {OLD, NEW} and number > 20
    assert is_tidy(path)


@pytest.mark.slow
@pytest.mark.parametrize("before, new", [((OLD,), NEW), ((OTHER, OLD), NEW), ((OLD, OLD), OLD)])
def test_killed_at_many_calls(tmp_path, expected, before, new):
    make(tmp_path / "before", before[0])
    for composite in before[1:]:
        make(tmp_path / "before", composite, overwrite=True)
    for number in itertools.count(1, 11):
        path = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", path)
        was_killed = kill_at(number, lambda: make(path, new, overwrite=True))
        check_after_kill(path, expected)
        kill_at(number // 2 + 2, lambda: make(path, new, overwrite=True))
        check_after_kill(path, expected)
        assert values(make(path, new, overwrite=True)) == expected[new]
        assert is_tidy(path)
        shutil.rmtree(path)
        if not was_killed:
            break
    assert number > 80


def test_what_was_begun_goes_on(tmp_path, expected):
    class Broken(Images):
        def __getitem__(self, index):
            if index == 9:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    make(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        visualization(tmp_path, Broken(length=SAMPLES)).run(NEW, 0, SAMPLES, 4, 1, overwrite=True)
    assert check_after_kill(tmp_path, expected) is OLD
    name, = sweep_folders(tmp_path)
    begun = contents(tmp_path / name / "shards")
    assert len({file.partition("/")[0] for file in begun}) == 2
    times = {file: (tmp_path / name / "shards" / file).stat().st_mtime_ns for file in begun}
    assert values(make(tmp_path, NEW, overwrite=True)) == expected[NEW]
    assert {file: (tmp_path / name / "shards" / file).stat().st_mtime_ns for file in begun} == times
    assert is_tidy(tmp_path)


@pytest.mark.parametrize("is_finished", [True, False])
def test_what_was_begun_of_other_samples_or_is_damaged_begins_anew(tmp_path, expected, monkeypatch, is_finished):
    make(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_module, "replace_store" if is_finished else "seal_store", never)
        make(tmp_path, NEW, overwrite=True, samples=(0, 8))
    assert values(make(tmp_path, NEW, overwrite=True)) == expected[NEW]
    assert is_tidy(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_module, "replace_store" if is_finished else "seal_store", never)
        make(tmp_path, OLD, overwrite=True)
    name, = (name for name in sweep_folders(tmp_path) if (tmp_path / name / "manifest.json").exists())
    (tmp_path / name / ("seal.json" if is_finished else "shards/00000000/shard.json")).write_text("{}")
    assert values(make(tmp_path, OLD, overwrite=True)) == expected[OLD]
    assert is_tidy(tmp_path)


def test_again_and_again(tmp_path, expected):
    identities = {make(tmp_path).identity()}
    for _ in range(3):
        identities.add(make(tmp_path, overwrite=True).identity())
        assert is_tidy(tmp_path) and values(ReferenceStore(tmp_path)) == expected[OLD]
        assert values(make(tmp_path)) == expected[OLD]
    assert len(identities) == 3  # its own folder, and two in turn


def test_stores_that_are_unfinished_damaged_or_of_another_format(tmp_path, expected):
    for number, spoil in enumerate([
        lambda path: (path / "seal.json").unlink(), lambda path: (path / "manifest.json").write_bytes(
            (path / "manifest.json").read_bytes().replace(b'"version": 2', b'"version": 1')),
        lambda path: (path / "tables" / "L0000.relevance.value.npy").unlink(),
        lambda path: (path / "shards" / "00000004" / "shard.json").write_text("{}"),
        lambda path: shutil.rmtree(path / "tables"),
    ]):
        path = tmp_path / str(number)
        make(path)
        spoil(path)
        assert values(make(path, NEW, overwrite=True)) == expected[NEW]
        assert is_tidy(path)


def test_what_others_keep_in_the_folder_stays(tmp_path):
    make(tmp_path)
    kept = tmp_path / "sweep-notes" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    make(tmp_path, NEW, overwrite=True)
    make(tmp_path, OLD, overwrite=True)
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("has_locks", [True, False])
def test_what_an_old_job_finishes_does_not_get_into_the_new_store(tmp_path, expected, monkeypatch, has_locks):
    if not has_locks:
        def refuse(*arguments):
            raise OSError(errno.ENOLCK, "no locks")
        monkeypatch.setattr(fcntl, "flock", refuse)
    sweep = visualization(tmp_path, Images(length=SAMPLES)).sweep(OLD, batch_size=4, checkpoint=1)
    sweep.run_part(0, SAMPLES)
    place = place_of_store(tmp_path)
    with monkeypatch.context() as patch:
        def overwritten_meanwhile(*arguments):
            if not sweep_folders(tmp_path):
                assert ended(fork(lambda: make(tmp_path, NEW, overwrite=True))) == 0
            return found(*arguments)

        module = "crp.store.sealing." + ("locked" if has_locks else "entries_of")
        found = seal_store.__globals__[module.rpartition(".")[2]]
        patch.setattr(module, overwritten_meanwhile)
        with pytest.raises(StoreError, match="replaced|removed"):
            seal_store(place)
    assert values(ReferenceStore(tmp_path)) == expected[NEW] == values(make(tmp_path, NEW))
    assert is_tidy(tmp_path)


@pytest.mark.parametrize("others", [(NEW, NEW), (NEW, OTHER)])
def test_two_overwrite_at_once(tmp_path, expected, others):
    make(tmp_path)
    children = [fork(lambda: make(tmp_path, composite, overwrite=True)) for composite in others]
    assert [ended(child) for child in children] == [0, 0]
    assert values(ReferenceStore(tmp_path)) in [expected[composite] for composite in others]
    make(tmp_path, NEW, overwrite=True)
    assert is_tidy(tmp_path)


def test_results_of_a_sweep_that_was_replaced_before_they_were_written_are_those_of_the_other(tmp_path):
    first = make(tmp_path)
    make(tmp_path, NEW, overwrite=True)
    results = visualization(tmp_path, Images(length=SAMPLES)).RelMax
    written = contents(results.PATH)
    results.show(first)
    assert contents(results.PATH) == written
    damaged = make(tmp_path / "damaged")
    shutil.rmtree(tmp_path / "damaged" / "tables")
    shutil.rmtree(tmp_path / "damaged" / "shards")
    with pytest.raises(StoreError, match="missing"):
        visualization(tmp_path / "damaged", Images(length=SAMPLES)).RelMax.show(ReferenceStore(damaged.path))


def answers_of(store):
    return {
        "indexed": lambda: store.values("fc")[:], "blocks": lambda: np.concatenate(list(store.values("conv").blocks())),
        "table": lambda: store.table("conv"), "rows": lambda: store.rows(),
        "means": lambda: store.profile_of_classes("conv")[2], "skipped": lambda: store.skipped,
        "class means": lambda: store.class_means("fc", 0, n=2, quantity="relevance"),
        "top of a class": lambda: store.top("conv", 1, target=1),
    }


@pytest.mark.parametrize("has_replaced", [False, True])
def test_a_store_that_was_opened_before_answers_of_its_own_sweep_or_not_at_all(tmp_path, has_replaced):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "store"
    if has_replaced:
        make(path, OTHER)
    store = make(path, overwrite=has_replaced)
    patterns = visualization(path, Images(length=SAMPLES)).find_patterns("fc", min_pattern_size=3, min_samples=1)
    names = [*answers_of(store)]
    for name in names[::2]:
        answers_of(store)[name]()  # others are not open when they are asked for
    copy = make(tmp_path / "copy")
    make(path, NEW, overwrite=True)
    now = contents(path)
    for name in names:
        try:
            found, right = answers_of(store)[name](), answers_of(copy)[name]()
        except StoreError as error:
            assert "missing" in str(error) or "replaced" in str(error)
            continue
        assert all(map(np.array_equal, found, right)) if isinstance(found, tuple) else np.array_equal(found, right)
    assert store.identity() != ReferenceStore(path).identity()
    with pytest.raises(StoreError, match="replaced|removed"):
        patterns.save(store)
    with pytest.raises(StoreError, match="missing"):
        export_parquet(store, tmp_path / "parquet")
    assert parquet and not (tmp_path / "parquet").exists()
    with pytest.raises(StoreError):
        type(patterns).load(ReferenceStore(path), layer="fc")
    assert contents(path) == now


def test_manifests_name_the_folder(tmp_path):
    make(tmp_path)
    make(tmp_path, NEW, overwrite=True)
    name, = sweep_folders(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["folder"] == name
    assert sorted(filterfalse(is_results_name, os.listdir(tmp_path))) == ["manifest.json", name]
