"""Sweeps in several parts."""
import numpy as np
import pytest
from small_sweeps import (
    PROBES,
    SAMPLES,
    changed_model,
    check_store,
    count_forwarded,
    restated,
    run_parts,
    small_model,
    sweep,
    visualization,
)

from crp.store import ReferenceStore, StoreError

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("parts", [[(0, 13)], [(0, 5), (5, 6), (6, 13)], [(9, 13), (0, 4), (4, 9)]])
def test_parts_that_are_collected_equal_one_run(tmp_path, parts):
    shards = run_parts(tmp_path, parts)
    with pytest.raises(StoreError, match="not finished"):
        ReferenceStore(tmp_path)
    store = visualization(tmp_path).collect_results(shards, (0, SAMPLES))
    check_store(store, restated())
    whole = sweep(tmp_path / "whole", batch_size=2)
    for concept in store.concepts("conv"):
        for one, other in zip(store.top("conv", concept, k=40), whole.top("conv", concept, k=40)):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_parts_that_overlap_are_refused(tmp_path):
    run_parts(tmp_path, [(4, 8)])
    for first, stop in [(3, 5), (7, 9), (5, 7)]:
        with pytest.raises(StoreError, match="overlap"):
            run_parts(tmp_path, [(first, stop)])


def test_parts_that_overlap_are_refused_before_any_work(tmp_path):
    run_parts(tmp_path, [(4, 8)])
    model = small_model()
    forwarded = count_forwarded(model)
    with pytest.raises(StoreError, match="overlap"):
        run_parts(tmp_path, [(1, 13)], model=model)
    assert sorted(folder.name for folder in (tmp_path / "shards").iterdir()) == ["00000004", "00000006"]
    assert sum(forwarded) <= PROBES


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    model = small_model()
    first = run_parts(tmp_path, [(0, 6)], model=model)
    forwarded = count_forwarded(model)
    assert run_parts(tmp_path, [(0, 6)], model=model) == first
    assert sum(forwarded) <= PROBES


def test_missing_shards_and_samples_are_named(tmp_path):
    shards = run_parts(tmp_path, [(0, 4), (8, 13)])
    fv = visualization(tmp_path)
    with pytest.raises(StoreError, match="00000099"):
        fv.collect_results([*shards, "00000099"])
    with pytest.raises(StoreError, match="4 samples, from 4 to 7"):
        fv.collect_results(shards, (0, SAMPLES))
    assert len(fv.collect_results(shards, (8, SAMPLES)).targets) == 9


def test_parts_of_a_sweep_with_other_settings_are_refused(tmp_path):
    run_parts(tmp_path, [(0, 4)])
    with pytest.raises(StoreError, match=r"model\.weights"):
        run_parts(tmp_path, [(4, 8)], model=changed_model())


def test_no_part_is_added_to_a_finished_store(tmp_path):
    sweep(tmp_path)
    with pytest.raises(StoreError, match="finished"):
        run_parts(tmp_path, [(0, 4)])


def test_collecting_where_nothing_was_swept_is_a_store_error(tmp_path):
    with pytest.raises(StoreError):
        visualization(tmp_path / "nothing").collect_results()
