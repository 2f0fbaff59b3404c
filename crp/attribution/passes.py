"""A pass of relevance: forward with rules and taps attached to the model, and back through what autograd recorded."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from zennit.core import Composite

from crp.attribution.conditions import (
    MaskMap,
    check_targets,
    codings_of,
    concepts_of,
    counted_from_the_front,
    layers_of,
    make_mask,
    output_indices,
    select_rows,
)
from crp.attribution.contrast import Contrast
from crp.attribution.leaves import InputLeaves, LookupMode
from crp.attribution.sample_finder import SampleFinder
from crp.attribution.steps import InitialRelevance, Steps
from crp.attribution.taps import ForwardStopped, LayerTaps, RecordFunction
from crp.model.edits import edits_of, without_edits
from crp.model.inputs import Inputs, call_model, count_samples, gradient_mode, list_tensors, map_tensors
from crp.model.layers import flatten_tensors, select_output
from crp.model.rows import is_shared, share_rows
from crp.rules.control_flow import step_by_step
from crp.rules.model_rules import ModelRules
from crp.rules.operations.mode import OperationMode
from crp.rules.restoring import run_undone


class AttributionResult(NamedTuple):
    """What an attribution gives back, row by row in the order of the conditions.

    Attributes
    ----------
    heatmap : torch.Tensor, tuple or dict
        Relevance of the input, summed over ``heatmap_axis``; the structure of the data, None for integers that no
        embedding looks up, and where no heatmap was asked for.
    activations : dict
        Layer that is recorded, in a condition or the start -> its activation [B, ...], or what ``record_fn`` made of
        it.
    relevances : dict
        The same layers -> their relevance [B, ...] before masking, or what ``record_fn`` made of it.
    prediction : torch.Tensor
        The model's output [B, ...], or the start layer's activation when one is given.
    """

    heatmap: Any
    activations: dict[str, torch.Tensor]
    relevances: dict[str, torch.Tensor]
    prediction: torch.Tensor

    def is_finite(self) -> bool:
        """Whether heatmaps and relevances hold no NaN and nothing infinite."""
        leaves = flatten_tensors((self.heatmap, self.relevances))
        # a sum is quicker to check, and finite unless it overflows
        return all(
            bool(torch.isfinite(leaf.sum()) or torch.isfinite(leaf).all())
            for leaf in leaves if isinstance(leaf, torch.Tensor)
        )


@dataclass
class Flow:
    """How relevance shall flow: the arguments that all conditions of a call share."""

    composite: Composite | None
    record_layer: list[str]
    mask_map: MaskMap | None
    start_layer: str | None
    init_rel: InitialRelevance
    on_device: str | torch.device | None
    exclude_parallel: bool
    heatmap: bool
    record_fn: RecordFunction | None
    accelerate: bool
    functional: bool | str
    freeze: bool
    finder: SampleFinder
    measures_start: bool = False
    """Whether "y" names outputs of the start layer, instead of being ignored, and relevance passes that layer too."""

    def recording_conditions(self, conditions: Iterable[Mapping], output_name: str) -> Flow:
        """The same flow with the layers of conditions and the start layer recorded too, where whole tensors are."""
        if self.record_fn is not None:
            return self
        named = [layer for condition in conditions for layer in layers_of(condition, output_name)]
        named += [] if self.start_layer is None else [self.start_layer]
        return replace(self, record_layer=list(dict.fromkeys([*self.record_layer, *named])))

    def chain(self, condition: Mapping, output_name: str, outputs: Mapping[str, torch.Tensor]) -> list[str]:
        """The layers of a condition to go through, from last to first.

        Raises
        ------
        ValueError
            If relevance shall not flow around the layers and their order is not that of ``outputs``, reversed.
        """
        layers = [layer for layer in layers_of(condition, output_name) if layer != self.start_layer]
        if not self.exclude_parallel:
            return layers
        executed = list(outputs)
        expected = sorted(layers, key=executed.index, reverse=True)
        if layers != expected:
            raise ValueError(f"the layers of a condition go from last to first: {expected}, not {layers}")
        if self.start_layer is not None and layers and executed.index(layers[0]) > executed.index(self.start_layer):
            raise ValueError(f"layer {layers[0]!r} comes after the start layer {self.start_layer!r}")
        return layers


class MakesIntegers(BaseException):
    """Ends a forward pass in which the origin of integers has to be followed. No error, as :class:`ForwardStopped`."""


@contextmanager
def forward_pass(
    steps: Steps, rules: ModelRules, data: Inputs, conditions: list[dict], flow: Flow,
    repeated: bool = False, mode_type: type[OperationMode] = OperationMode,
) -> Iterator[ForwardPass]:
    """Run the model, within a context, with rules and taps attached; detach them on leaving.

    Parameters
    ----------
    steps : Steps
    rules : ModelRules
    data : torch.Tensor, tuple or dict
        Inputs, prepared.
    conditions : list of dict
        All conditions for which there will be a backward pass.
    flow : Flow
    repeated : bool, default False
        Whether there will be several backward passes.
    mode_type : type, default OperationMode
        What looks at the operations of the model.
    """
    arguments = steps, rules, data, conditions, flow, repeated, mode_type
    with ExitStack() as stack:
        forward = None
        try:
            forward = stack.enter_context(_forward_pass(*arguments))
        except MakesIntegers:
            rules.makes_integers = True
        yield forward or stack.enter_context(_forward_pass(*arguments))


@contextmanager
def _forward_pass(
    steps: Steps, rules: ModelRules, data: Inputs, conditions: list[dict], flow: Flow, repeated: bool,
    mode_type: type[OperationMode],
) -> Iterator[ForwardPass]:
    model, output_name = steps.model, steps.MODEL_OUTPUT_NAME
    held = [layer for condition in conditions for layer in layers_of(condition, output_name)]
    held += [] if flow.start_layer is None else [flow.start_layer]
    layers = held + flow.record_layer
    end = frozenset(layers), tuple(tensor.shape[1:] for tensor in list_tensors(data))
    edits = edits_of(model)
    with ExitStack() as stack:
        stack.enter_context(without_edits())  # but for those that the taps make
        concepts = concepts_of(flow.mask_map, layers)
        with rules.naming(flow.composite, layers):
            rows = flow.finder.find(layers, data, counted_from_the_front(concepts))
        operation_rules = stack.enter_context(rules.attached(
            flow.composite, data, accelerated=flow.accelerate, functional=flow.functional,
            freeze=flow.freeze, repeated=repeated,
        ))
        mode = mode_type(model, operation_rules)
        stack.callback(mode.temporary.remove)
        is_seen = operation_rules is not None or mode_type is not OperationMode
        stop = flow.start_layer is not None and end in rules.read_once and not flow.measures_start
        taps = stack.enter_context(LayerTaps(
            model, layers if flow.record_fn is None else held, () if flow.record_fn is None else flow.record_layer,
            flow.record_fn, from_layers=not flow.heatmap, stop=stop, codings=codings_of(concepts), rows=rows,
            edits=edits, sends_relevance=operation_rules is not None,
        ))
        with gradient_mode():
            leaves = InputLeaves(data, reach=flow.heatmap)
            follows = flow.heatmap and (leaves.hold_integers or rules.makes_integers)  # which takes time
            if flow.heatmap and not follows:
                mode.on_integers = _stop_for_integers
            try:
                seen, followed = mode if is_seen else nullcontext(), LookupMode(leaves) if follows else nullcontext()
                with step_by_step(), seen, followed:
                    output = run_undone(lambda: call_model(model, leaves.data))
                mode.see(output)
                start = select_output(output, steps.output, output_name)
            except ForwardStopped:
                pass  # the start layer takes the place of the output
        samples = count_samples(data)
        if flow.start_layer is None and start.shape[:1] != (samples,):
            raise ValueError(
                f"the output has the shape {tuple(start.shape)}, but there are {samples} samples: the first axis of "
                "data and of the output holds them. One sample without batch axis is data[None]"
            )
        if flow.start_layer is None and start.is_complex():
            raise ValueError("the output is complex: CondAttribution(model, output=torch.real), or another function of "
                             "it, gives the numbers that relevance starts from")
        for layer in layers:
            if layer not in taps.outputs:
                raise ValueError(f"layer {layer!r} is not used in the forward pass of the model")
        if flow.start_layer is not None and all(calls == 1 for calls in taps.calls.values()):
            rules.read_once.add(end)
        if flow.heatmap and not leaves.tensors:
            raise ValueError(
                "relevance reaches none of the data: they are integers, and either look nothing up (in an "
                "nn.Embedding, weight[ids] or one_hot(ids) @ weight), or by others that are computed from several of "
                "them; numbers that the model computes with are given as real numbers"
            )
        if flow.start_layer is not None:
            start = (taps.handed_on if flow.measures_start else taps.outputs)[flow.start_layer]
        if flow.start_layer is None or flow.measures_start:
            check_targets(conditions, output_name, start.shape)
        if flow.heatmap and not start.requires_grad:
            raise ValueError(f"the {'start layer' if flow.start_layer else 'output'} does not depend on the data")
        for condition in conditions:
            flow.chain(condition, output_name, taps.outputs)
            _check_masks(condition, output_name, flow, taps)
        yield ForwardPass(steps, leaves, taps, start, mode)


@dataclass
class ForwardPass:
    """A forward pass whose graph waits for backward passes.

    Attributes
    ----------
    steps : Steps
    leaves : InputLeaves
        What the model was called with, and where relevance ends.
    taps : LayerTaps
    start : torch.Tensor
        Where relevance starts.
    mode : OperationMode
    """

    steps: Steps
    leaves: InputLeaves
    taps: LayerTaps
    start: torch.Tensor
    mode: OperationMode

    def backward(
        self, conditions: Sequence[Mapping | None], rows: list[int], flow: Flow, retain_graph: bool = False
    ) -> AttributionResult:
        """Send relevance back in some rows of the forward pass; in the others none flows."""
        taps, output_name = self.taps, self.steps.MODEL_OUTPUT_NAME
        taps.relevances.clear()
        taps.masks.clear()
        taps.masked_rows.clear()
        self.leaves.clear()
        chosen = {row: condition for row in rows if (condition := conditions[row]) is not None}
        for row, condition in chosen.items():
            for layer in layers_of(condition, output_name):
                taps.masks.setdefault(layer, []).append(make_mask(flow.mask_map, layer, row, condition[layer]))
                taps.masked_rows.setdefault(layer, []).append(row)

        relevance = self._initial_relevance(chosen, len(conditions), flow)
        if flow.start_layer is not None:
            relevance = taps.receive(flow.start_layer, relevance)
        chain = flow.chain(chosen[rows[0]], output_name, taps.outputs)
        if self.start.requires_grad:  # else no recorded layer comes before
            with gradient_mode():
                self.steps.backward(
                    self.start, relevance, flow.exclude_parallel, chain, taps.outputs, retain_graph
                )

        def finish(result: Any) -> Any:
            is_whole = len(rows) == count_samples(self.leaves.data)
            return _finished(result, slice(None) if is_whole else rows, flow.on_device)

        modify = partial(self.steps.heatmap_modifier, on_device=flow.on_device)
        heatmaps = iter([heatmap if heatmap is None else finish(heatmap) for heatmap in self.leaves.heatmaps(modify)])
        for layer in set(flow.record_layer) - taps.relevances.keys():
            nothing = torch.zeros_like(taps.outputs[layer], device=self.start.device)
            taps.relevances[layer] = taps.record(layer, nothing)
        return AttributionResult(
            map_tensors(lambda _: next(heatmaps), self.leaves.data),
            {layer: finish(taps.activations[layer]) for layer in flow.record_layer},
            {layer: finish(taps.relevances[layer]) for layer in flow.record_layer},
            finish(self.start),
        )

    def _initial_relevance(self, chosen: Mapping[int, Mapping], count: int, flow: Flow) -> torch.Tensor:
        """Relevance to start with: of all rows of the forward pass, zero in those that do not take part."""
        prediction, relevance_init, rows = self.start.detach(), self.steps.relevance_init, list(chosen)
        is_whole = len(rows) == count_samples(self.leaves.data)
        active = prediction if is_whole else prediction[rows]
        targets = None
        if flow.start_layer is None or flow.measures_start:
            targets = [condition.get(self.steps.MODEL_OUTPUT_NAME) for condition in chosen.values()]
            targets = [] if all(target is None for target in targets) else targets
        init_rel = select_rows(flow.init_rel, rows, count)
        if is_shared(active) and not isinstance(init_rel, torch.Tensor) and _is_same_target(targets, active.shape):
            return share_rows(relevance_init(active[:1].clone(), targets and targets[:1], init_rel), len(active))
        relevance = relevance_init(active.clone(), targets, init_rel)
        if is_whole:
            return relevance
        return torch.zeros_like(prediction).index_copy_(0, torch.as_tensor(rows, device=prediction.device), relevance)


def _stop_for_integers(kind: torch.dtype) -> None:
    raise MakesIntegers


def _check_masks(condition: Mapping, output_name: str, flow: Flow, taps: LayerTaps) -> None:
    """Let masks that can check themselves do so before relevance flows."""
    for layer in layers_of(condition, output_name):
        mask = make_mask(flow.mask_map, layer, 0, condition[layer])
        if hasattr(mask, "check"):
            mask.check(taps.outputs[layer].shape)


def _is_same_target(targets: list | None, shape: torch.Size) -> bool:
    def indices(target: Any) -> list[list[tuple[int, ...]] | None]:
        sides = (target.outputs, target.against) if isinstance(target, Contrast) else (target,)
        return [side if side is None else output_indices(side, shape) for side in sides]

    first, *others = map(indices, targets or [None])
    return all(other == first for other in others)


def _finished(result: Any, rows: list[int] | slice, on_device: str | torch.device | None) -> Any:
    """Rows of a tensor, or of the tensors in a tuple, as they are given to the caller."""
    if isinstance(result, tuple):
        return tuple(_finished(item, rows, on_device) for item in result)
    tensor = result.detach()[rows]
    tensor = tensor.contiguous() if is_shared(tensor) else tensor
    return tensor if on_device is None else tensor.to(on_device)
