"""Attribution of prepared rows: group by group in passes of their own, or round by round after one forward pass."""
from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeVar, cast

import torch

from crp.attribution.audit import Audit
from crp.attribution.audit_mode import AuditMode
from crp.attribution.conditions import group_rows, merge_rows, restoring_order, select_rows
from crp.attribution.conservation import starts_below_half
from crp.attribution.passes import AttributionResult, Flow, ForwardPass, forward_pass
from crp.attribution.steps import Steps
from crp.attribution.taps import FiniteWatch
from crp.model.inputs import Inputs, call_model, device_of, list_tensors, map_tensors
from crp.model.rows import is_shared
from crp.model.shapes import misplaced_batch_axis
from crp.rules.attach import ExclusiveUse, run_exclusively
from crp.rules.model_rules import ModelRules
from crp.rules.operations.rule import total
from crp.rules.restoring import TensorState, run_undone, undoing

Result = TypeVar("Result")


class Runner:
    """Runs passes through one model; with zennit's rules where the model writes to what faster ones read.

    Parameters
    ----------
    steps : Steps
    rules : ModelRules
    """

    def __init__(self, steps: Steps, rules: ModelRules):
        self.steps, self.rules = steps, rules

    def attribute(self, data: Inputs, conditions: list[dict], flow: Flow) -> tuple[AttributionResult, tuple]:
        """Attribute rows that have one condition each; also return the gradients of the inputs."""
        return run_exclusively(
            self.steps.model, lambda: self._with_rules_that_fit(lambda flow: self._run(data, conditions, flow), flow)
        )

    def rounds(
        self, data: Inputs, rounds: list[list[dict | None]], flows: list[Flow]
    ) -> Generator[AttributionResult, None, None]:
        """Attribute samples under several conditions each, with a single forward pass."""
        results, use = self._run_rounds(data, rounds, flows), ExclusiveUse(self.steps.model)
        guard = undoing(lambda: results.close(), use.end)
        try:
            next(guard)
            use.begin()
            for number in range(1, len(rounds) + 1):
                try:
                    result = run_undone(lambda: next(results))
                except RuntimeError as error:
                    if number > 1:
                        raise
                    self._give_up_acceleration(error, flows[0])
                    results = self._run_rounds(data, rounds, [replace(flow, accelerate=False) for flow in flows])
                    result = run_undone(lambda: next(results))
                if number == len(rounds):
                    guard.close()
                yield result
        finally:
            guard.close()

    def audit(self, data: Inputs, conditions: list[dict], flow: Flow, tolerance: float) -> Audit:
        """Measure each operation on the way of relevance."""
        def run(flow: Flow) -> Audit:
            started: list[float] = []
            below_half: list[bool] = []
            rows = list(range(len(conditions)))
            with forward_pass(self.steps, self.rules, data, conditions, flow, mode_type=AuditMode) as forward:
                mode = cast(AuditMode, forward.mode)
                output = forward.start.detach()  # a hook that held the pass would never be freed
                forward.start.register_hook(lambda relevance: started.append(total(relevance)))
                forward.start.register_hook(
                    lambda relevance: below_half.append(starts_below_half(output, relevance))
                )
                forward.backward(conditions, rows, flow)
                start = sum(started)
                gradients = [tensor.grad for tensor in forward.leaves.tensors if tensor.grad is not None]
                arrived, absolute = sum(map(total, gradients)), sum(total(gradient.abs()) for gradient in gradients)
                return mode.audit(arrived, absolute, start, tolerance, any(below_half))

        return run_exclusively(self.steps.model, lambda: self._with_rules_that_fit(run, flow))

    def misplaced_batch_axis(self, data: Inputs, error: Exception) -> str:
        """Whether an error came because data lack a batch axis, or have one too many, in words; else empty."""
        frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
        if call_model.__code__ not in frames or self.rules.are_kept:
            return ""
        model, device = self.steps.model, device_of(self.steps.model)
        data = map_tensors(lambda tensor: tensor.detach().to(device), data)
        return run_exclusively(model, lambda: misplaced_batch_axis(model, data), TensorState(model).restore)

    def explain_not_finite(self, data: Inputs, conditions: list[dict], flow: Flow) -> str:
        """Repeat a pass and name the module where values cease to be finite."""
        return run_exclusively(self.steps.model, lambda: self._explain_not_finite(data, conditions, flow))

    def _explain_not_finite(self, data: Inputs, conditions: list[dict], flow: Flow) -> str:
        if not all(torch.isfinite(tensor).all() for tensor in list_tensors(data)):
            return "the data hold NaN or infinite values"
        with FiniteWatch(self.steps.model) as watch:
            self._with_rules_that_fit(lambda flow: self._run(data, conditions, flow), flow)
        return watch.explanation()

    def _with_rules_that_fit(self, run: Callable[[Flow], Result], flow: Flow) -> Result:
        try:
            return run(flow)
        except RuntimeError as error:
            self._give_up_acceleration(error, flow)
            return run(replace(flow, accelerate=False))

    def _give_up_acceleration(self, error: RuntimeError, flow: Flow) -> None:
        """Remember that the model writes to what a fast rule reads, of which zennit's rules hold copies."""
        is_changed_input = "modified by an inplace operation" in str(error)
        is_fast = flow.composite is not None and not self.rules.writes_to_inputs and not self.rules.are_kept
        if not (is_fast and is_changed_input):
            raise error
        self.rules.writes_to_inputs = True

    def _run(self, data: Inputs, conditions: list[dict], flow: Flow) -> tuple[AttributionResult, tuple]:
        groups = self._group_rows(conditions, flow)
        parts, gradients = [], []
        for rows in groups:
            group_data = data if len(groups) == 1 else map_tensors(lambda tensor: tensor[rows], data)
            group_flow = replace(flow, init_rel=select_rows(flow.init_rel, rows, len(conditions)))
            group_conditions = [conditions[row] for row in rows]
            # given all conditions, since they are checked before relevance flows under the first
            with forward_pass(self.steps, self.rules, group_data, conditions, flow) as forward:
                parts.append(forward.backward(group_conditions, list(range(len(rows))), group_flow))
            gradients.append(forward.leaves.gradients)
        order = restoring_order(groups)
        return merge_rows(parts, order), merge_rows(gradients, order)

    def _group_rows(self, conditions: Sequence[dict | None], flow: Flow) -> list[list[int]]:
        """Rows that can go together: through the same layers, or all if relevance may flow around layers."""
        return group_rows(conditions, self.steps.MODEL_OUTPUT_NAME if flow.exclude_parallel else None)

    def _run_rounds(
        self, data: Inputs, rounds: list[list[dict | None]], flows: list[Flow]
    ) -> Generator[AttributionResult, None, None]:
        with self._repeated_forward(data, rounds, flows[0]) as forward:
            for number, (conditions, flow) in enumerate(zip(rounds, flows), 1):
                groups = self._group_rows(conditions, flow)
                parts = [forward.backward(conditions, rows, flow, retain_graph=True) for rows in groups]
                result = merge_rows(parts, restoring_order(groups))
                if number == len(rounds) or not result.is_finite():
                    break
                yield result
        if not result.is_finite():
            rows = sorted(row for rows in groups for row in rows)
            present = [condition for condition in conditions if condition is not None]
            raise FloatingPointError(self._explain_not_finite(
                map_tensors(lambda tensor: tensor[rows], data), present, flow
            ))
        yield result

    @contextmanager
    def _repeated_forward(
        self, data: Inputs, rounds: list[list[dict | None]], flow: Flow
    ) -> Iterator[ForwardPass]:
        """A forward pass for several backward passes; on copies of its rows where the model cannot take shared ones."""
        conditions = [condition for row in rounds for condition in row if condition is not None]
        repeated = len(rounds) > 1
        with ExitStack() as stack:
            try:
                forward = stack.enter_context(forward_pass(self.steps, self.rules, data, conditions, flow, repeated))
            except RuntimeError:
                if not any(is_shared(tensor) for tensor in list_tensors(data)):
                    raise
                data = map_tensors(lambda tensor: tensor.detach().contiguous(), data)
                forward = stack.enter_context(forward_pass(self.steps, self.rules, data, conditions, flow, repeated))
            yield forward
