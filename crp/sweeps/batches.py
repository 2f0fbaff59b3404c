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
from crp.concepts import Concept
from crp.model.inputs import map_tensors
from crp.model.layers import flatten_tensors
from crp.model.samples import SampleError, describe_error
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
    """

    def __init__(
        self, attribution: CondAttribution, concepts: dict[str, Concept], composite: Composite, batch_size: int,
        max_target: str, on_device: str | torch.device | None, dtype: str, on_error: str,
    ):
        self.attribution, self.concepts, self.composite = attribution, concepts, composite
        self.batch_size, self.max_target, self.on_device, self.dtype = batch_size, max_target, on_device, dtype
        self.on_error = on_error

    def attribute(
        self, batch: Batch, writer: ShardWriter | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, AttributionResult]]:
        """Run a batch: one row per (place in the batch, target); a sample without targets has one row with -1.

        For a writer the results hold what the store keeps, otherwise whole tensors. Samples whose relevance is not
        finite are left out, where samples may be.

        Raises
        ------
        SampleError
            For such a sample, otherwise.
        """
        places = np.repeat(np.arange(len(batch.samples)), [max(len(targets), 1) for targets in batch.targets])
        targets = np.array([target for targets in batch.targets for target in targets or [-1]])
        name = self.attribution.MODEL_OUTPUT_NAME
        first = 0
        while first < len(places):
            rows = self.batch_size if writer is None else writer.rows_at_once
            part = slice(first, first + rows)
            is_whole = places.tolist() == list(range(len(batch.samples))) and len(places) <= rows
            data = batch.data if is_whole else map_tensors(lambda tensor: tensor[places[part]], batch.data)
            conditions = [{name: [] if target < 0 else [target]} for target in targets[part].tolist()]
            try:
                result = self._attribute(data, conditions, writer)
            except FloatingPointError:
                if writer is None:
                    raise
                broken = self._not_finite(batch, places, targets, part)
                self._leave_out({batch.samples[place]: error for place, error in broken.items()}, writer)
                kept = ~np.isin(places, list(broken)) | (np.arange(len(places)) < first)
                places, targets = places[kept], targets[kept]
                continue
            except (RuntimeError, MemoryError) as error:
                if writer is None or len(conditions) == 1 or not _is_out_of_memory(error):
                    raise
                result = None
            if result is not None:
                yield places[part], targets[part], result
                first += rows
            elif writer is not None:  # here nothing of the failed pass is alive
                writer.halve_rows(len(conditions), batch.samples[places[first]])
                _release_memory()

    def _attribute(self, data: Any, conditions: list[dict], writer: ShardWriter | None) -> AttributionResult:
        result = self.attribution(
            data, conditions, self.composite, record_layer=list(self.concepts), mask_map=self.concepts,
            exclude_parallel=False, heatmap=False, record_fn=None if writer is None else self.read,
        )
        for layer, recorded in result.activations.items():
            if any(bool(tensor.isnan().any()) for tensor in flatten_tensors(recorded)):
                raise FloatingPointError(f"activations of {layer!r} are NaN")
        return result

    def _not_finite(
        self, batch: Batch, places: np.ndarray, targets: np.ndarray, part: slice
    ) -> dict[int, FloatingPointError]:
        """Places in the batch whose relevance is not finite, found one by one, and what is wrong there."""
        found: dict[int, FloatingPointError] = {}
        for place, target in zip(places[part].tolist(), targets[part].tolist()):
            data = map_tensors(lambda tensor: tensor[place:place + 1], batch.data)
            try:
                self._attribute(data, [{self.attribution.MODEL_OUTPUT_NAME: [] if target < 0 else [target]}], None)
            except FloatingPointError as error:
                found[place] = error
        return found

    def _leave_out(self, broken: dict[int, FloatingPointError], writer: ShardWriter) -> None:
        """Have samples on record as skipped, if they may be."""
        if not broken:
            raise FloatingPointError("relevance is not finite in a batch, although it is in each of its samples")
        for sample, error in broken.items():
            if self.on_error == "raise":
                raise SampleError(sample, error) from error
            writer.skipped[sample] = describe_error(error)

    def read(self, tensor: torch.Tensor, layer: str) -> tuple[torch.Tensor, ...]:
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
