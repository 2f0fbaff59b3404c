"""Pictures of reference samples, with heatmaps conditioned on what they are references of."""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zennit.core import Composite

from crp.attribution.conditional import CondAttribution
from crp.attribution.conservation import sum_over_features
from crp.concepts import ChannelConcept, Concept
from crp.concepts.channels import PositionError
from crp.model.inputs import Inputs, count_samples, list_tensors, map_tensors
from crp.model.positions import PositionMask
from crp.model.samples import join_samples, kind_of
from crp.model.successors import is_overridden
from crp.pictures.kinds import vis_inputs
from crp.store.folder import StoreError
from crp.store.references import References
from crp.visualization.reference_positions import CountingPositions


@dataclass(frozen=True)
class _Wanted:
    """A heatmap to compute: one concept on one reference sample."""

    key: Any
    slot: int
    condition: dict


class ReferencePictures:
    """Draws references of concepts of one layer.

    Parameters
    ----------
    attribution : CondAttribution
    get_data_sample : callable
        ``(index, preprocessing) -> (data, target)``
    layer : str
    concept : Concept
        Of the layer.
    start_layer, position_mask
        As for :class:`crp.visualization.FeatureVisualization`.
    among_counting : bool, default False
        Whether positions are numbered among those that count.
    """

    def __init__(
        self, attribution: CondAttribution, get_data_sample: Callable, layer: str, concept: Concept,
        start_layer: str | None = None, position_mask: PositionMask = None, among_counting: bool = False,
    ):
        self.attribution, self.get_data_sample, self.layer, self.concept = attribution, get_data_sample, layer, concept
        self.start_layer = start_layer
        self.positions = CountingPositions(attribution, layer, concept, position_mask, among_counting)
        self.attribute_reference: Callable | None = None
        if is_overridden(attribution, "__call__", CondAttribution):
            self.attribute_reference = self.heatmaps_of

    def draw(
        self, references: dict[Any, tuple[list[int], References]], composite: Composite | None, rf: bool,
        plot_fn: Callable | None, batch_size: int, targets: list[int] | None,
    ) -> dict[Any, Any]:
        """Draw references, ``{key: (concept ids, samples)}``; other arguments are those of ``get_max_reference``."""
        used = sorted({int(i) for _, found in references.values() for i in found.samples})
        input_of = {i: self.get_data_sample(i, preprocessing=False)[0] for i in used}
        if used and _has_one_axis(input_of[used[0]]):
            self.attribution = _keeping_features(self.attribution, self.get_data_sample(used[0])[0])
        inputs = {
            key: self._join_or_list([input_of[int(i)] for i in found.samples])
            for key, (_, found) in references.items()
        }
        if composite is None:
            show = _handed_out if plot_fn is None else vis_inputs
            return {key: show(data) for key, data in inputs.items()}
        if self.attribute_reference is None:
            heatmaps = self._heatmaps(references, composite, rf, batch_size, targets)
        else:
            heatmaps = self._heatmaps_one_by_one(references, composite, rf, batch_size, targets)
        if plot_fn is None:
            return {key: (_handed_out(inputs[key]), _handed_out(heatmaps[key])) for key in references}
        return {key: _drawn(plot_fn, inputs[key], heatmaps[key], rf) for key in references}

    def heatmaps_of(
        self, data: Inputs, concept_id: int, layer: str, composite: Composite, rf: bool, positions: Any, batch_size: int
    ) -> Any:
        """Heatmaps of one concept on samples, or of its neuron at a position in each."""
        count, found = count_samples(data), []
        for first in range(0, count, batch_size):
            rows = range(first, min(first + batch_size, count))
            conditions = [
                {layer: {concept_id: [int(positions[row])]} if rf else [concept_id]} for row in rows
            ]
            part = map_tensors(lambda tensor: tensor[rows.start:rows.stop], data)
            result = self.attribution(
                part, conditions, composite, mask_map=self._mask(rf, part, composite), start_layer=layer,
                exclude_parallel=False,
            )
            found += [map_tensors(lambda tensor: tensor[i:i + 1], result.heatmap) for i in range(len(rows))]
        return join_samples(found, list(range(count)))

    def _heatmaps_one_by_one(
        self, references: dict[Any, tuple[list[int], References]], composite: Composite, rf: bool, batch_size: int,
        targets: list[int] | None,
    ) -> dict[Any, Any]:
        """Conditional heatmaps by a method that was overridden."""
        if targets is not None or any(len(concepts) > 1 for concepts, _ in references.values()):
            raise TypeError("_attribution_on_reference or the attribution is overridden, so there are heatmaps of one "
                            "concept that start at its layer only: none of patterns, and none with targets=")
        assert self.attribute_reference is not None
        heatmaps = {}
        for key, (concepts, top) in references.items():
            numbers = top.samples.tolist()
            data = join_samples([self.get_data_sample(sample)[0] for sample in numbers], numbers)
            positions = [self._place(*stored, composite) for stored in zip(numbers, top.positions.tolist())]
            heatmaps[key] = self.attribute_reference(
                data, concepts[0], self.layer, composite, rf, positions, batch_size
            )
        return heatmaps

    def _place(self, sample: int, position: int, composite: Composite) -> int:
        if not self.positions.among_counting:
            return position
        return self.positions.place(position, self.get_data_sample(sample)[0], composite)

    def _mask(self, rf: bool, data: Inputs, composite: Composite) -> Callable:
        return self.positions.hidden(self.concept.mask_rf if rf else self.concept.mask, data, composite)

    @staticmethod
    def _join_or_list(samples: list[Inputs]) -> Any:
        """Samples in one tensor if they have one shape."""
        try:
            return join_samples(samples, list(range(len(samples))))
        except ValueError:
            return [map_tensors(lambda tensor: tensor[0].clone(), sample) for sample in samples]

    def _heatmaps(
        self, references: dict[Any, tuple[list[int], References]], composite: Composite, rf: bool, batch_size: int,
        targets: list[int] | None,
    ) -> dict[Any, Any]:
        """Conditional heatmaps on reference samples. A sample that serves several concepts is run forward once."""
        by_sample: dict[int, list[_Wanted]] = {}
        for key, (concepts, top) in references.items():
            for slot, (sample, stored) in enumerate(zip(top.samples.tolist(), top.positions.tolist())):
                position = self._place(sample, stored, composite) if rf else stored
                condition: dict[str, Any] = {self.layer: dict.fromkeys(concepts, position) if rf else concepts}
                if targets is not None:
                    condition[self.start_layer or self.attribution.MODEL_OUTPUT_NAME] = targets
                by_sample.setdefault(sample, []).append(_Wanted(key, slot, condition))
        # samples with equally many concepts go together, so that no row of a pass stands idle
        ordered = sorted(by_sample, key=lambda sample: (-len(by_sample[sample]), sample))
        found: dict[tuple[Any, int], Any] = {}
        for samples, data in self._batches(ordered, batch_size):
            rounds = [
                [by_sample[sample][turn] if turn < len(by_sample[sample]) else None for sample in samples]
                for turn in range(len(by_sample[samples[0]]))
            ]
            results = self.attribution.attribute_rounds(
                data, [[None if item is None else item.condition for item in row] for row in rounds], composite,
                mask_map={str(self.start_layer): ChannelConcept(), self.layer: self._mask(rf, data, composite)},
                start_layer=self.layer if targets is None else self.start_layer, exclude_parallel=False,
            )
            for row, result in self._positions_in_words(zip(rounds, results, strict=True), samples):
                for i, item in enumerate(item for item in row if item is not None):
                    found[item.key, item.slot] = map_tensors(lambda tensor: tensor[i:i + 1], result.heatmap)
        return {
            key: self._join_or_list([found[key, slot] for slot in range(len(top.samples))])
            for key, (_, top) in references.items()
        }

    def _batches(self, samples: list[int], batch_size: int) -> Iterator[tuple[list[int], Inputs]]:
        """Samples as the model takes them, in their order; those in a row that have one shape go together."""
        batch: dict[int, Inputs] = {}
        for sample in samples:
            data = self.get_data_sample(sample)[0]
            if batch and (len(batch) == batch_size or kind_of(data) != kind_of(next(iter(batch.values())))):
                yield list(batch), join_samples(list(batch.values()), list(batch))
                batch = {}
            batch[sample] = data
        if batch:
            yield list(batch), join_samples(list(batch.values()), list(batch))

    def _positions_in_words(self, items: Iterable, samples: list[int]) -> Iterator:
        """The items, with a StoreError if a position that was stored is none of its sample."""
        try:
            yield from items
        except PositionError as error:
            raise StoreError(f"references of layer {self.layer!r} say what cannot be of samples {samples}: {error}; "
                             "sweep again") from error


def _drawn(plot_fn: Callable, inputs: Any, heatmaps: Any, rf: bool) -> Any:
    """What a plot function gives; samples of several shapes are drawn one by one."""
    if not isinstance(inputs, list) and not isinstance(heatmaps, list):
        return plot_fn(inputs, heatmaps, rf)
    count = len(inputs) if isinstance(inputs, list) else len(heatmaps)
    drawn = [plot_fn(_one(inputs, i), _one(heatmaps, i), rf) for i in range(count)]
    if isinstance(drawn[0], tuple):
        return tuple([picture for part in parts for picture in part] for parts in zip(*drawn))
    return [picture for part in drawn for picture in part]


def _one(data: Any, i: int) -> Any:
    """Sample i, with a batch axis, of samples in a list or in one tensor."""
    if isinstance(data, list):
        return map_tensors(lambda tensor: tensor[None], data[i])
    return map_tensors(lambda tensor: tensor[i:i + 1], data)


def _handed_out(data: Any) -> Any:
    """Samples or heatmaps as users get them: detached, and on the CPU."""
    if isinstance(data, list):
        return [_handed_out(sample) for sample in data]
    return map_tensors(lambda tensor: tensor.detach().cpu(), data)


def _has_one_axis(sample: Inputs) -> bool:
    """Whether a sample [1, ...] has no more than one axis beside that of the batch."""
    return all(tensor.ndim <= 2 for tensor in list_tensors(sample))


def _keeping_features(attribution: CondAttribution, sample: Inputs) -> CondAttribution:
    """An attribution whose heatmaps of samples [F] have all features: a sum over them would be no picture."""
    if not _has_one_axis(sample) or not sum_over_features(attribution, sample):
        return attribution
    keeping = copy.copy(attribution)
    keeping.heatmap_axis = None
    return keeping
