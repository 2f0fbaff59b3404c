"""Conditional attribution: relevance from a model's output to its input, through chosen concepts only."""
from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from zennit.core import Composite

from crp.attribution.attribution_graph import AttributionGraph
from crp.attribution.audit import Audit
from crp.attribution.conditions import (
    MaskMap,
    check_conditions,
    layers_of,
    one_at_the_largest,
    select_rows,
)
from crp.attribution.conservation import (
    explanation,
    first_token_takes_most,
    seems_right,
    sum_over_features,
)
from crp.attribution.contrast import Contrast
from crp.attribution.passes import AttributionResult, Flow
from crp.attribution.running import Runner
from crp.attribution.sample_finder import SampleFinder
from crp.attribution.sample_rows import SampleRows
from crp.attribution.steps import InitialRelevance, Steps
from crp.attribution.taps import RecordFunction
from crp.concepts import ChannelConcept
from crp.model.inputs import (
    Inputs,
    count_samples,
    device_of,
    leave_gradients,
    map_tensors,
    prepare_inputs,
)
from crp.model.layers import OutputChoice, as_layer_list, module_order
from crp.model.rows import share_rows
from crp.model.successors import Successor
from crp.model.training import modules_in_training
from crp.rules.attach import check_not_in_use, check_supported, is_in_use
from crp.rules.model_rules import ModelRules
from crp.rules.operations.choice import ATTENTION
from crp.rules.restoring import HookState, in_gradient_mode, run_undone, undoing

__all__ = ["AttributionGraph", "AttributionResult", "CondAttribution"]


class CondAttribution(Steps, Successor):
    """Concept-conditional attribution of a model: concept relevance propagation, CRP (Achtibat et al., 2023).

    Relevance starts at the model's output (or at a layer), flows backwards by the rules of a zennit composite, and is
    masked at layers to the concepts that a condition names. A module that is called several times is masked at each
    call and read at the last. One model serves one attribution at a time; threads need a copy of it each.

    Parameters
    ----------
    model : torch.nn.Module
    device : str or torch.device, optional
        Where the model lies; data are moved there. By default the device of its first parameter.
    overwrite_data_grad : bool, default True
        Data that require gradients get the relevance as ``.grad``: replaced if True, accumulated if False.
    no_param_grad : bool, default True
        Freeze the parameters during a call; their ``requires_grad`` is restored after it.
    output : str, int or callable, optional
        Which tensor is "y" when the model returns a dict or tuple: a key, a position, or a function of the output.
        Not needed if the output holds only one tensor.
    heatmap_axis : int, tuple of int or None, default 1
        The axes of the input over which a heatmap sums, such as the colours of [B, C, H, W]; ``None`` keeps all. Where
        integers are looked up in an embedding, the heatmap sums the embedding's features (the last axis) instead.
    accelerate : bool, default True
        Replace zennit's rules by equal, faster ones (see :func:`crp.rules.accelerate`), unless ``no_param_grad`` is
        False.
    functional : bool or {"attnlrp", "cp-lrp", "cp-lrp-gates"}, default True
        Beside a composite of LRP, give rules to functional operations too (see ``crp.rules.operations``): additions,
        products, attention, normalisation and so on; and merge batch norms into the layers that feed them. "attnlrp",
        which True stands for, lets relevance pass the softmax of attention; with "cp-lrp" it all goes to the values.
        With "cp-lrp-gates" what an activation function gives is a constant factor too, where both factors of a product
        share its relevance otherwise: gated MLPs send all of it to the values that the gate lets through, as in LXT's
        ``cp_LRP``.
        With False their gradients flow, as with zennit alone; so they do with ``no_param_grad=False``.
    samples : dict, optional
        Layer -> the axis of its tensor that holds the samples, such as 1 for [T, B, C], or
        :class:`crp.attribution.SampleRows` where each sample has several rows. For other layers this is found out by
        running the model on one sample and on two.

    Examples
    --------
    >>> import torch
    >>> from zennit.composites import EpsilonPlusFlat
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    >>> attribution = CondAttribution(model.eval())
    >>> attr = attribution(torch.rand(2, 1, 8, 8), [{"0": [3], "y": [1]}], EpsilonPlusFlat(), record_layer=["0"])
    >>> attr.heatmap.shape, attr.relevances["0"].shape
    (torch.Size([2, 8, 8]), torch.Size([2, 4, 6, 6]))

    References
    ----------
    R. Achtibat et al. (2023). From attribution maps to human-understandable explanations through Concept Relevance
    Propagation. Nature Machine Intelligence 5, 1006-1019.
    """

    replaced = {
        "_register_mask_fn": "give a mask_map, or override mask of a crp.concepts.Concept",
        "_collect_hook_activation_relevance": "give a record_fn",
        "_append_recording_layer_hooks": "give record_layer, and a record_fn",
        "_generate_hook": "give record_layer, and a record_fn",
        "_attribute": "override __call__", "_conditions_wrapper": "override __call__",
        "_separate_conditions": "override __call__", "_check_arguments": "override broadcast or __call__",
        "_reset_gradients": "gradients are left on no data but what requires them",
    }

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device | None = None,
        overwrite_data_grad: bool = True,
        no_param_grad: bool = True,
        *,
        output: OutputChoice = None,
        heatmap_axis: int | tuple[int, ...] | None = 1,
        accelerate: bool = True,
        functional: bool | str = True,
        samples: Mapping[str, int | SampleRows] | None = None,
    ):
        check_supported(model)
        if functional not in (True, False, *ATTENTION):
            raise ValueError(f"functional is True, False, {' or '.join(map(repr, ATTENTION))}, not {functional!r}")
        super().__init__(model, output, heatmap_axis)
        self.device = torch.device(device) if device is not None else device_of(model)
        self.overwrite_data_grad = overwrite_data_grad
        self.no_param_grad = no_param_grad
        self.accelerate = accelerate
        self.functional = functional
        self._finder = SampleFinder(model, {} if samples is None else samples)
        self.samples = dict(samples or {})
        self._rules = ModelRules(model)
        self._audited: weakref.WeakSet[Composite] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold; there are none while rules are on the model, which would have them for ever."""
        if self._rules.are_kept or is_in_use(self.model):
            raise RuntimeError(
                "rules are on the model: copy the attribution after its generate() or attached() has ended"
            )
        return {**vars(self), "_rules": copy.copy(self._rules), "_audited": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _audited=weakref.WeakSet())

    def __call__(
        self,
        data: Inputs,
        conditions: list[dict],
        composite: Composite | None = None,
        record_layer: list[str] = [],  # noqa: B006
        mask_map: MaskMap = ChannelConcept.mask,
        start_layer: str | None = None,
        init_rel: InitialRelevance = None,
        on_device: str | torch.device | None = None,
        exclude_parallel: bool = True,
        *,
        heatmap: bool = True,
        record_fn: RecordFunction | None = None,
        record_conditions: bool = True,
    ) -> AttributionResult:
        """Attribute samples under conditions.

        Parameters
        ----------
        data : torch.Tensor, tuple or dict
            Input of the model; a tuple holds positional, a dict keyword arguments. The first axis holds the samples.
        conditions : list of dict
            ``{layer: concept ids, ..., "y": outputs}``. Relevance starts at the outputs that "y" names and passes, at
            each layer, through the given concepts only; an empty list of ids masks the layer whole. As many conditions
            as samples pair up; otherwise each sample is attributed under every condition, sample by sample. For
            outputs with more than two axes an id may be a tuple that indexes the axes after the first:
            ``{"y": [(-1, 42)]}`` is output 42 at the last position.
        composite : zennit.core.Composite, optional
            The rules; without one, those act that are registered on the model, or else plain gradients flow.
        record_layer : list of str
            Layers whose activation and relevance come back, beside those of conditions and ``start_layer``. All are
            addressed as ``name``, ``name:in`` (the module's input) or ``name:1`` (its second output).
        mask_map : callable, Concept or mapping
            How to mask: a function ``(batch_id, concept_ids, layer_name) -> (relevance -> relevance)`` or a concept,
            for all layers or by layer; a ``layer_map`` does as well.
        start_layer : str, optional
            Relevance starts at this layer, with its activation; "y" is ignored.
        init_rel : torch.Tensor, int or callable, optional
            The relevance to start with instead of the output (or activation) itself: a tensor of its shape, one number
            for all of it, or a function of it. "y" then selects from it; without "y", all of it is used.
        on_device : str or torch.device, optional
            Where to put the results.
        exclude_parallel : bool, default True
            Let relevance flow only through the layers of a condition, not around them (as over skip connections).
            The layers of a condition must then be given from last to first.
        heatmap : bool, default True
            Whether relevance shall reach the data. If not, it ends at the lowest layer that is recorded or in a
            condition, and the pass is faster.
        record_fn : callable, optional
            What to keep of a recorded layer's activation and relevance instead of the tensor:
            ``(tensor, layer) -> tensor or (nested) tuple of tensors``, with the batch axis first. It saves the memory
            of the rest. Only the layers of ``record_layer`` are then recorded.
        record_conditions : bool, default True
            Record the layers of conditions and ``start_layer`` too. False saves time and memory where only those of
            ``record_layer`` are read.

        Returns
        -------
        AttributionResult
            Rows in the order of the conditions.

        Raises
        ------
        ValueError, TypeError, IndexError
            If a layer, concept id or target does not exist, or conditions and data do not fit. Nothing stays attached
            to the model, whatever happens.
        FloatingPointError
            If relevance is not finite; the message names the module where that begins.
        """
        conditions, flow = self._check_call(
            conditions, composite, record_layer, mask_map, start_layer, init_rel, on_device, exclude_parallel,
            heatmap, record_fn,
        )
        broadcast_data, broadcast_conditions = in_gradient_mode(
            lambda: self.broadcast(prepare_inputs(data, self.device), conditions)
        )
        if count_samples(broadcast_data) != len(broadcast_conditions):
            raise ValueError(
                f"broadcast gave {count_samples(broadcast_data)} samples and {len(broadcast_conditions)} conditions"
            )
        if record_conditions:
            flow = flow.recording_conditions(broadcast_conditions, self.MODEL_OUTPUT_NAME)
        try:
            result, gradients = self._runner.attribute(broadcast_data, broadcast_conditions, flow)
        except Exception as error:  # whatever the model raises
            fault = self._runner.misplaced_batch_axis(data, error)
            if fault:
                raise ValueError(f"{fault} ({type(error).__name__}: {error})") from error
            raise
        if not result.is_finite():
            raise FloatingPointError(self._runner.explain_not_finite(broadcast_data, broadcast_conditions, flow))
        summed = sum_over_features(self, broadcast_data) if heatmap else ""
        if summed:
            warnings.warn(summed, stacklevel=2)
        has_relevance = heatmap and composite is not None
        sink = first_token_takes_most(self.model, broadcast_data, result.heatmap) if has_relevance else ""
        if sink:
            warnings.warn(sink, stacklevel=2)
        leave_gradients(data, broadcast_data, gradients, overwrite=self.overwrite_data_grad)
        self._warn_if_not_conserved(broadcast_data, broadcast_conditions, flow, result)
        return result

    def generate(
        self,
        data: Inputs,
        conditions: list[dict],
        composite: Composite | None = None,
        record_layer: list[str] = [],  # noqa: B006
        mask_map: MaskMap = ChannelConcept.mask,
        start_layer: str | None = None,
        init_rel: InitialRelevance = None,
        batch_size: int = 10,
        on_device: str | torch.device | None = None,
        exclude_parallel: bool = True,
        verbose: bool = True,
        *,
        heatmap: bool = True,
        record_fn: RecordFunction | None = None,
        record_conditions: bool = True,
    ) -> Iterator[AttributionResult]:
        """Attribute one sample under many conditions, with a single forward pass.

        The rules stay attached to the model until the last result is there or the iterator is closed. ``.grad`` of the
        data is not set.

        Parameters
        ----------
        data : torch.Tensor, tuple or dict
            One sample, with its batch axis.
        conditions : list of dict
        composite, record_layer, mask_map, start_layer, init_rel, on_device, exclude_parallel
            As for :meth:`__call__`.
        heatmap, record_fn, record_conditions
            As for :meth:`__call__`.
        batch_size : int, default 10
            How many conditions run at once.
        verbose : bool, default True
            Whether to show a progress bar.

        Yields
        ------
        AttributionResult
            For each ``batch_size`` conditions, in their order.

        Raises
        ------
        ValueError, TypeError, IndexError, FloatingPointError
            As :meth:`__call__`; also if there is not exactly one sample.
        """
        conditions, flow = self._check_call(
            conditions, composite, record_layer, mask_map, start_layer, init_rel, on_device, exclude_parallel,
            heatmap, record_fn,
        )
        if record_conditions:
            flow = flow.recording_conditions(conditions, self.MODEL_OUTPUT_NAME)
        if count_samples(data) != 1:
            raise ValueError(f"generate attributes one sample, but data holds {count_samples(data)}")
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, not {batch_size}")
        data = in_gradient_mode(lambda: prepare_inputs(data, self.device))
        batch_size = min(batch_size, len(conditions))
        data = map_tensors(lambda tensor: share_rows(tensor, batch_size), data)
        rounds, flows = [], []
        for first in range(0, len(conditions), batch_size):
            batch = conditions[first:first + batch_size]
            rows = list(range(first, first + len(batch)))
            rounds.append(batch + [None] * (batch_size - len(batch)))
            flows.append(replace(flow, init_rel=select_rows(init_rel, rows, len(conditions))))
        results = self._runner.rounds(data, rounds, flows)
        return _with_bar(results, len(rounds), verbose)

    def attribute_rounds(
        self,
        data: Inputs,
        rounds: list[list[dict | None]],
        composite: Composite | None = None,
        record_layer: list[str] = [],  # noqa: B006
        mask_map: MaskMap = ChannelConcept.mask,
        start_layer: str | None = None,
        init_rel: InitialRelevance = None,
        on_device: str | torch.device | None = None,
        exclude_parallel: bool = True,
        *,
        heatmap: bool = True,
        record_fn: RecordFunction | None = None,
    ) -> Iterator[AttributionResult]:
        """Attribute samples under several conditions each, with a single forward pass.

        The rules stay attached to the model until the last result is there or the iterator is closed.

        Parameters
        ----------
        data : torch.Tensor, tuple or dict
            N samples.
        rounds : list of list
            In each round, N conditions: one per sample, or None for a sample that does not take part.
        composite, record_layer, mask_map, start_layer, init_rel, on_device, exclude_parallel, heatmap, record_fn
            As for :meth:`__call__`; but only the layers of ``record_layer`` are recorded.

        Yields
        ------
        AttributionResult
            Per round, the rows of the samples that take part, in their order.
        """
        conditions = [condition for row in rounds for condition in row if condition is not None]
        conditions, flow = self._check_call(
            conditions, composite, record_layer, mask_map, start_layer, init_rel, on_device, exclude_parallel,
            heatmap, record_fn,
        )
        samples = count_samples(data)
        for row in rounds:
            if len(row) != samples or all(condition is None for condition in row):
                raise ValueError(f"a round has a condition or None for each of the {samples} samples, and at least one")
        copies = iter(conditions)
        rounds = [[None if condition is None else next(copies) for condition in row] for row in rounds]
        data = in_gradient_mode(lambda: prepare_inputs(data, self.device))
        return self._runner.rounds(data, rounds, [flow] * len(rounds))

    def audit(
        self, data: Inputs, composite: Composite, conditions: list[dict] | None = None, *, tolerance: float = 0.01,
        start_layer: str | None = None,
    ) -> Audit:
        """Measure, operation by operation, where relevance is created or lost on its way to the input.

        LRP is meant to conserve relevance. Where an operation has no rule that fits, it does not, and heatmaps are
        wrong without any other sign. Relevance starts with 1 at one output of each sample; of a contrast at the outputs
        that it is for.

        Parameters
        ----------
        data : torch.Tensor, tuple or dict
            A few samples.
        composite : zennit.core.Composite
        conditions : list of dict, optional
            One, or one per sample, with outputs under "y"; by default the largest output of each sample.
        tolerance : float, default 0.01
            How much of the relevance that arrives an operation may create or lose without being called a fault.
        start_layer : str, optional
            Relevance starts at this layer, such as the input of a softmax; "y" then names its outputs.

        Returns
        -------
        Audit
            Prints as a table; ``plot`` draws it.

        Raises
        ------
        ValueError
            If conditions name layers, whose masks take relevance away on purpose.
        """
        init_rel = 1. if conditions is not None else one_at_the_largest
        conditions = [{}] if conditions is None else conditions
        conditions, flow = self._check_call(
            conditions, composite, [], None, start_layer, init_rel, None, False, True, None
        )
        flow = replace(flow, measures_start=True)
        conditions = [
            {name: ids.outputs if isinstance(ids, Contrast) else ids for name, ids in condition.items()}
            for condition in conditions
        ]
        if any(layers_of(condition, self.MODEL_OUTPUT_NAME) for condition in conditions):
            raise ValueError(f"an audit has no masks: conditions name outputs under {self.MODEL_OUTPUT_NAME!r} only")
        audited, of_audited = in_gradient_mode(lambda: self.broadcast(prepare_inputs(data, self.device), conditions))
        return self._runner.audit(audited, of_audited, flow, tolerance)

    @contextmanager
    def attached(self, composite: Composite | None, data: Inputs) -> Iterator[None]:
        """Leave the rules of a composite on the model between calls with it.

        Each call attaches them and takes them off again; where many short calls follow each other, once is enough.
        Within the context, calls need the same composite.

        Parameters
        ----------
        composite : zennit.core.Composite, optional
        data : torch.Tensor, tuple or dict
            One sample; it shows which batch norms are to be merged.
        """
        self._rules.check_free(composite)
        check_not_in_use(self.model)
        data = in_gradient_mode(lambda: prepare_inputs(data, self.device))
        guard = undoing(HookState(self.model).restore)
        try:
            next(guard)
            with self._rules.kept(
                composite, data, accelerated=self._accelerates, functional=self.functional, freeze=self.no_param_grad
            ):
                yield
        finally:
            guard.close()

    def in_order(self, layers: Iterable[str], composite: Composite | None = None) -> list[str]:
        """Sort layers by the position of their modules in the model.

        Parameters
        ----------
        layers : iterable of str
        composite : zennit.core.Composite, optional
            Its canonizers may create layers.

        Returns
        -------
        list of str

        Raises
        ------
        ValueError
            If a layer does not exist.
        """
        self._rules.check_free(composite)
        layers = list(layers)

        def order() -> list[str]:
            with self._rules.naming(composite, layers):
                return module_order(self.model, layers)

        return run_undone(order)

    # Checks

    def _check_call(
        self, conditions: list[dict], composite: Composite | None, record_layer: list[str], mask_map: MaskMap | None,
        start_layer: str | None, init_rel: InitialRelevance, on_device: str | torch.device | None,
        exclude_parallel: bool, heatmap: bool, record_fn: RecordFunction | None,
    ) -> tuple[list[dict], Flow]:
        """Refuse what cannot work, before anything is attached to the model."""
        conditions = check_conditions(
            conditions, self.MODEL_OUTPUT_NAME, y_needed=start_layer is None and init_rel is None
        )
        self._rules.check_free(composite)
        training = modules_in_training(self.model)
        if training:
            warnings.warn(
                f"modules are in train mode, such as {training[0] or type(self.model).__name__!r}: dropout and batch "
                "statistics disturb relevance; call model.eval()", stacklevel=3,
            )
        return conditions, Flow(
            composite, as_layer_list(record_layer), mask_map, start_layer, init_rel, on_device, exclude_parallel,
            heatmap, record_fn, self._accelerates, self.functional, self.no_param_grad, self._finder,
        )

    @property
    def _accelerates(self) -> bool:
        return self.accelerate and self.no_param_grad and not self._rules.writes_to_inputs

    @property
    def _runner(self) -> Runner:
        return Runner(self, self._rules)

    def _warn_if_not_conserved(
        self, data: Inputs, conditions: list[dict], flow: Flow, result: AttributionResult
    ) -> None:
        """Warn, once for a composite, if heatmaps hold far more or less relevance than the outputs they start from."""
        if flow.composite is None or flow.composite in self._audited or seems_right(self, conditions, flow, result):
            return
        self._audited.add(flow.composite)
        named = all(self.MODEL_OUTPUT_NAME in condition for condition in conditions)
        try:
            audit = self.audit(data, flow.composite, conditions if named else None)
        except Exception as error:  # the heatmaps are there
            warnings.warn(f"LRP does not conserve relevance here, and attribution.audit fails: {error}", stacklevel=3)
            return
        found = explanation(audit, self.functional)
        if found:
            warnings.warn(found, stacklevel=3)


def _with_bar(
    results: Generator[AttributionResult, None, None], total: int, verbose: bool
) -> Iterator[AttributionResult]:
    """Results beside a progress bar; both end where an interrupt comes."""
    bar = tqdm(results, total=total, disable=not verbose, desc="attribution")
    guard = undoing(results.close, bar.close)
    try:
        next(guard)
        yield from bar
    finally:
        guard.close()
