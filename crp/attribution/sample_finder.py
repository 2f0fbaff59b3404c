"""Finds out where the samples are in the tensors of layers."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from types import MappingProxyType

import torch
from torch import Tensor, nn

from crp.attribution.sample_rows import ONE_SIZE, ONLY_AS_IT_IS, LayerRows, SampleRows
from crp.attribution.taps import tap_module
from crp.model.inputs import Inputs, call_model, count_samples, device_of, list_tensors, map_tensors
from crp.model.layers import flatten_tensors, resolve_layer
from crp.model.rows import is_shared
from crp.rules.control_flow import step_by_step
from crp.rules.operations.mode import OperationMode
from crp.rules.restoring import AttributeState, BufferState, Undo, undone, without_hooks_of_rules

_MOST_KEPT = 4096


class SampleFinder:
    """Finds where the samples are in layers, by running the model on one sample, on another, and on both.

    These are samples of the data, or one of them and what is made of it. Models that take this number of samples only
    are run on them in another order.

    Parameters
    ----------
    model : torch.nn.Module
    given : dict, optional
        Layer -> axis of its samples, or :class:`SampleRows`, where that is known.

    Raises
    ------
    TypeError, ValueError
        If something else is given, or for layers that do not exist.
    """

    def __init__(self, model: nn.Module, given: Mapping[str, int | SampleRows] = MappingProxyType({})):
        if not isinstance(given, Mapping):
            raise TypeError(f"samples maps layers to the axis of their samples, or to SampleRows; not {given!r}")
        for layer, rows in given.items():
            resolve_layer(model, layer)
            if not isinstance(rows, SampleRows) and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 0):
                raise TypeError(f"samples[{layer!r}] is an axis, counted from 0, or SampleRows, not {rows!r}")
        self.model = model
        self._given = {
            layer: rows if isinstance(rows, SampleRows) else SampleRows(rows) for layer, rows in given.items()
        }
        self._found: dict[tuple, SampleRows | str] = {}

    def find(self, layers: Iterable[str], data: Inputs, rows_last: Collection[str] = ()) -> dict[str, LayerRows]:
        """How layers are read.

        Parameters
        ----------
        layers : iterable of str
        data : torch.Tensor, tuple or dict
            Inputs of the model.
        rows_last : collection of str
            Layers in which several rows of a sample become the last axis; else they are the second.

        Returns
        -------
        dict
            Layer -> :class:`LayerRows`.
        """
        kinds = tuple(
            (leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in flatten_tensors(data)
        )
        known = {layer: rows for layer in layers if (rows := self._given.get(layer) or self._found.get((layer, kinds)))}
        unknown = [layer for layer in layers if layer not in known]
        tried = self._try(unknown, data) if unknown else {}
        if len(self._found) > _MOST_KEPT:
            self._found.clear()
        self._found |= {(layer, kinds): rows for layer, rows in tried.items() if isinstance(rows, SampleRows)}
        return {
            layer: LayerRows(layer, known.get(layer) or tried[layer], count_samples(data), layer in rows_last)
            for layer in layers
        }

    def _try(self, layers: list[str], data: Inputs) -> dict[str, SampleRows | str]:
        one = map_tensors(lambda tensor: tensor[:1].detach().clone(), data)
        has_another = count_samples(data) > 1 and not all(map(is_shared, list_tensors(data)))
        other = map_tensors(lambda tensor: tensor[1:2].detach(), data) if has_another else map_tensors(_changed, one)
        others = iter(list_tensors(other))
        two = map_tensors(lambda tensor: torch.cat([tensor, next(others)]), one)
        changed = map_tensors(_changed, one) if has_another else other
        try:
            of_one, of_other, of_two = (self._run(layers, data) for data in (one, other, two))
            of_changed = self._run(layers, changed) if has_another else of_other
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # a model that takes no other number of samples, such as a graph of nodes
            return self._try_in_another_order(layers, data)
        return {
            layer: _rows_of(of_one[layer], of_other[layer], of_two[layer], of_changed[layer]) for layer in layers
        }

    def _try_in_another_order(self, layers: list[str], data: Inputs) -> dict[str, SampleRows | str]:
        """For models that take this number of samples only: the axis of each layer that follows their order."""
        data = map_tensors(torch.Tensor.detach, data)
        of_data, of_rolled = (
            self._run(layers, samples) for samples in (data, map_tensors(lambda tensor: tensor.roll(1, 0), data))
        )
        return {layer: _axis_that_rolled(of_data[layer], of_rolled[layer], count_samples(data)) for layer in layers}

    def _run(self, layers: list[str], data: Inputs) -> dict[str, list[Tensor]]:
        """The tensors of layers, of each of their calls."""
        found: dict[str, list[Tensor]] = {layer: [] for layer in layers}

        def keep(layer: str) -> Callable[[Tensor], Tensor]:
            def visit(tensor: Tensor) -> Tensor:
                found[layer].append(tensor)
                return tensor

            return visit

        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(step_by_step())
            device = device_of(self.model)
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            stack.enter_context(undone(*self._effects_of_forward_passes()))
            stack.enter_context(without_hooks_of_rules(self.model))
            for layer in layers:
                stack.enter_context(tap_module(resolve_layer(self.model, layer), keep(layer)))
            stack.enter_context(OperationMode(self.model))  # which calls modules whose parameters others use
            call_model(self.model, data)
        return found

    def _effects_of_forward_passes(self) -> tuple[Undo, Undo]:
        """What undoes those on attributes of modules and on values of buffers."""
        attributes = AttributeState(held for module in self.model.modules() for held in (vars(module), module._buffers))
        return attributes.restore, BufferState(self.model).restore


def _changed(tensor: Tensor) -> Tensor:
    """Another sample of the same kind: other values, fewer ones in masks, shorter lengths."""
    other = tensor.flip(-1) if tensor.ndim > 1 else tensor.clone()
    if other.is_floating_point():
        return other * 0.5 + 0.25 * other.abs().amax().clamp(min=1)
    if other.ndim == 1:
        return other if other.dtype == torch.bool else other - (other > 1).to(other.dtype)
    other[..., :other.shape[-1] // 2] = other[..., :1].clone()
    other[..., -1] = 0
    return other


def _rows_of(
    of_one: list[Tensor], of_other: list[Tensor], of_two: list[Tensor], of_changed: list[Tensor]
) -> SampleRows | str:
    if not len(of_one) == len(of_other) == len(of_two) == len(of_changed):
        return "it is called once for each sample"
    calls = zip(of_one, of_other, of_two, of_changed)
    found = {_rows_of_call(*tensors) for tensors in calls} or {SampleRows()}
    return found.pop() if len(found) == 1 else "its calls hold samples in different places"


def _axis_that_rolled(of_data: list[Tensor], of_rolled: list[Tensor], samples: int) -> SampleRows | str:
    if not of_data or len(of_data) != len(of_rolled) or of_data[-1].shape != of_rolled[-1].shape:
        return ONLY_AS_IT_IS
    tensor, rolled = of_data[-1], of_rolled[-1]
    axes = [axis for axis, size in enumerate(tensor.shape) if size == samples]
    following = [axis for axis in axes if _is_close(rolled, tensor.roll(1, axis))]
    return SampleRows(following[0]) if len(following) == 1 else ONLY_AS_IT_IS if axes == [0] else ONE_SIZE


def _rows_of_call(one: Tensor, other: Tensor, two: Tensor, changed: Tensor) -> SampleRows | str:
    differing = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape)) if a != b]
    other = other if changed.shape == one.shape else changed
    if one.shape != other.shape or one.ndim != two.ndim or len(differing) > 1:
        return f"for one sample it holds {tuple(one.shape)} or {tuple(other.shape)}, for two {tuple(two.shape)}"
    if not differing:
        return "it holds the same number of values for any number of samples"
    axis, = differing
    rows, of_both = one.shape[axis], two.shape[axis]
    if of_both != 2 * rows:
        return f"for one sample axis {axis} has {rows} rows, for two {of_both}"
    if rows == 1:
        return SampleRows(axis)
    together = _is_close(two, torch.cat([one, other], axis))
    apart = _is_close(two, torch.stack([one, other], axis + 1).flatten(axis, axis + 1))
    if together == apart:
        return f"axis {axis} has {rows} rows per sample, in an order that cannot be told"
    return SampleRows(axis, rows, interleaved=apart)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    """Up to what sums in another order change."""
    tolerance = 1e-3 + 16 * torch.finfo(expected.dtype).eps
    return torch.allclose(found, expected, tolerance, tolerance * float(expected.abs().max()), equal_nan=True)
