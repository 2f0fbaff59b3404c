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
from crp.concepts import Concept
from crp.model.inputs import list_tensors, map_tensors
from crp.model.layers import flatten_tensors
from crp.model.samples import SampleError, describe_error, is_death_of_reader
from crp.store.files import QUANTITIES, ROW_DTYPE, stored_statistics
from crp.store.layout import columns_of
from crp.store.schema import LayerEntry
from crp.store.shards import ShardWriter


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
    max_target, on_device, dtype, on_error
        As for :class:`crp.sweeps.Sweep`.

    Attributes
    ----------
    proven : Batch or None
        One sample that the model could be run on before, which tells faults of samples from others.
    output_shape : torch.Size or None
        What the model gave for it.
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, batch_size: int,
        max_target: str, on_device: str | torch.device | None, dtype: str, on_error: str,
    ):
        self.attribution, self.concepts, self.composite = attribution, concepts, composite
        self.batch_size, self.max_target, self.on_device, self.dtype = batch_size, max_target, on_device, dtype
        self.on_error = on_error
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
        places = np.repeat(np.arange(len(batch.samples)), [max(len(targets), 1) for targets in batch.targets])
        targets = np.array([target for targets in batch.targets for target in targets or [-1]])
        first = 0
        if writer is not None:
            places, targets = self._without(self._lacking_targets(batch), batch, places, targets, 0, writer)
        while first < len(places):
            rows = self.batch_size if writer is None else writer.rows_at_once
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

    def _attribute(self, data: Any, targets: Iterable[int], writer: ShardWriter | None) -> AttributionResult:
        name = self.attribution.MODEL_OUTPUT_NAME
        result = self.attribution(
            data, [{name: [] if target < 0 else [int(target)]} for target in targets], self.composite,
            record_layer=list(self.concepts), mask_map=self.concepts, exclude_parallel=False, heatmap=False,
            record_fn=None if writer is None else self.read,
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
        for target in {target for targets in batch.targets for target in targets}:
            try:
                check_targets([{name: [target]}], name, self.output_shape)
            except IndexError as error:
                lacking[target] = error
        return {
            place: lacking[target] for place, targets in enumerate(batch.targets)
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
            target = self.proven.targets[0][0] if self.proven.targets[0] else -1
            if self._error_at(self.proven, 0, target, writer) is not None:
                raise error
        return found

    def _error_at(self, batch: Batch, place: int, target: int, writer: ShardWriter) -> Exception | None:
        """What is wrong with one row, run alone."""
        try:
            self._attribute(map_tensors(lambda tensor: tensor[place:place + 1], batch.data), [target], writer)
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
            sample = batch.samples[place]
            if self.on_error == "raise" or place in places[:done]:
                raise SampleError(sample, error) from error
            writer.skipped[sample] = describe_error(error)
        kept = ~np.isin(places, list(broken))
        return places[kept], targets[kept]

    def read(self, tensor: torch.Tensor, layer: str) -> tuple[torch.Tensor, ...]:
        """What the store keeps of an activation or relevance: value and total of each statistic, and the position."""
        tensor = tensor if self.on_device is None else tensor.to(self.on_device)
        kept = []
        for statistic in stored_statistics(self.max_target):
            value, position = self.concepts[layer].read(tensor, layer, statistic)
            value = value.float()
            total = value.abs().sum(1)
            if self.dtype == "float16" and not bool(torch.isfinite(total).all()):  # values are kept as shares of it
                raise FloatingPointError(f"the sum over the concepts of {layer!r} is not finite in float32")
            if self.dtype == "float16":
                value = (value / total.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).half()
            kept += [value, total]
        return *kept, position.to(torch.int32)

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
                    rows = _rows(batch, places, targets, result.prediction)
                    written = thread.submit(self._write_rows, layers, writer, rows, result, is_first)
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
        is_first: np.ndarray,
    ) -> None:
        """Write relevance of the rows with a target, activation of the first of each sample."""
        for quantity, recorded, selected in (
            ("relevance", result.relevances, rows["target"] >= 0), ("activation", result.activations, is_first)
        ):
            chosen = rows[selected]
            if quantity == "activation":
                chosen["target"] = -1
            writer.append(f"{quantity}.rows", chosen)
            for entry in layers:
                arrays = (tensor.cpu().numpy()[selected] for tensor in recorded[entry.name])
                for name, array in zip(self._columns(entry), arrays):
                    writer.append(f"{entry.key}.{quantity}.{name}", array)

    def _columns(self, entry: LayerEntry) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return columns_of(entry, self.max_target, self.dtype)


def _shapes(batch: Batch) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in list_tensors(batch.data)]


def _rows(batch: Batch, places: np.ndarray, targets: np.ndarray, prediction: torch.Tensor) -> np.ndarray:
    rows = np.empty(len(places), ROW_DTYPE)
    rows["sample"] = np.array(batch.samples)[places]
    rows["target"] = targets
    rows["position"] = -1
    rows["prediction"] = prediction.argmax(1).cpu() if prediction.ndim == 2 else -1
    return rows


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        "can't allocate memory" in said or "not enough memory" in said
    )


def _release_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
