"""One pass over a dataset that writes, for each layer, what every sample does to every concept."""
from __future__ import annotations

import functools
import gc
import operator
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from zennit.core import Composite

from crp.attribution import AttributionResult, CondAttribution
from crp.concepts import Concept, check_max_target
from crp.inputs import map_tensors
from crp.layers import module_order
from crp.model_fingerprint import changed_by, model_fingerprint
from crp.records import StoreError, file_hash
from crp.rule_fingerprint import composite_fingerprint
from crp.settings import check_settings, describe_attribution, describe_concept, describe_samples, known_passing
from crp.shards import (
    ShardWriter,
    contents_of,
    create_store,
    finished_shards,
    range_of,
    remove_dead_temporaries,
    remove_merged_shards,
    remove_store,
    seal_store,
    swept_ranges,
)
from crp.store import (
    DTYPES,
    KEPT,
    MATRIX_OF,
    QUANTITIES,
    ROW_DTYPE,
    TABLE_DEPTH,
    TABLE_DTYPE,
    TOTAL_OF,
    LayerEntry,
    ReferenceStore,
    is_sealed,
    is_store,
    read_manifest,
    stored_statistics,
)
from crp.workers import Workers


@dataclass
class Batch:
    """Samples of a dataset, ready for the model.

    Attributes
    ----------
    samples : list of int
        Their positions in the dataset.
    data : torch.Tensor, tuple or dict
        Inputs of the model, in the same order.
        None without samples.
    targets : list of list of int
        The classes of each sample.
    skipped : dict
        Samples that belong here and were left out -> why.
    """

    samples: list[int]
    data: Any
    targets: list[list[int]]
    skipped: dict[int, str] = field(default_factory=dict)


class Sweep:
    """A pass over a dataset, from samples to a store.

    Parameters
    ----------
    attribution : CondAttribution
    concepts : dict
        Layer -> concept.
    composite : zennit.core.Composite
    path : str or Path
        Folder of the store.
    load : callable
        ``(start, stop, batch_size) -> iterable of Batch``.
    length : int
        Number of samples in the dataset.
    max_target : {"sum", "max"}
        "max" writes the largest value over positions beside the sum.
    batch_size : int
    checkpoint : int
        Batches per shard.
    on_device : str or torch.device, optional
        Where activations and relevances are read.
    keep : {"all", "top"}
        "top" keeps tables and class means only.
    dtype : {"float32", "float16"}
        Of the matrices.
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, path: str | Path,
        load: Callable[[int, int, int], Iterable[Batch]], length: int, *, max_target: str = "sum",
        batch_size: int = 32, checkpoint: int = 500, on_device: str | torch.device | None = None,
        keep: str = "all", dtype: str = "float32",
    ):
        check_max_target(max_target)
        for name, value, known in (("keep", keep, KEPT), ("dtype", dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"{name} is {' or '.join(map(repr, known))}, not {value!r}")
        if composite is None:
            raise TypeError("composite is None: a sweep needs rules; zennit's Composite() without any gives gradients")
        if length < 1:
            raise ValueError("the dataset is empty")
        if not concepts:
            raise ValueError("layer_map is empty: give it at least one layer with its concept")
        for name, value in (("batch_size", batch_size), ("checkpoint", checkpoint)):
            if value < 1:
                raise ValueError(f"{name} is at least 1, not {value}")
        self.attribution, self.composite, self.path = attribution, composite, Path(path)
        self.concepts = {layer: concepts[layer] for layer in module_order(attribution.model, concepts)}
        self.load, self.length = load, length
        self.max_target, self.on_device = max_target, on_device
        self.batch_size, self.checkpoint = operator.index(batch_size), operator.index(checkpoint)
        self.keep, self.dtype = keep, dtype
        self.first_batch = self._first_batch()
        self.passing = changed_by(self._describe_layers, attribution.model)

    def run(
        self, start: int, stop: int, *, overwrite: bool = False, resume: bool = True, workers: Workers | None = None
    ) -> ReferenceStore:
        """Sweep a range of samples and finish the store; instant if that has been done.

        Raises
        ------
        StoreError
            If the folder holds a store made with other settings or of other samples, or one that is not finished and
            shall not be resumed.
        """
        self._check_range(start, stop)
        if overwrite:
            remove_store(self.path)
        if is_store(self.path):
            check_settings(self.path, self.settings)
            self._check_held(start, stop)
            if not resume and not is_sealed(self.path):
                raise StoreError(
                    f"{self.path} holds a sweep that has not finished: resume=True goes on with it, overwrite=True "
                    "begins anew"
                )
        if not is_sealed(self.path):
            self.run_part(start, stop, workers)
            seal_store(self.path)
        else:
            remove_merged_shards(self.path)
            remove_dead_temporaries(self.path)
        return ReferenceStore(self.path)

    def run_part(self, start: int, stop: int, workers: Workers | None = None) -> list[str]:
        """Sweep a range of samples into shards of a store that is finished later. What exists is not done again.

        Returns
        -------
        list of str
            The shards.
        """
        parts = self.parts(start, stop)
        self.write_parts(parts, workers)
        return [f"{first:08d}" for first, _ in parts]

    def write_parts(self, parts: list[tuple[int, int]], workers: Workers | None = None) -> None:
        """Write the shards of ranges of samples, as :meth:`parts` gives them. Those that exist are not done again."""
        if is_sealed(self.path):
            raise StoreError(f"{self.path} holds a finished sweep: choose another path, or run with overwrite=True")
        create_store(self.path, self.settings, self.attribution.device.type)
        self.manifest = file_hash(self.path / "manifest.json")
        finished = [range_of(record) for record in finished_shards(self.path).values()]
        for part in parts:
            self._check_overlap(*part, finished)
        missing = [part for part in parts if part not in finished]
        self._check_disk(missing)
        total = sum(stop - first for first, stop in parts)
        done = total - sum(stop - first for first, stop in missing)
        with tqdm(total=total, initial=done, unit="sample", desc=f"sweep of {len(self.layers)} layers") as bar:
            if workers is not None:
                for first, stop in workers.write_shards(self.path, missing, self.manifest):
                    bar.update(stop - first)
                return
            with self.attribution.attached(self.composite, self.first_batch.data):
                for part in missing:
                    self._write_shard(*part, bar.update)

    def write_shard(self, first: int, stop: int, manifest: str) -> None:
        """Write one shard of a store that has been begun; ``manifest`` is the sha256 of its manifest."""
        self.manifest = manifest
        with self.attribution.attached(self.composite, self.first_batch.data):
            self._write_shard(first, stop, lambda samples: None)

    def parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The shards of a range of samples: (first, stop) each."""
        size = self.batch_size * self.checkpoint
        self._check_range(start, stop)
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    @functools.cached_property
    def settings(self) -> dict:
        """Everything that decides what the store holds."""
        passing = known_passing(read_manifest(self.path)) if is_store(self.path) else self.passing
        return {
            "model": model_fingerprint(self.attribution.model, passing),
            "attribution": describe_attribution(self.attribution),
            "dataset": {"length": self.length, **self._describe_samples()},
            "composite": composite_fingerprint(self.composite, self.attribution.model),
            "options": {
                "max_target": self.max_target, "batch_size": self.batch_size, "checkpoint": self.checkpoint,
                "keep": self.keep, "dtype": self.dtype,
            },
            "layers": [entry.to_json() for entry in self.layers],
        }

    def _check_held(self, start, stop):
        """Raise a StoreError if the store holds samples of another range, or in other shards."""
        if is_sealed(self.path):
            held = swept_ranges(self.path)
            is_foreign = held != [[start, stop]]
        else:
            shards, parts = finished_shards(self.path), self.parts(start, stop)
            held = contents_of(shards)["samples"]
            is_foreign = any(range_of(record) not in parts for record in shards.values())
        if is_foreign:
            ranges = ", ".join(f"{first} to {last - 1}" for first, last in held)
            raise StoreError(
                f"{self.path} holds a sweep of samples {ranges}, not {start} to {stop - 1}. "
                "Choose another path, or overwrite=True to replace it"
            )

    def _check_range(self, start, stop):
        if not 0 <= start < stop <= self.length:
            raise ValueError(f"samples {start} to {stop} (exclusive) are no range of a dataset of {self.length}")

    def _check_overlap(self, first, end, finished):
        for other_first, other_end in finished:
            if first < other_end and other_first < end and (first, end) != (other_first, other_end):
                raise StoreError(f"{self.path} already holds samples {other_first} to {other_end - 1}, which overlap "
                                 f"{first} to {end - 1}")

    def _check_disk(self, parts):
        needed, free = self.bytes_of(parts), self.free_bytes()
        if needed > free:
            raise StoreError(
                f"the sweep needs {needed / 1e9:.1f} GB in {self.path}, but only {free / 1e9:.1f} GB are free"
            )

    def bytes_of(self, parts: list[tuple[int, int]]) -> int:
        """About how much shards take, if each sample has one target.

        Their matrices; with ``keep="top"`` their tables, and the matrices of one.
        """
        statistics, value = len(stored_statistics(self.max_target)), np.dtype(self.dtype).itemsize
        of_sample = 2 * sum(entry.concepts * (value * statistics + 4 * entry.has_positions) for entry in self.layers)
        samples = [stop - first for first, stop in parts]
        if self.keep == "all":
            return of_sample * sum(samples)
        of_tables = 4 * statistics * TABLE_DEPTH * TABLE_DTYPE.itemsize * sum(entry.concepts for entry in self.layers)
        return of_sample * max(samples, default=0) + of_tables * len(parts)

    def free_bytes(self) -> int:
        """Free space where the store is to be."""
        existing = next(folder for folder in (self.path.absolute(), *self.path.absolute().parents) if folder.is_dir())
        return shutil.disk_usage(existing).free

    def _first_batch(self) -> Batch:
        """The first sample that can be had."""
        batch = next((batch for batch in self.load(0, self.length, 1) if batch.samples), None)
        if batch is None:
            raise ValueError("no sample of the dataset can be read")
        return batch

    def _describe_layers(self) -> None:
        """Learn the number and positions of the concepts of each layer from one sample."""
        *_, result = next(self._attribute(self.first_batch))
        self.layers = []
        for number, (layer, concept) in enumerate(self.concepts.items()):
            activation = result.activations[layer]
            self.layers.append(LayerEntry(
                f"L{number:04d}", layer, concept.read(activation, layer).value.shape[1],
                concept.position_shape(activation.shape[1:], layer),
                describe_concept(concept),
            ))

    def _describe_samples(self) -> dict[str, str | None]:
        """Hashes of a few samples and their targets; None for what differs each time even with the same seed."""
        found, again, otherwise = (describe_samples(self.load, self.length, seed) for seed in (0, 0, 1))
        if found != otherwise:
            warnings.warn(
                "the dataset gives other samples each time it is read: references will not show what was swept",
                stacklevel=2,
            )
        return {name: value if value == again[name] else None for name, value in found.items()}

    def _read(self, tensor: torch.Tensor, layer: str) -> tuple[torch.Tensor, ...]:
        """What the store keeps of an activation or relevance: value and total of each statistic, and the position."""
        tensor = tensor if self.on_device is None else tensor.to(self.on_device)
        kept = []
        for statistic in stored_statistics(self.max_target):
            value, position = self.concepts[layer].read(tensor, layer, statistic)
            value = value.float()
            total = value.abs().sum(1)
            if self.dtype == "float16":
                value = (value / total.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).half()
            kept += [value, total]
        return *kept, position.to(torch.int32)

    def _attribute(
        self, batch: Batch, writer: ShardWriter | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, AttributionResult]]:
        """Run a batch: one row per (place in the batch, target); a sample without targets has one row with -1.

        For a writer the results hold what the store keeps, otherwise whole tensors.
        """
        places = np.repeat(np.arange(len(batch.samples)), [max(len(targets), 1) for targets in batch.targets])
        targets = np.array([target for targets in batch.targets for target in targets or [-1]])
        name = self.attribution.MODEL_OUTPUT_NAME
        first = 0
        while first < len(places):
            rows = self.batch_size if writer is None else writer.rows_at_once
            part = slice(first, first + rows)
            whole = len(places) == len(batch.samples) <= rows
            data = batch.data if whole else map_tensors(lambda tensor, part=part: tensor[places[part]], batch.data)
            conditions = [{name: [] if target < 0 else [target]} for target in targets[part].tolist()]
            try:
                result = self.attribution(
                    data, conditions, self.composite, record_layer=list(self.concepts), mask_map=self.concepts,
                    exclude_parallel=False, heatmap=False, record_fn=None if writer is None else self._read,
                )
            except (RuntimeError, MemoryError) as error:
                if writer is None or len(conditions) == 1 or not _is_out_of_memory(error):
                    raise
                result = None
            if result is None:  # here nothing of the failed pass is alive
                writer.halve_rows(len(conditions), batch.samples[places[first]])
                _release_memory()
                continue
            yield places[part], targets[part], result
            first += rows

    def try_batch(self, batch: Batch) -> None:
        """Compute what would be written of a batch."""
        with self.attribution.attached(self.composite, self.first_batch.data):
            for _, _, result in self._attribute(batch):
                for layer in self.concepts:
                    self._read(result.activations[layer], layer)
                    self._read(result.relevances[layer], layer)

    def _write_shard(self, first: int, stop: int, report: Callable[[int], Any]) -> None:
        writing = ShardWriter(self.path, first, stop, self.keep, self.batch_size, self.manifest)
        with writing as writer, ThreadPoolExecutor(1) as thread:
            written = thread.submit(self._begin, writer)
            for batch in _ahead(self.load(first, stop, self.batch_size)):
                writer.skipped.update(batch.skipped)
                last = -1
                for places, targets, result in self._attribute(batch, writer):
                    written.result()
                    is_first = places != np.concatenate([[last], places[:-1]])
                    last = places[-1]
                    rows = self._rows(batch, places, targets, result.prediction)
                    written = thread.submit(self._write, writer, rows, result, is_first)
                report(len(batch.samples) + len(batch.skipped))
            written.result()

    def _rows(self, batch, places, targets, prediction) -> np.ndarray:
        rows = np.empty(len(places), ROW_DTYPE)
        rows["sample"] = np.array(batch.samples)[places]
        rows["target"] = targets
        rows["position"] = -1
        rows["prediction"] = prediction.argmax(1).cpu() if prediction.ndim == 2 else -1
        return rows

    def _begin(self, writer: ShardWriter) -> None:
        """Write no rows, so that all arrays are there also where all samples are skipped."""
        for quantity in QUANTITIES:
            writer.append(f"{quantity}.rows", np.empty(0, ROW_DTYPE))
            for entry in self.layers:
                for name, dtype, shape in self._arrays(entry):
                    writer.append(f"{entry.key}.{quantity}.{name}", np.empty((0, *shape), dtype))

    def _write(self, writer: ShardWriter, rows: np.ndarray, result: AttributionResult, is_first: np.ndarray) -> None:
        """Write rows: relevance of those with a target, activation of the first of each sample."""
        for quantity, recorded, selected in (
            ("relevance", result.relevances, rows["target"] >= 0), ("activation", result.activations, is_first)
        ):
            chosen = rows[selected]
            if quantity == "activation":
                chosen["target"] = -1
            writer.append(f"{quantity}.rows", chosen)
            for entry in self.layers:
                arrays = (tensor.cpu().numpy()[selected] for tensor in recorded[entry.name])
                for (name, *_), array in zip(self._arrays(entry), arrays):
                    writer.append(f"{entry.key}.{quantity}.{name}", array)

    def _arrays(self, entry: LayerEntry) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, type and shape of a row of the arrays of a layer, in the order in which :meth:`_read` gives them."""
        arrays = []
        for statistic in stored_statistics(self.max_target):
            arrays += [(MATRIX_OF[statistic], self.dtype, (entry.concepts,)), (TOTAL_OF[statistic], "float32", ())]
        return arrays + [("position", "int32", (entry.concepts,))] * entry.has_positions


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        "can't allocate memory" in said or "not enough memory" in said
    )


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


_END = object()


def _ahead(items: Iterable) -> Iterator:
    """The items, each fetched while the one before is in use."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
