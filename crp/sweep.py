"""One pass over a dataset that writes, for each layer, what every sample does to every concept."""
from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from zennit.core import Composite

from crp.attribution import AttributionResult, CondAttribution
from crp.concepts import Concept, check_max_target
from crp.fingerprint import fingerprint, model_fingerprint, probe_indices
from crp.inputs import map_tensors
from crp.layers import module_order
from crp.shards import ShardWriter, check_settings, create_store, finished_shards, join_ranges, remove_store, seal_store
from crp.store import (
    MATRIX_OF,
    ROW_DTYPE,
    TOTAL_OF,
    LayerEntry,
    ReferenceStore,
    StoreError,
    is_sealed,
    is_store,
    stored_statistics,
)


def describe_concept(concept: Concept) -> dict[str, str]:
    """What a store keeps of a concept, to know it again."""
    return {"class": type(concept).__qualname__, "settings": fingerprint(concept)}


@dataclass
class Batch:
    """Samples of a dataset, ready for the model.

    Attributes
    ----------
    samples : list of int
        Their positions in the dataset.
    data : torch.Tensor, tuple or dict
        Inputs of the model, in the same order.
    targets : list of list of int
        The classes of each sample.
    """

    samples: list[int]
    data: Any
    targets: list[list[int]]


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
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, path: str | Path,
        load: Callable[[int, int, int], Iterable[Batch]], length: int, *, max_target: str = "sum",
        batch_size: int = 32, checkpoint: int = 500, on_device: str | torch.device | None = None,
    ):
        check_max_target(max_target)
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
        self.batch_size, self.checkpoint = batch_size, checkpoint
        self.layers = self._describe_layers()

    def run(self, start: int, stop: int, overwrite: bool = False) -> ReferenceStore:
        """Sweep a range of samples and finish the store; instant if that has been done.

        Raises
        ------
        StoreError
            If the folder holds a store made with other settings or of other samples.
        """
        self._check_range(start, stop)
        if overwrite:
            remove_store(self.path)
        if is_store(self.path):
            check_settings(self.path, self.settings)
            held = finished_shards(self.path).values()
            foreign = any(part not in self._parts(start, stop) for part in held)
            if foreign or is_sealed(self.path) and join_ranges(held) != [[start, stop]]:
                ranges = ", ".join(f"{first} to {last - 1}" for first, last in join_ranges(held))
                raise StoreError(
                    f"{self.path} holds a sweep of samples {ranges}, not {start} to {stop - 1}. "
                    "Choose another path, or overwrite=True to replace it"
                )
        if not is_sealed(self.path):
            self.run_part(start, stop)
            seal_store(self.path)
        return ReferenceStore(self.path)

    def run_part(self, start: int, stop: int) -> list[str]:
        """Sweep a range of samples into shards of a store that is finished later. What exists is not done again.

        Returns
        -------
        list of str
            The shards.
        """
        self._check_range(start, stop)
        if is_sealed(self.path):
            raise StoreError(f"{self.path} holds a finished sweep: choose another path, or run with overwrite=True")
        self._check_disk(stop - start)
        create_store(self.path, self.settings)
        finished = finished_shards(self.path).values()
        for first, end in self._parts(start, stop):
            self._check_overlap(first, end, finished)
        shards = []
        bar = tqdm(total=stop - start, unit="sample", desc=f"sweep of {len(self.layers)} layers")
        with bar, self.attribution.attached(self.composite, next(iter(self.load(0, 1, 1))).data):
            for first, end in self._parts(start, stop):
                if (first, end) not in finished:
                    self._write_shard(first, end, bar)
                else:
                    bar.update(end - first)
                shards.append(f"{first:08d}")
        return shards

    @functools.cached_property
    def settings(self) -> dict:
        """Everything that decides what the store holds."""
        return {
            "model": model_fingerprint(self.attribution.model),
            "attribution": {
                "class": type(self.attribution).__qualname__, "output": fingerprint(self.attribution.output),
            },
            "dataset": {"length": self.length, "samples": self._dataset_fingerprint()},
            "composite": {"class": type(self.composite).__qualname__, "rules": fingerprint(self.composite)},
            "options": {"max_target": self.max_target, "batch_size": self.batch_size, "checkpoint": self.checkpoint},
            "layers": [entry.to_json() for entry in self.layers],
        }

    def _parts(self, start, stop):
        size = self.batch_size * self.checkpoint
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    def _check_range(self, start, stop):
        if not 0 <= start < stop <= self.length:
            raise ValueError(f"samples {start} to {stop} (exclusive) are no range of a dataset of {self.length}")

    def _check_overlap(self, first, end, finished):
        for other_first, other_end in finished:
            if first < other_end and other_first < end and (first, end) != (other_first, other_end):
                raise StoreError(f"{self.path} already holds samples {other_first} to {other_end - 1}, which overlap "
                                 f"{first} to {end - 1}")

    def _check_disk(self, samples):
        statistics = len(stored_statistics(self.max_target))
        needed = 2 * samples * sum(4 * entry.concepts * (statistics + entry.has_positions) for entry in self.layers)
        existing = next(folder for folder in (self.path.absolute(), *self.path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise StoreError(
                f"the sweep needs {needed / 1e9:.1f} GB in {self.path}, but only {free / 1e9:.1f} GB are free"
            )

    def _describe_layers(self) -> list[LayerEntry]:
        """Number and positions of the concepts of each layer, from one sample."""
        batch = next(iter(self.load(0, 1, 1)))
        self._check_targets(batch)
        *_, result = next(self._attribute(batch, record_fn=None))
        entries = []
        for number, (layer, concept) in enumerate(self.concepts.items()):
            activation = result.activations[layer]
            entries.append(LayerEntry(
                f"L{number:04d}", layer, concept.read(activation, layer).value.shape[1],
                concept.position_shape(activation.shape[1:], layer),
                describe_concept(concept),
            ))
        return entries

    def _dataset_fingerprint(self) -> str | None:
        """Hash of a few samples; None if they come out differently each time."""
        indices = probe_indices(self.length)

        def read():
            return fingerprint([(batch.data, batch.targets) for i in indices for batch in self.load(i, i + 1, 1)])

        first = read()
        if first != read():
            warnings.warn(
                "the dataset gives other samples each time it is read: references will not show what was swept",
                stacklevel=2,
            )
            return None
        return first

    def _read(self, tensor: torch.Tensor, layer: str) -> tuple[torch.Tensor, ...]:
        """What the store keeps of an activation or relevance: value and total of each statistic, and the position."""
        tensor = tensor if self.on_device is None else tensor.to(self.on_device)
        kept = []
        for statistic in stored_statistics(self.max_target):
            value, position = self.concepts[layer].read(tensor, layer, statistic)
            value = value.float()
            kept += [value, value.abs().sum(1)]
        return *kept, position.to(torch.int32)

    def _attribute(
        self, batch: Batch, record_fn: Callable | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, AttributionResult]]:
        """Run a batch: one row per (place in the batch, target); a sample without targets has one row with -1."""
        places = np.repeat(np.arange(len(batch.samples)), [max(len(targets), 1) for targets in batch.targets])
        targets = np.array([target for targets in batch.targets for target in targets or [-1]])
        name = self.attribution.MODEL_OUTPUT_NAME
        for first in range(0, len(places), self.batch_size):
            part = slice(first, first + self.batch_size)
            whole = len(places) == len(batch.samples) <= self.batch_size
            data = batch.data if whole else map_tensors(lambda tensor, part=part: tensor[places[part]], batch.data)
            conditions = [{name: [] if target < 0 else [target]} for target in targets[part].tolist()]
            yield places[part], targets[part], self.attribution(
                data, conditions, self.composite, record_layer=list(self.concepts), mask_map=self.concepts,
                exclude_parallel=False, heatmap=False, record_fn=record_fn,
            )

    def _write_shard(self, first: int, stop: int, bar: tqdm) -> None:
        with ShardWriter(self.path, first, stop) as writer, ThreadPoolExecutor(1) as thread:
            written = None
            for batch in _ahead(self.load(first, stop, self.batch_size)):
                self._check_targets(batch)
                last = -1
                for places, targets, result in self._attribute(batch, self._read):
                    if written is not None:
                        written.result()
                    is_first = places != np.concatenate([[last], places[:-1]])
                    last = places[-1]
                    rows = self._rows(batch, places, targets, result.prediction)
                    written = thread.submit(self._write, writer, rows, result, is_first)
                bar.update(len(batch.samples))
            written.result()

    @staticmethod
    def _check_targets(batch: Batch) -> None:
        for sample, targets in zip(batch.samples, batch.targets):
            if min(targets, default=0) < 0:
                raise ValueError(f"sample {sample} has the target {min(targets)}; classes are numbered from 0")

    def _rows(self, batch, places, targets, prediction) -> np.ndarray:
        rows = np.empty(len(places), ROW_DTYPE)
        rows["sample"] = np.array(batch.samples)[places]
        rows["target"] = targets
        rows["position"] = -1
        rows["prediction"] = prediction.argmax(1).cpu() if prediction.ndim == 2 else -1
        return rows

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
                arrays = [tensor.cpu().numpy()[selected] for tensor in recorded[entry.name]]
                names = [name for statistic in stored_statistics(self.max_target)
                         for name in (MATRIX_OF[statistic], TOTAL_OF[statistic])]
                if entry.has_positions:
                    names.append("position")
                for name, array in zip(names, arrays):
                    writer.append(f"{entry.key}.{quantity}.{name}", array)


_END = object()


def _ahead(items: Iterable) -> Iterator:
    """The items, each fetched while the one before is in use."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
