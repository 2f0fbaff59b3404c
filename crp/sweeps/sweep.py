"""One pass over a dataset that writes, for each layer, what every sample does to every concept."""
from __future__ import annotations

import functools
import operator
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from zennit.core import Composite

from crp.attribution.conditional import AttributionResult, CondAttribution
from crp.attribution.conservation import looks_like_sigmoid, looks_like_softmax
from crp.concepts import Concept, check_max_target
from crp.model.positions import PositionMask, counting_positions
from crp.model.samples import SampleError, is_death_of_reader
from crp.rules.restoring import run_undone
from crp.store.creation import begin_replacement, create_store, remove_replaced, remove_sweep, replace_store, replacing
from crp.store.files import DTYPES, KEPT, ROW_KINDS, TABLE_DEPTH, TABLE_DTYPE, stored_statistics
from crp.store.fingerprint import probe_indices
from crp.store.folder import StoreError
from crp.store.place import Place, is_store, place_of_store, place_with
from crp.store.reader import ReferenceStore
from crp.store.runs import announced
from crp.store.schema import MOST_SHARDS, ConceptEntry, LayerEntry, range_of
from crp.store.sealing import seal_store, tidy
from crp.store.settings import check_settings, known_passing
from crp.store.shards import (
    ShardWriter,
    contents_of,
    finished_shards,
    shard_name,
    strays,
    swept_ranges,
)
from crp.sweeps.batches import Batch, BatchPass
from crp.sweeps.describe import (
    describe_attribution,
    describe_concept,
    describe_positions,
    describe_samples,
    describe_starts,
)
from crp.sweeps.model_answers import model_answers
from crp.sweeps.model_fingerprint import changed_by, model_fingerprint
from crp.sweeps.rule_fingerprint import composite_fingerprint
from crp.sweeps.starts import Starts
from crp.sweeps.workers import Workers, deaths_in_words


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
    on_error : {"raise", "skip"}
        Whether samples with which the model fails, or whose relevance is not finite, end the sweep with an error, or
        are left out.
    start_layer, y
        As for ``crp.sweeps.starts.Starts``.
    position_mask : str, callable or None
        Which positions of samples count: a key of inputs, or ``inputs -> [B, T]``.
    among_counting : bool, default False
        Number positions among those that count: where padding depends on the batch.
    rows : {"samples", "positions"}
        "positions" writes a row for each position of a sample that counts, such as a token.
    probed : int, optional
        Among how many samples to look for some that stand for all.
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, path: str | Path,
        load: Callable[[int, int, int], Iterable[Batch]], length: int, *, max_target: str = "sum",
        batch_size: int = 32, checkpoint: int = 500, on_device: str | torch.device | None = None,
        keep: str = "all", dtype: str = "float32", on_error: str = "raise", start_layer: str | None = None,
        y: Any = None, position_mask: PositionMask = None, among_counting: bool = False, probed: int | None = None,
        rows: str = "samples",
    ):
        check_max_target(max_target)
        for name, value, known in (("keep", keep, KEPT), ("dtype", dtype, DTYPES), ("rows", rows, ROW_KINDS)):
            if value not in known:
                raise ValueError(f"{name} is {' or '.join(map(repr, known))}, not {value!r}")
        if composite is None:
            raise TypeError("composite is None: a sweep needs rules; zennit's Composite() without any gives gradients")
        if length < 1:
            raise ValueError("the dataset is empty")
        if not concepts:
            raise ValueError("layer_map is empty: give it at least one layer with its concept")
        for name, count in (("batch_size", batch_size), ("checkpoint", checkpoint)):
            if count < 1:
                raise ValueError(f"{name} is at least 1, not {count}")
        self.attribution, self.composite, self.path = attribution, composite, Path(path)
        self.concepts = {layer: concepts[layer] for layer in attribution.in_order(concepts, composite)}
        self.load, self.length, self.probed = load, length, probed or length
        self.max_target = max_target
        self.batch_size, self.checkpoint = operator.index(batch_size), operator.index(checkpoint)
        self.keep, self.dtype, self.rows = keep, dtype, rows
        self._pass = BatchPass(
            attribution, self.concepts, composite, self.batch_size, max_target, on_device, dtype, on_error,
            Starts(attribution.MODEL_OUTPUT_NAME, start_layer, y), position_mask, among_counting, rows,
        )
        if start_layer in self.concepts:
            raise ValueError(f"relevance starts at {start_layer!r}, which has none: leave it out of layer_map")
        if start_layer is not None:
            attribution.in_order([start_layer], composite)
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
        if overwrite and is_store(self.path):
            return self._replace(start, stop, workers)
        settings = self._settings_here()
        if is_store(self.path):
            place = place_of_store(self.path)
            check_settings(place, settings)
            if not resume and not place.is_sealed():
                raise StoreError(
                    f"{self.path} holds a sweep that has not finished: resume=True goes on with it, overwrite=True "
                    "begins anew"
                )
        return self._finish(create_store(self.path, settings, self._device), start, stop, workers)

    def _replace(self, start: int, stop: int, workers: Workers | None) -> ReferenceStore:
        """Sweep beside what the store holds, and let the new sweep take its place when it has finished."""
        with replacing(self.path) as note:
            place = begin_replacement(self.path, self.settings, self._device)
            try:
                self._check_held(place, start, stop)
            except StoreError:  # what was begun is damaged, or of other samples
                with announced(place, start, stop, finishes=True):
                    remove_sweep(place)
                place = begin_replacement(self.path, self.settings, self._device)
            store = self._finish(place, start, stop, workers)
            replace_store(place, note)
            return store

    def _finish(self, place: Place, start: int, stop: int, workers: Workers | None) -> ReferenceStore:
        parts = self.parts(start, stop)
        if not place.is_sealed():
            with announced(place, start, stop, finishes=True):
                if not place.is_sealed():  # another process may have finished it just now
                    self._check_held(place, start, stop)
                    self._write_parts(place, parts, workers)
                    seal_store(place, parts)
        tidy(place)
        remove_replaced(place.path)
        self._check_held(place, start, stop)
        return ReferenceStore.at(place)

    def run_part(self, start: int, stop: int, workers: Workers | None = None) -> list[str]:
        """Sweep a range of samples into shards of a store that is finished later. What exists is not done again.

        Returns
        -------
        list of str
            The shards.
        """
        parts = self.parts(start, stop)
        self.write_parts(parts, workers)
        return [shard_name(first) for first, _ in parts]

    def write_parts(self, parts: list[tuple[int, int]], workers: Workers | None = None) -> None:
        """Write the shards of ranges of samples, as :meth:`parts` gives them. Those that exist are not done again."""
        if is_store(self.path) and place_of_store(self.path).is_sealed():
            raise StoreError(f"{self.path} holds a finished sweep: choose another path, or run with overwrite=True")
        place = create_store(self.path, self._settings_here(), self._device)
        if parts:
            with announced(place, parts[0][0], parts[-1][1], finishes=False):
                self._write_parts(place, parts, workers)

    def _write_parts(self, place: Place, parts: list[tuple[int, int]], workers: Workers | None) -> None:
        finished = set(map(range_of, finished_shards(place).values()))
        self._check_overlaps(parts, finished)
        missing = [part for part in parts if part not in finished]
        self._check_disk(missing)
        stray = strays(place)
        if stray:
            warnings.warn(f"{place.folder / 'shards'} holds what is no shard and is left alone: {stray}", stacklevel=2)
        total = sum(stop - first for first, stop in parts)
        done = total - sum(stop - first for first, stop in missing)
        bar = tqdm(total=total, initial=done, unit="sample", desc=f"sweep of {len(self.layers)} layers")
        with bar, deaths_in_words(place, parts):
            if workers is not None:
                for first, stop in workers.write_shards(place, missing):
                    bar.update(stop - first)
                return
            self._write_shards(place, missing, bar.update)

    def join(self, manifest: str) -> None:
        """Get ready to write shards of a sweep that has been begun, if it has the same settings.

        Parameters
        ----------
        manifest : str
            sha256 of its manifest.
        """
        self._place = place_with(self.path, manifest)
        check_settings(self._place, self.settings_at(self._place))

    def write_shard(self, first: int, stop: int) -> None:
        """Write one shard of the sweep that this one has joined."""
        self._write_shards(self._place, [(first, stop)], lambda samples: None)

    def parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The shards of a range of samples: (first, stop) each."""
        size = self.batch_size * self.checkpoint
        self._check_range(start, stop)
        if (stop - start) > size * MOST_SHARDS:
            raise ValueError(f"a store has at most {MOST_SHARDS} shards: make checkpoint larger than {self.checkpoint}")
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    @functools.cached_property
    def settings(self) -> dict:
        """Everything that decides what the store holds."""
        return self._settings(self.passing)

    def settings_at(self, place: Place) -> dict:
        """The settings, apart from what passes change in the model as that sweep found."""
        return self._settings(known_passing(place.manifest))

    def _settings_here(self) -> dict:
        return self.settings_at(place_of_store(self.path)) if is_store(self.path) else self.settings

    @property
    def _device(self) -> str:
        return self.attribution.device.type

    def _settings(self, passing: list[str]) -> dict:
        model = self.attribution.model
        return {"model": {**model_fingerprint(model, passing), "answers": self._described[0]}, **self._described[1]}

    @functools.cached_property
    def _described(self) -> tuple[list[float] | None, dict]:
        """What the model answers to the first sample, and everything beside the model that decides."""
        samples = self._describe_samples() | describe_positions(self._pass.position_mask, self.first_batch.data)
        answers = None if samples["samples"] is None else model_answers(self.attribution.model, self.load, self.length)
        return answers, {
            "attribution": describe_attribution(self.attribution) | describe_starts(self._pass.starts),
            "dataset": {"length": self.length, **samples},
            "composite": composite_fingerprint(self.composite, self.attribution.model),
            "options": {
                "max_target": self.max_target, "batch_size": self.batch_size, "checkpoint": self.checkpoint,
                "keep": self.keep, "dtype": self.dtype, "rows": self.rows,
            },
            "layers": [entry.model_dump(mode="json") for entry in self.layers],
        }

    def _check_held(self, place: Place, start: int, stop: int) -> None:
        """Raise a StoreError if a sweep holds samples of another range, or in other shards."""
        if place.is_sealed():
            held = swept_ranges(place)
            is_foreign = held != [[start, stop]]
        else:
            shards, parts = finished_shards(place), set(self.parts(start, stop))
            held, _ = contents_of(shards)
            is_foreign = any(range_of(record) not in parts for record in shards.values())
        if is_foreign:
            ranges = ", ".join(f"{first} to {last - 1}" for first, last in held)
            raise StoreError(
                f"{self.path} holds a sweep of samples {ranges}, not {start} to {stop - 1}. "
                "Choose another path, or overwrite=True to replace it"
            )

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= self.length:
            raise ValueError(f"samples {start} to {stop} (exclusive) are no range of a dataset of {self.length}")

    def _check_overlaps(self, parts: list[tuple[int, int]], finished: set[tuple[int, int]]) -> None:
        """Raise a StoreError if a part overlaps a shard that is there and is not the same."""
        end, last = 0, (0, 0)
        for first, stop in sorted(finished.union(parts)):
            if first < end:
                other, part = (last, (first, stop)) if last in finished else ((first, stop), last)
                raise StoreError(f"{self.path} already holds samples {other[0]} to {other[1] - 1}, which overlap "
                                 f"{part[0]} to {part[1] - 1}")
            end, last = stop, (first, stop)

    def _check_disk(self, parts: list[tuple[int, int]]) -> None:
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
        of_row = 2 * sum(entry.concepts * (value * statistics + 4 * entry.has_positions) for entry in self.layers)
        of_sample = of_row * self._rows_of_sample
        samples = [stop - first for first, stop in parts]
        if self.keep == "all":
            return of_sample * sum(samples)
        of_tables = 4 * statistics * TABLE_DEPTH * TABLE_DTYPE.itemsize * sum(entry.concepts for entry in self.layers)
        return of_sample * max(samples, default=0) + of_tables * len(parts)

    def free_bytes(self) -> int:
        """Free space where the store is to be."""
        existing = next(folder for folder in (self.path.absolute(), *self.path.absolute().parents) if folder.is_dir())
        return shutil.disk_usage(existing).free

    def _first_result(self) -> tuple[Batch, AttributionResult]:
        """The first sample that can be had, and what it gives."""
        for batch in self.load(0, self.length, 1):
            try:
                if batch.samples:
                    *_, result = next(self._pass.attribute(batch))
                    return batch, result
            except Exception as error:  # whatever a model raises
                is_of_sample = isinstance(error, FloatingPointError) or self._can_run_another(batch.samples[0])
                if not is_of_sample or is_death_of_reader(error):
                    raise
                if self._pass.on_error == "raise":
                    raise SampleError(batch.samples[0], error) from error
        raise ValueError("no sample of the dataset can be read")

    def _can_run_another(self, sample: int) -> bool:
        """Whether the model can be run on any of a few other samples: if so, this one is at fault."""
        for index in probe_indices(self.probed):
            try:
                batch, = self.load(index, index + 1, 1)
                if index != sample and batch.samples:
                    next(self._pass.attribute(batch))
                    return True
            except Exception:  # whatever a dataset or a model raises
                pass
        return False

    def _describe_layers(self) -> None:
        """Learn the number and positions of the concepts of each layer from one sample."""
        self.first_batch, result = self._first_result()
        self._pass.proven, self._pass.output_shape = self.first_batch, result.prediction.shape
        self._pass.find_positions(self.first_batch)
        self._warn_of_squashed_output(result)
        self.layers, self._rows_of_sample = [], 1
        if self.rows == "positions":
            self._rows_of_sample = self._count_positions(result)
        for number, (layer, concept) in enumerate(self.concepts.items()):
            activation = result.activations[layer]
            shape = () if self.rows == "positions" else concept.position_shape(activation.shape[1:], layer)
            self.layers.append(LayerEntry(
                key=f"L{number:04d}", name=layer, concepts=concept.read(activation, layer).value.shape[1],
                position_shape=shape, concept=ConceptEntry(**describe_concept(concept)),
            ))

    def _count_positions(self, result: AttributionResult) -> int:
        """How many positions the first sample has, in all layers alike."""
        counts = {
            layer: concept.at_positions(result.activations[layer], layer).shape[2]
            for layer, concept in self.concepts.items()
        }
        told = counting_positions(self._pass.position_mask, self.first_batch.data)
        if told is not None:
            counts["the position mask"] = told.shape[1]
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"rows='positions' needs the same positions in all layers, such as tokens, but there are {counts}: "
                "sweep other layers by themselves, or give concepts on the right axis, ChannelConcept(-1) for [B, T, C]"
            )
        return next(iter(counts.values()))

    def _warn_of_squashed_output(self, result: AttributionResult) -> None:
        """Say what a softmax or sigmoid at the end of the model does; sweeps have no heatmap to tell it from."""
        output = result.prediction
        may_be_softmax = looks_like_softmax(output)
        if self._pass.starts.start_layer is not None or not (may_be_softmax or looks_like_sigmoid(output)):
            return
        lowest = None if may_be_softmax else [
            {self.attribution.MODEL_OUTPUT_NAME: [int(row.argmin())]} for row in output.flatten(1)
        ]
        try:
            audit = self.attribution.audit(self.first_batch.data, self.composite, lowest)
        except Exception:  # of a subclass, or of registered rules: the sweep itself goes well
            return
        if audit.saturated:
            warnings.warn(f"relevance tells little: {audit.saturated}", stacklevel=2)
        if audit.turned:
            warnings.warn(f"relevance has turned signs: {audit.turned}", stacklevel=2)

    def _describe_samples(self) -> dict[str, str | None]:
        """Hashes of a few samples and their targets; None for what differs each time even with the same seed."""
        found, again, otherwise = (describe_samples(self.load, self.probed, seed) for seed in (0, 0, 1))
        if found != otherwise:
            warnings.warn(
                "the dataset gives other samples each time it is read: references will not show what was swept",
                stacklevel=2,
            )
        return {name: value if value == again[name] else None for name, value in found.items()}

    def try_batch(self, batch: Batch) -> None:
        """Compute what would be written of a batch."""
        with self.attribution.attached(self.composite, self.first_batch.data):
            for _, _, result in self._pass.attribute(batch):
                for layer in self.concepts:
                    self._pass.read(result.activations[layer], layer)
                    self._pass.read(result.relevances[layer], layer)

    def _write_shards(self, place: Place, parts: list[tuple[int, int]], report: Callable[[int], Any]) -> None:
        def write() -> None:
            with self.attribution.attached(self.composite, self.first_batch.data):
                for first, stop in parts:
                    with ShardWriter(place, first, stop, self.batch_size) as writer:
                        self._pass.write(_ahead(self.load(first, stop, self.batch_size)), self.layers, writer, report)

        run_undone(write)


_END = object()


def _ahead(items: Iterable) -> Iterator:
    """The items, each fetched while the one before is in use."""
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, _END)
        while (item := upcoming.result()) is not _END:
            upcoming = thread.submit(next, iterator, _END)
            yield item
