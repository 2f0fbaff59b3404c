"""Work on a store in a process of its own: as here, told of, ended at once, and with its errors."""
import time

import numpy as np
import pytest
from small_sweeps import sweep

from crp.analysis import Patterns, find_patterns
from crp.explorer import apart, live
from crp.explorer.apart import work_apart
from crp.explorer.documents import Task
from crp.explorer.pattern_pages import projection
from crp.explorer.source import Source
from crp.explorer.worker import CancelledError, Worker
from crp.neurons import Ranking, rank
from crp.store import StoreError

pytestmark = pytest.mark.slow  # processes begin


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("apart") / "store")


def ignored(progress):
    """Nobody looks."""


def test_a_ranking_is_the_one_that_is_made_here(store):
    told = []
    layer = store.layers[0]
    work_apart(store, Task(kind="ranking", layer=0, method="variance"), told.append)
    kept, = (ranking for ranking in Ranking.kept(store).values() if ranking.method == "variance")
    expected = rank(store, by="variance", layers=layer)
    np.testing.assert_array_equal(kept.order, expected.order)
    np.testing.assert_array_equal(kept.scores, expected.scores)
    assert told[0] == 0 and .5 <= told[-1] < 1 and told == sorted(told)


def test_patterns_and_places_are_those_that_are_made_here(store):
    layer = store.layers[0]
    work_apart(store, Task(kind="patterns", layer=0, quantity="activation"), ignored)
    kept = Patterns.load(store, layer=layer, quantity="activation")
    expected = find_patterns(store, layer, "activation", min_pattern_size=kept.options["min_pattern_size"])
    np.testing.assert_array_equal(kept.labels, expected.labels)
    work_apart(store, Task(kind="projection", layer=0, quantity="activation"), ignored)
    points = projection(Source(store), 0, "activation")
    assert points.shape == (len(store.rows("activation")), 2) and np.isfinite(points).all()


def test_what_is_cancelled_ends_at_once_and_keeps_nothing(store, monkeypatch):
    processes = []
    started = apart.subprocess.Popen
    monkeypatch.setattr(apart.subprocess, "Popen", lambda *args, **how: processes.append(started(*args, **how)) or (
        processes[-1]))
    asked = []

    def stop(progress):
        asked.append(progress)
        if len(asked) == 3:
            raise CancelledError("no longer wanted")

    begin = time.monotonic()
    with pytest.raises(CancelledError):
        work_apart(store, Task(kind="ranking", layer=0, method="probe"), stop)
    assert time.monotonic() - begin < 5 and processes[0].poll() is not None
    assert "probe" not in {ranking.method for ranking in Ranking.kept(store).values()}


def test_its_errors_are_those_of_the_work(store, tmp_path):
    with pytest.raises(ValueError, match="nonsense"):
        work_apart(store, Task(kind="ranking", layer=0, method="nonsense"), ignored)
    other = sweep(tmp_path / "store")
    sweep(tmp_path / "store", batch_size=1, checkpoint=1, overwrite=True, max_target="max")
    with pytest.raises(StoreError, match="replaced"):
        work_apart(other, Task(kind="ranking", layer=0, method="variance"), ignored)


def test_a_process_that_is_killed_is_told_of(store, monkeypatch, tmp_path):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(apart.sys, "executable", str(killed))
    with pytest.raises(RuntimeError, match="code -9: it was killed"):
        work_apart(store, Task(kind="ranking", layer=0, method="variance"), ignored)


def test_an_ablation_tells_how_far_it_is_and_ends_between_batches(with_model):
    keys = list(Ranking.kept(with_model.store))[:1]
    model, told = with_model.fv.attribution.model, []
    live.ablate(with_model, keys, told.append)
    assert told[0] == 0 and .9 < told[-1] < 1 and told == sorted(told)

    worker = Worker()

    def stopped_at_half(progress):
        return live.ablate(with_model, keys, lambda share: (share > .6 and worker.cancel("job"), progress(share)))

    job = worker.submit("job", "an ablation", stopped_at_half)
    with pytest.raises(CancelledError):
        job.future.result(60)
    assert job.state == "cancelled" and .5 < job.progress < .7
    worker.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
