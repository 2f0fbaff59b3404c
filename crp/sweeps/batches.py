"""Batches of samples on their way through the model, and what a store keeps of them."""
from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from zennit.core import Composite

from crp.attribution.conditional import AttributionResult, CondAttribution
from crp.attribution.conditions import check_targets
from crp.concepts import Concept, Reading
from crp.concepts.padding import axes_of_positions, read_where_it_counts
from crp.model.inputs import list_tensors, map_tensors
from crp.model.layers import flatten_tensors
from crp.model.positions import PositionMask, counting_positions
from crp.model.samples import SampleError, describe_difference, describe_error, is_death_of_reader
from crp.model.targets import Start
from crp.store.files import QUANTITIES, ROW_DTYPE, stored_statistics
from crp.store.layout import columns_of
from crp.store.schema import LayerEntry
from crp.store.shards import ShardWriter
from crp.sweeps.starts import Starts, predicted_classes, runs_of_one_kind


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


class BatchPass:
    """Attributes batches with all layers recorded, and writes what they give.

    Parameters
    ----------
    attribution : CondAttribution
    concepts : dict
        Layer -> concept.
    composite : zennit.core.Composite
    batch_size : int
        How many rows go together.
    max_target, on_device, dtype, on_error, starts, position_mask, among_counting, rows
        As for :class:`crp.sweeps.Sweep`.

    Attributes
    ----------
    proven : Batch or None
        One sample that the model could be run on before, which tells faults of samples from others.
    output_shape : torch.Size or None
        What the model gave for it.
    axes : dict
        Layer -> the axes of its tensor with the positions that ``position_mask`` tells of.
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, batch_size: int,
        max_target: str, on_device: str | torch.device | None, dtype: str, on_error: str, starts: Starts,
        position_mask: PositionMask, among_counting: bool, rows: str = "samples",
    ):
        self.attribution, self.concepts, self.composite = attribution, concepts, composite
        self.batch_size, self.max_target, self.on_device, self.dtype = batch_size, max_target, on_device, dtype
        self.on_error, self.starts = on_error, starts
        self.position_mask, self.among_counting = position_mask, among_counting
        self.of_positions = rows == "positions"
        self.axes: dict[str, tuple[int, ...]] = {}
        self._counts: torch.Tensor | None = None
        self.proven: Batch | None = None
        self.output_shape: torch.Size | None = None

    def attribute(
        self, batch: Batch, writer: ShardWriter | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, AttributionResult]]:
        """Run a batch: one row per (place in the batch, target); a sample without targets has one row with -1.

        For a writer the results hold what the store keeps, otherwise whole tensors. Samples that the model cannot be
        run on, or whose relevance is not finite, are left out, where samples may be.

        Raises
        ------
        SampleError
            For such a sample, otherwise.
        """
        targets_of = [self.starts.targets(classes) or [Start.NOTHING] for classes in batch.targets]
        places = np.repeat(np.arange(len(batch.samples)), [len(targets) for targets in targets_of])
        targets = np.array([target for targets in targets_of for target in targets], int)
        first = 0
        if writer is not None:
            places, targets = self._without(self._lacking_targets(batch), batch, places, targets, 0, writer)
        while first < len(places):
            rows = min(self.batch_size if writer is None else writer.rows_at_once, runs_of_one_kind(targets[first:]))
            part = slice(first, first + rows)
            is_whole = places.tolist() == list(range(len(batch.samples))) and len(places) <= rows
            data = batch.data if is_whole else map_tensors(lambda tensor: tensor[places[part]], batch.data)
            try:
                result = self._attribute(data, targets[part], writer)
            except Exception as error:  # whatever a model or a concept raises
                if writer is None or is_death_of_reader(error):
                    raise
                if not _is_out_of_memory(error):
                    broken = self._at_fault(error, batch, places[part], targets[part], writer)
                    places, targets = self._without(broken, batch, places, targets, first, writer)
                    continue
                if len(places[part]) == 1:
                    raise
                result = None
            if result is not None:
                yield places[part], targets[part], result
                first += rows
            elif writer is not None:  # here nothing of the failed pass is alive
                writer.halve_rows(len(places[part]), batch.samples[places[first]])
                _release_memory()

    def find_positions(self, sample: Batch) -> None:
        """Learn where layers have the positions that the position mask tells of, from one sample."""
        targets = np.array([Start.NOTHING])

        def shapes_of(data: Any) -> dict[str, torch.Size]:
            result = self._attribute(data, targets, None)
            return {layer: result.activations[layer].shape for layer in self.concepts}

        self.axes = axes_of_positions(self.position_mask, sample.data, shapes_of)

    def _attribute(self, data: Any, targets: np.ndarray, writer: ShardWriter | None) -> AttributionResult:
        self._counts = counting_positions(self.position_mask, data)
        result = self.attribution(
            data, composite=self.composite, record_layer=list(self.concepts), exclude_parallel=False, heatmap=False,
            record_fn=None if writer is None else self.read, **self.starts.arguments(targets, self.concepts),
        )
        for layer, recorded in result.activations.items():
            if any(bool(tensor.isnan().any()) for tensor in flatten_tensors(recorded)):
                raise FloatingPointError(f"activations of {layer!r} are NaN")
        return result

    def _lacking_targets(self, batch: Batch) -> dict[int, Exception]:
        """Places in the batch with classes that the model lacks, as far as that is known from a sample of its shape."""
        if self.proven is None or self.output_shape is None or _shapes(batch) != _shapes(self.proven):
            return {}
        name = self.attribution.MODEL_OUTPUT_NAME
        lacking: dict[int, Exception] = {}
        targets_of = [self.starts.targets(classes) for classes in batch.targets]
        for target in {target for targets in targets_of for target in targets if target >= 0}:
            try:
                check_targets([{name: [target]}], name, self.output_shape)
            except IndexError as error:
                lacking[target] = error
        return {
            place: lacking[target] for place, targets in enumerate(targets_of)
            for target in targets if target in lacking
        }

    def _at_fault(
        self, error: Exception, batch: Batch, places: np.ndarray, targets: np.ndarray, writer: ShardWriter
    ) -> dict[int, Exception]:
        """Places in the batch at which a pass fails, found one by one, and what is wrong there.

        Raises
        ------
        Exception
            The error itself, if no sample is at fault: each can be run alone, or none can any more.
        """
        found: dict[int, Exception] = {}
        for place, target in zip(places.tolist(), targets):
            if place not in found and (own := self._error_at(batch, place, target, writer)) is not None:
                found[place] = own
        if not found:
            if isinstance(error, FloatingPointError):
                raise FloatingPointError(
                    "relevance is not finite in a batch, although it is in each of its samples"
                ) from error
            raise error
        fails_everywhere = len(found) == len(set(places.tolist())) and not isinstance(error, FloatingPointError)
        if fails_everywhere and self.proven is not None:
            target = (self.starts.targets(self.proven.targets[0]) or [Start.NOTHING])[0]
            if self._error_at(self.proven, 0, target, writer) is not None:
                raise error
        return found

    def _error_at(self, batch: Batch, place: int, target: int, writer: ShardWriter) -> Exception | None:
        """What is wrong with one row, run alone."""
        try:
            self._attribute(
                map_tensors(lambda tensor: tensor[place:place + 1], batch.data), np.array([target]), writer
            )
        except Exception as error:  # whatever a model or a concept raises
            if _is_out_of_memory(error) or is_death_of_reader(error):
                raise
            return error
        return None

    def _without(
        self, broken: dict[int, Exception], batch: Batch, places: np.ndarray, targets: np.ndarray, done: int,
        writer: ShardWriter,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows without those of broken samples, which are on record as skipped, if they may be.

        A sample some of whose rows are done cannot be left out any more.
        """
        for place, error in broken.items():
            sample, error = batch.samples[place], self._of_another_shape(batch, place, error)
            if self.on_error == "raise" or place in places[:done]:
                raise SampleError(sample, error) from error
            writer.skipped[sample] = describe_error(error)
        kept = ~np.isin(places, list(broken))
        return places[kept], targets[kept]

    def _of_another_shape(self, batch: Batch, place: int, error: Exception) -> Exception:
        """The error of a sample, which also says so where the sample has another shape than one that the model took."""
        if self.proven is None or _shapes(batch) == _shapes(self.proven):
            return error
        sample = map_tensors(lambda tensor: tensor[place:place + 1], batch.data)
        difference = describe_difference(self.proven.samples[0], self.proven.data, batch.samples[place], sample)
        return ValueError(f"{difference} ({describe_error(error)})")

    def read(self, tensor: torch.Tensor, layer: str) -> tuple[torch.Tensor, ...]:
        """What the store keeps of an activation or relevance: value and total of each statistic, and the position.

        With rows of positions, values [B, positions, concepts] and totals [B, positions].
        """
        tensor = tensor if self.on_device is None else tensor.to(self.on_device)
        kept = []
        for statistic in stored_statistics(self.max_target):
            if self.of_positions:
                value = self.concepts[layer].at_positions(tensor, layer).movedim(1, 2).float()
            else:
                read, position = self._read(tensor, layer, statistic)
                value = read.float()
            total = value.abs().sum(-1)
            if self.dtype == "float16" and not bool(torch.isfinite(total).all()):  # values are kept as shares of it
                raise FloatingPointError(f"the sum over the concepts of {layer!r} is not finite in float32")
            if self.dtype == "float16":
                value = (value / total.clamp(min=torch.finfo(torch.float32).tiny)[..., None]).half()
            kept += [value, total]
        return tuple(kept) if self.of_positions else (*kept, position.to(torch.int32))

    def _read(self, tensor: torch.Tensor, layer: str, statistic: str) -> Reading:
        concept, axes = self.concepts[layer], self.axes.get(layer)
        if self._counts is None or axes is None:
            return concept.read(tensor, layer, statistic)
        return read_where_it_counts(concept, tensor, layer, statistic, self._counts, axes, self.among_counting)

    def write(
        self, batches: Iterable[Batch], layers: list[LayerEntry], writer: ShardWriter, report: Callable[[int], Any]
    ) -> None:
        """Write what batches give, each while the next one runs; ``report`` is told how many samples are done."""
        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(self._begin, layers, writer)
            for batch in batches:
                writer.skipped.update(batch.skipped)
                last = -1
                for places, targets, result in self.attribute(batch, writer):
                    written.result()
                    is_first = places != np.concatenate([[last], places[:-1]])
                    last = places[-1]
                    rows = self._rows(batch, places, targets, result.prediction)
                    has_relevance = targets != Start.NOTHING
                    shown = self._shown(result) if self.of_positions else None
                    written = thread.submit(
                        self._write_rows, layers, writer, rows, result, has_relevance, is_first, shown
                    )
                report(len(batch.samples) + len(batch.skipped))
            written.result()

    def _begin(self, layers: list[LayerEntry], writer: ShardWriter) -> None:
        """Write no rows, so that all arrays are there also where all samples are skipped."""
        for quantity in QUANTITIES:
            writer.append(f"{quantity}.rows", np.empty(0, ROW_DTYPE))
            for entry in layers:
                for name, (dtype, shape) in self._columns(entry).items():
                    writer.append(f"{entry.key}.{quantity}.{name}", np.empty((0, *shape), dtype))

    def _write_rows(
        self, layers: list[LayerEntry], writer: ShardWriter, rows: np.ndarray, result: AttributionResult,
        has_relevance: np.ndarray, is_first: np.ndarray, shown: np.ndarray | None,
    ) -> None:
        """Write relevance of the rows that have it, activation of the first of each sample.

        With ``shown`` [rows, positions], which positions count, each of these becomes a row.
        """
        for quantity, recorded, selected in (
            ("relevance", result.relevances, has_relevance), ("activation", result.activations, is_first)
        ):
            chosen = rows[selected]
            places: Any = (slice(None),)
            if shown is not None:
                places = np.nonzero(shown[selected])
                chosen = chosen[places[0]]
                number = shown[selected].cumsum(1) - 1
                chosen["position"] = number[places] if self.among_counting else places[1]
            if quantity == "activation":
                chosen["target"] = -1
            writer.append(f"{quantity}.rows", chosen)
            for entry in layers:
                arrays = (tensor.cpu().numpy()[selected][places] for tensor in recorded[entry.name])
                for name, array in zip(self._columns(entry), arrays):
                    writer.append(f"{entry.key}.{quantity}.{name}", array)

    def _shown(self, result: AttributionResult) -> np.ndarray:
        """[rows, positions], which positions count."""
        if self._counts is not None:
            return self._counts.cpu().numpy()
        totals = next(iter(result.activations.values()))[1]
        return np.ones(totals.shape, bool)

    def _rows(self, batch: Batch, places: np.ndarray, targets: np.ndarray, prediction: torch.Tensor) -> np.ndarray:
        rows = np.empty(len(places), ROW_DTYPE)
        rows["sample"] = np.array(batch.samples)[places]
        rows["target"] = self.starts.named(targets, prediction)
        rows["position"] = -1
        rows["prediction"] = predicted_classes(prediction)
        return rows

    def _columns(self, entry: LayerEntry) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return columns_of(entry, self.max_target, self.dtype)


def _shapes(batch: Batch) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in list_tensors(batch.data)]


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        "can't allocate memory" in said or "not enough memory" in said
    )


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
