"""Samples on which a layer is checked: their relevance, and what the model answers."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.attribution.conditions import value_of_target
from crp.concepts import Concept
from crp.concepts.padding import axes_of_positions, read_where_it_counts
from crp.model.inputs import call_model, copied_inputs, list_tensors, map_tensors
from crp.model.layers import select_output
from crp.model.numbers import spread_evenly
from crp.model.positions import counting_positions
from crp.model.samples import as_sequence, join_samples
from crp.model.targets import Start
from crp.neurons.interventions import activations_at
from crp.sweeps.starts import Starts
from crp.visualization.swept_dataset import SweptDataset


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows that go through the model together: a sample and a target each.

    Attributes
    ----------
    inputs : torch.Tensor, tuple or dict
        [B, ...]
    targets : numpy.ndarray
        [B], as sweeps have them.
    outputs : list
        What stands under "y" for each: where relevance starts.
    relevance, activation : numpy.ndarray
        [B, concepts] of the layer.
    started : numpy.ndarray
        [B], the answer that relevance starts with.
    """

    inputs: Any
    targets: np.ndarray
    outputs: list[Any]
    relevance: np.ndarray
    activation: np.ndarray
    started: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: Iterable[int]) -> RowBatch:
        """Some of the rows, perhaps several times."""
        chosen = list(rows)
        return RowBatch(
            map_tensors(lambda tensor: tensor[chosen], self.inputs), self.targets[chosen],
            [self.outputs[row] for row in chosen], self.relevance[chosen], self.activation[chosen],
            self.started[chosen],
        )


class SampledRows:
    """Rows of some samples of a dataset, as one layer sees them.

    Parameters
    ----------
    swept : SweptDataset
    layer : str
    composite : zennit.core.Composite
    held_out : sequence, optional
        Items as those of the dataset, to take instead.
    samples : int
        How many, evenly from the first to the last.
    batch_size : int

    Attributes
    ----------
    batches : list of RowBatch
        Rows of one batch have inputs of one shape.
    """

    def __init__(
        self, swept: SweptDataset, layer: str, composite: Composite, held_out: Any, samples: int, batch_size: int
    ):
        self.attribution, self.layer, self.composite = swept.attribution, layer, composite
        self.concept: Concept = swept.layer_map[layer]
        self.starts = Starts(self.attribution.MODEL_OUTPUT_NAME, swept.start_layer, swept.y)
        source = copy.copy(swept)
        source.dataset = swept.dataset if held_out is None else as_sequence(held_out)
        length = len(source.dataset)
        numbers = spread_evenly(length, samples).tolist()
        rows = [
            (data, target) for data, classes in map(_read(source), numbers)
            for target in self.starts.targets(classes) if target != Start.NOTHING
        ]
        if length == 0:
            raise ValueError("held_out is empty: give samples that the model has not seen")
        if len(rows) < 2:
            raise ValueError(f"{len(rows)} of the samples have a target, but two at least are needed")
        self._shapes(rows[0][0])  # refuses a layer that runs several times
        self.position_mask = swept.position_mask
        self._axes = axes_of_positions(self.position_mask, rows[0][0], self._shapes).get(layer)
        self.batches = [self._batch(part) for part in _of_one_kind(rows, batch_size)]

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def _shapes(self, data: Any) -> dict[str, torch.Size]:
        found = activations_at(self.attribution.model, data, [self.layer])
        return {layer: tensor.shape for layer, tensor in found.items()}

    @property
    def relevance(self) -> np.ndarray:
        """[rows, concepts]"""
        return np.concatenate([batch.relevance for batch in self.batches])

    @property
    def activation(self) -> np.ndarray:
        """[rows, concepts]"""
        return np.concatenate([batch.activation for batch in self.batches])

    @property
    def started(self) -> np.ndarray:
        """[rows]"""
        return np.concatenate([batch.started for batch in self.batches])

    def relevance_with(
        self, attribution: CondAttribution, change: Callable[[Any], Any] | None = None
    ) -> np.ndarray:
        """[rows, concepts], the relevance by another attribution, or of changed inputs, from the same outputs."""
        found = []
        for batch in self.batches:
            inputs = batch.inputs if change is None else change(batch.inputs)
            result = self._attribute(attribution, inputs, batch.targets)
            found.append(self._values(result.relevances[self.layer], inputs))
        return np.concatenate(found)

    def answers(self, batch: RowBatch, run: Callable[[], Any] | None = None) -> np.ndarray:
        """[B], what the model answers where relevance starts, with the edits that stand on it."""
        def plain() -> Any:
            return call_model(self.attribution.model, copied_inputs(batch.inputs, self.attribution.device))

        run = plain if run is None else run
        with torch.no_grad():
            if self.starts.start_layer is None:
                found = select_output(run(), self.attribution.output, self.attribution.MODEL_OUTPUT_NAME)
            else:
                layer = self.starts.start_layer
                found = activations_at(self.attribution.model, None, [layer], run)[layer]
        return _chosen(found, batch.outputs)

    def _batch(self, rows: list[tuple[Any, int]]) -> RowBatch:
        inputs = join_samples([data for data, _ in rows], list(range(len(rows))))
        targets = np.array([target for _, target in rows])
        result = self._attribute(self.attribution, inputs, targets)
        outputs = [self._output_of(target, row) for target, row in zip(targets.tolist(), result.prediction)]
        return RowBatch(
            inputs, targets, outputs, self._values(result.relevances[self.layer], inputs),
            self._values(result.activations[self.layer], inputs), _chosen(result.prediction, outputs),
        )

    def _attribute(self, attribution: CondAttribution, inputs: Any, targets: np.ndarray) -> Any:
        return attribution(
            inputs, composite=self.composite, record_layer=[self.layer], exclude_parallel=False, heatmap=False,
            **self.starts.arguments(targets, {self.layer: self.concept}),
        )

    def _values(self, tensor: Tensor, inputs: Any) -> np.ndarray:
        """[B, concepts], of the positions that count."""
        counts = counting_positions(self.position_mask, inputs)
        if counts is None or self._axes is None:
            read = self.concept.read(tensor, self.layer)
        else:
            read = read_where_it_counts(self.concept, tensor, self.layer, "sum", counts, self._axes)
        return read.value.double().cpu().numpy()

    def _output_of(self, target: int, output: Tensor) -> Any:
        if target == Start.PREDICTION:
            return [tuple(int(i) for i in np.unravel_index(int(output.argmax()), output.shape))]
        condition = self.starts.condition(target)
        return next(iter(condition.values()), slice(None))


def _read(source: SweptDataset) -> Callable[[int], tuple[Any, list[int]]]:
    def read(number: int) -> tuple[Any, list[int]]:
        data, target = source.get_data_sample(number)
        return data, source.multitarget_to_single(target)

    return read


def _of_one_kind(rows: list[tuple[Any, int]], batch_size: int) -> list[list[tuple[Any, int]]]:
    """Rows in batches: those of one shape together, and those that start at the prediction."""
    of_kind: dict[Any, list[tuple[Any, int]]] = {}
    for data, target in rows:
        shapes = tuple(tensor.shape[1:] for tensor in list_tensors(data))
        of_kind.setdefault((target == Start.PREDICTION, shapes), []).append((data, target))
    return [found[first:first + batch_size] for found in of_kind.values()
            for first in range(0, len(found), batch_size)]


def _chosen(output: Tensor, outputs: list[Any]) -> np.ndarray:
    return torch.stack([value_of_target(row, chosen) for row, chosen in zip(output, outputs)]).double().cpu().numpy()
