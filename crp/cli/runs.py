"""Sweeps from the command line: run, merge, info, and what a run would take."""
from __future__ import annotations

import multiprocessing
import os
import stat
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crp.cli.answers import Conservation, Estimate, Fault, StoreInfo
from crp.cli.specs import errors_of_users, load_spec
from crp.model.layers import resolve_layer
from crp.model.samples import join_samples
from crp.store.folder import opened, walk
from crp.store.place import Place, place_of_store
from crp.store.sealing import seal_store
from crp.store.shards import check_complete, contents_of, finished_shards, strays

if TYPE_CHECKING:
    from zennit.core import Composite

    from crp.sweeps.sweep import Sweep
    from crp.visualization import FeatureVisualization
    from crp.visualization.swept_dataset import SweptDataset


def run(
    spec: str, *, store: str | None = None, start: int = 0, stop: int | None = None,
    shard: tuple[int, int] | None = None, workers: int = 0, overwrite: bool = False, dry_run: bool = False, **how: Any,
) -> StoreInfo | Estimate:
    """Sweep what a function specifies (see :mod:`crp.cli.specs`). Its file is executed, for a dry run as well.

    Parameters
    ----------
    spec : str
    store : str, optional
        Folder of the store, instead of that of the specification.
    start, stop : int
        Range of the samples; by default all.
    shard : (int, int), optional
        (i, n): write every n-th shard from the i-th on, and do not finish the store.
    workers : int, default 0
        How many processes share the work.
    overwrite, dry_run : bool
    **how
        As for ``FeatureVisualization.sweep``.

    Returns
    -------
    StoreInfo or Estimate
        What the store holds then; of a dry run, what it would take.
    """
    from crp.sweeps.workers import Workers  # of which reading a store has no need

    visualization, composite = specified(spec)
    visualization.path = Path(store or visualization.path)
    sweep = visualization.sweep(composite, **how)
    if overwrite and shard is not None:
        raise ValueError("overwrite=True replaces a whole store: run it without a shard, or delete the folder first")
    stop = len(visualization.dataset) if stop is None else stop
    parts = sweep.parts(start, stop)
    chosen = parts if shard is None else parts[shard[0]::shard[1]]
    if dry_run:
        return _estimate(sweep, chosen, len(parts))
    with ExitStack() as stack:
        shared = None
        if workers:
            stack.enter_context(_without_current_folder())
            pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
            shared = Workers(stack.enter_context(pool), sweep)
        if shard is None:
            sweep.run(start, stop, overwrite=overwrite, workers=shared)
        else:
            sweep.write_parts(chosen, shared)
    return info(sweep.path)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Keep files in the current folder from replacing modules while Python starts in new processes."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _estimate(sweep: Sweep, parts: list[tuple[int, int]], of: int) -> Estimate:
    """What shards would take: space by the numbers of concepts, time by a batch."""
    samples = sum(stop - first for first, stop in parts)
    batch = next(batch for batch in sweep.load(0, sweep.length, sweep.batch_size) if batch.samples)
    sweep.try_batch(batch)
    begin = time.perf_counter()
    sweep.try_batch(batch)
    seconds = (time.perf_counter() - begin) / len(batch.samples)
    return Estimate(
        store=sweep.path, samples=samples, shards=len(parts), shards_of_all=of,
        layers={entry.name: entry.concepts for entry in sweep.layers},
        concepts=sum(entry.concepts for entry in sweep.layers),
        bytes=sweep.bytes_of(parts), free_bytes=sweep.free_bytes(), seconds=seconds * samples,
    )


def audit(spec: str, *, start: int = 0, samples: int = 8) -> Conservation:
    """Measure on a few samples whether relevance is conserved in what a function specifies. Its file is executed.

    Parameters
    ----------
    spec : str
    start : int, default 0
        The first of the samples.
    samples : int, default 8
    """
    visualization, composite = specified(spec)
    length = len(visualization.dataset)
    if not 0 <= start < length:
        raise ValueError(f"start is from 0 to {length - 1}, the last sample of the dataset, not {start}")
    for layer in visualization.layer_map:
        resolve_layer(visualization.attribution.model, layer)
    numbers = list(range(start, min(start + samples, length)))
    data = join_samples([visualization.get_data_sample(number)[0] for number in numbers], numbers)
    found = visualization.attribution.audit(data, composite)
    return Conservation(
        samples=len(numbers), model=type(visualization.attribution.model).__name__, composite=type(composite).__name__,
        conserved=not found.faults and abs(found.accounted - 1) <= found.tolerance, total=found.total,
        accounted=found.accounted, sinks=dict(found.sinks), faults=[
            Fault(operation=fault.operation, module=fault.module, arriving=fault.arriving, imbalance=fault.imbalance)
            for fault in found.faults
        ],
        notes=[note for note in (found.vanishing, *found.notes) if note], table=str(found).splitlines(),
    )


def specified(spec: str) -> tuple[SweptDataset, Composite]:
    """What a function specifies; its file is executed."""
    from crp.visualization import FeatureVisualization

    function = load_spec(spec)
    with errors_of_users(spec):
        made = function()
    return FeatureVisualization.from_spec(made)


def specified_visualization(spec: str, store: str | None) -> tuple[FeatureVisualization, Composite]:
    """What a function specifies, if it can draw; its store in the folder that is named, if one is."""
    from crp.visualization import FeatureVisualization

    visualization, composite = specified(spec)
    if not isinstance(visualization, FeatureVisualization):
        raise TypeError(f"{spec} gives a {type(visualization).__name__}, not a FeatureVisualization or a dict")
    visualization.path = Path(store or visualization.path)
    return visualization, composite


def merge(store: str | Path, start: int = 0, stop: int | None = None) -> StoreInfo:
    """Finish a store whose shards are all there.

    Raises
    ------
    StoreError
        If samples are missing.
    """
    place = place_of_store(store)
    stop = place.manifest.settings.dataset.length if stop is None else stop
    check_complete(place, (start, stop))
    seal_store(place)
    return info(store)


def info(store: str | Path) -> StoreInfo:
    """What a store holds, finished or not."""
    place = place_of_store(store)
    settings, finished = place.manifest.settings, place.is_sealed()
    records = {} if finished and settings.options.keep == "top" else finished_shards(place)
    samples, skipped = contents_of(records)
    if finished:
        seal, _ = place.seal()
        samples, skipped = seal.samples, seal.skipped
    return StoreInfo(
        store=place.path, finished=finished, samples=sum(stop - first for first, stop in samples), ranges=samples,
        of=settings.dataset.length, shards=len(records), skipped=skipped,
        notes=[note for record in records.values() for note in record.notes] + _notes(place),
        layers={entry.name: entry.concepts for entry in settings.layers}, bytes=_bytes_in(place.path),
        model=settings.model.class_name, composite=settings.composite.class_name,
        options=settings.options.model_dump(), made_with=place.manifest.made_with.model_dump(),
    )


def _notes(place: Place) -> list[str]:
    return [f"{name!r} among the shards is none of them, and is left alone" for name in strays(place)]


def _bytes_in(path: Path) -> int:
    with opened(path) as folder:
        return sum(status.st_size for _, status in walk(folder) if stat.S_ISREG(status.st_mode))


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """``i/n`` as two numbers, i from 0; by default those of the task of a SLURM array that this process is, if any.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if text is None:
        if not {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= set(environment):
            return None
        lowest, step = (int(environment.get(f"SLURM_ARRAY_TASK_{name}", default)) for name, default in
                        (("MIN", 0), ("STEP", 1)))
        task = (int(environment["SLURM_ARRAY_TASK_ID"]) - lowest) // step
        text = f"{task}/{environment['SLURM_ARRAY_TASK_COUNT']}"
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"a shard is i/n with i from 0 to n - 1, not {text!r} (tasks of an array have equal steps)")
    return int(index), int(count)
