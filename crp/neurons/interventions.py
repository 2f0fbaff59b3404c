"""Experiments on a model: units set to other values while it runs."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import RemovableHandleList

from crp.attribution.taps import LayerTaps, tap_module
from crp.concepts import Concept, EncodedConcept, as_ids
from crp.concepts.layer_map import UNSAID, check_said
from crp.model.edits import Edit, edits_of, put_down, take_up, without_edits
from crp.model.inputs import call_model, copied_inputs, device_of
from crp.model.layers import LayerAddress, resolve_layer
from crp.neurons.changes import Add, From, NewValue, Place, as_new_value, check_value, contents_of
from crp.rules.attach import check_supported
from crp.rules.restoring import TensorState, undoing, undone


def intervene(
    model: nn.Module, changes: Mapping[str, Any], *, positions: int | list[int] | None = None,
    concepts: Concept | Mapping[str, Concept] | None = None,
) -> AbstractContextManager[nn.Module]:
    """Set units of layers to other values while a model runs within the context.

    All is checked that can be before the model runs; nothing stays on the model afterwards, whatever happens. Within
    the context the model can be called, generate text and be attributed: heatmaps are those of the changed model, and
    relevance ends at units that were set. Contexts nest: what is entered later acts on what the earlier ones leave.
    Calls of the model in other threads are not changed; neither is what activation checkpointing runs again after the
    context, or in a thread of autograd on a GPU.

    Parameters
    ----------
    model : torch.nn.Module
    changes : dict
        Layer -> what to set its units to: a dict ``{unit: value}``, where a tuple of units does for several, or a value
        for all units. Layers are addressed as in conditions: ``name``, ``name:in`` (the input of a module) or
        ``name:1`` (its second output). A value is a number or :class:`Scale`, :class:`Shift`, :class:`Mean`,
        :class:`Resample`, :class:`From`; for a whole layer also :class:`Add`.
    positions : int or list of int, optional
        Flat positions at which values are set, such as tokens; those from the end are negative. By default all. Where
        models of Hugging Face generate with a cache, they are those of the prompt, and -1 is each new token as well.
    concepts : Concept or dict, optional
        What the units of the layers are: channels (on any axis), heads, directions, latents of an autoencoder with
        their remainder; for all layers or by layer. By default channels on axis 1, where there is no doubt: of layers
        [B, T, C] or [B, C, T] it has to be said. What is set for latents is decoded again; a remainder is set by its
        norm.

    Returns
    -------
    context manager
        Of the model.

    Raises
    ------
    ValueError, TypeError
        At once, if a layer or kind of value does not exist, or a unit is named twice.
    IndexError, ValueError
        When the model runs, if it has no such unit or position, or values are of another shape. When the context ends,
        if the model ran and a layer was not used.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from crp.neurons import Scale, intervene
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> data = torch.rand(2, 4)
    >>> with intervene(model, {"1": {(0, 3): 0., 5: Scale(2)}}):
    ...     changed = model(data)
    >>> torch.equal(changed, model(data))
    False
    """
    check_supported(model)
    plans = [_Plan.of(model, layer, change, positions, concepts) for layer, change in _checked(changes).items()]
    return _standing(model, plans)


def _checked(changes: Any) -> Mapping[str, Any]:
    if not isinstance(changes, Mapping) or not changes:
        raise TypeError(f"changes maps layers to units and their values, {{'layer4': {{3: 0.}}}}, not {changes!r}")
    return changes


class _Plan:
    """What is to be done at one layer."""

    def __init__(
        self, address: LayerAddress, concept: Concept, values: dict[tuple[int, ...] | None, Any],
        positions: list[int] | None,
    ):
        self.address, self.concept, self.values, self.positions = address, concept, values, positions
        self.cached = 0
        self._functions: list[tuple[tuple[int, ...] | None, NewValue]] = []
        self._members: dict[tuple, Tensor] = {}

    @classmethod
    def of(
        cls, model: nn.Module, layer: str, change: Any, positions: int | list[int] | None,
        concepts: Concept | Mapping[str, Concept] | None,
    ) -> _Plan:
        """The plan that an entry stands for."""
        address = resolve_layer(model, layer)
        concept = concepts.get(layer) if isinstance(concepts, Mapping) else concepts
        concept = UNSAID if concept is None else concept
        if not isinstance(concept, Concept):
            raise TypeError(f"concepts are instances of crp.concepts.Concept, by layer or for all, not {concept!r}")
        values: dict[tuple[int, ...] | None, Any] = {None: change}
        if isinstance(change, Mapping):
            values = {tuple(as_ids(units)): value for units, value in change.items()}
            named = [unit for units in values for unit in units or ()]
            if len(set(named)) < len(named):
                twice = sorted({unit for unit in named if named.count(unit) > 1})
                raise ValueError(f"units of {layer!r} are named once each, but {twice} is")
        for units, value in values.items():
            check_value(value, f"layer {layer!r}" if units is None else f"unit {units} of {layer!r}")
            if units is not None and isinstance(value, Add):
                raise ValueError(f"a direction is added to a whole layer: {{{layer!r}: Add(direction)}}")
        kept = None if positions is None else as_ids(positions)
        return cls(address, concept, values, kept)

    @property
    def says(self) -> list:
        """What is done, for the records of sweeps."""
        return [
            self.positions, self.concept,
            [(units, type(value).__name__, contents_of(value)) for units, value in self.values.items()],
        ]

    def prepare(self, captured: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Make the functions that give new values, of what the layer gave for other inputs."""
        of_layer = {inputs: activations[self.address.layer] for inputs, activations in captured.items()
                    if self.address.layer in activations}
        place = Place(self.address.layer, self.concept, of_layer)
        self._functions = [(units, as_new_value(value, place)) for units, value in self.values.items()]

    def change(self, tensor: Tensor, sends_relevance: bool) -> Tensor:
        """What the layer gives instead."""
        check_said(self.concept, tensor.shape, self.address.layer)
        if isinstance(self.concept, EncodedConcept) and not self._adds:
            return self.concept.edited(tensor, lambda code: self._set(code, sends_relevance))
        return self._set(tensor, sends_relevance)

    @property
    def _adds(self) -> bool:
        return isinstance(self.values.get(None), Add)

    def _set(self, values: Tensor, sends_relevance: bool) -> Tensor:
        result = values
        positions = self._positions_in(values)
        for units, new_value in self._functions if positions != [] else ():
            members = self._members_of(units, positions, values)
            new = new_value(values, sends_relevance)
            # a copy, for models that write to it
            result = new.expand_as(values).clone() if members is None else torch.where(members, new, result)
        return result

    def _positions_in(self, values: Tensor) -> list[int] | None:
        """Which of the positions a tensor has, that follows on those that are cached."""
        if self.positions is None or not self.cached:
            return self.positions
        shape = self.concept.position_shape(values.shape[1:], self.address.layer)
        count = 1 if shape is None else math.prod(shape)
        moved = [position if position < 0 else position - self.cached for position in self.positions]
        return [new for new, old in zip(moved, self.positions) if (new if old >= 0 else count + new) in range(count)]

    def _members_of(
        self, units: tuple[int, ...] | None, positions: list[int] | None, values: Tensor
    ) -> Tensor | None:
        """Which elements belong to units, [1, ...]; None for all."""
        if units is None and positions is None:
            return None
        key = units, tuple(positions or ()), tuple(values.shape[1:]), values.device
        if key not in self._members:
            layer = self.address.layer
            ids = list(range(self.concept.read(values[:1].detach(), layer).value.shape[1])) if units is None else list(
                units
            )
            with torch.inference_mode(False):  # for passes to come in any mode
                members = self.concept.members(values.shape, ids, positions, layer).to(values.device)
            for (others, *place), known in self._members.items():
                if place == list(key[1:]) and bool((known & members).any()):
                    raise ValueError(f"units {units} and {others} of {layer!r} are in part the same")
            self._members[key] = members
        return self._members[key]


@contextmanager
def _standing(model: nn.Module, plans: list[_Plan]) -> Iterator[nn.Module]:
    captured = _captured(model, plans)
    for plan in plans:
        plan.prepare(captured)
    edits = [Edit(plan.address, plan.change, plan.says) for plan in plans]
    runs: list[None] = []
    handles = RemovableHandleList()
    guard = undoing(handles.remove, lambda: take_up(edits))
    try:
        next(guard)
        put_down(edits)
        for edit in edits:
            handles.append(tap_module(edit.address, edit))
        handles.append(model.register_forward_hook(lambda *_: runs.append(None)))
        handles.append(model.register_forward_pre_hook(
            lambda module, args, kwargs: _note_cache(plans, kwargs), with_kwargs=True
        ))
        yield model
    finally:
        guard.close()
    unused = [edit.address.layer for edit in edits if not edit.calls]
    if runs and unused:
        raise ValueError(f"layer {unused[0]!r} is not used in the forward pass of the model: nothing was set there")


def _note_cache(plans: list[_Plan], arguments: Mapping[str, Any]) -> None:
    """Tell how many positions of the text a model has seen before, by the cache that Hugging Face's models take."""
    count = max([0, *(int(x.get_seq_length()) for x in arguments.values() if hasattr(x, "get_seq_length"))])
    for plan in plans:
        plan.cached = count


def _captured(model: nn.Module, plans: list[_Plan]) -> dict[int, dict[str, Tensor]]:
    """What the layers give for other inputs: id of the inputs -> layer -> activation."""
    wanted: dict[int, tuple[Any, list[str]]] = {}
    for plan in plans:
        for value in plan.values.values():
            if isinstance(value, From):
                wanted.setdefault(id(value.inputs), (value.inputs, []))[1].append(plan.address.layer)
    return {key: activations_at(model, inputs, layers) for key, (inputs, layers) in wanted.items()}


def activations_at(
    model: nn.Module, inputs: Any, layers: Iterable[str], run: Callable[[], Any] | None = None
) -> dict[str, Tensor]:
    """What layers give for inputs, with the edits that stand on the model; its buffers stay as they are.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : torch.Tensor, tuple or dict
    layers : iterable of str
    run : callable, optional
        What runs the model, by default a call with the inputs.

    Raises
    ------
    ValueError
        If a layer does not run, or several times.
    """
    layers = list(layers)
    taps = LayerTaps(model, (), layers, lambda tensor, _: tensor.clone(), edits=edits_of(model))
    with torch.inference_mode(False), torch.no_grad(), undone(TensorState(model).restore), without_edits(), taps:
        if run is None:
            call_model(model, copied_inputs(inputs, device_of(model)))
        else:
            run()
    check_called_once(taps.calls, layers)
    return dict(taps.activations)


def check_called_once(calls: Mapping[str, int], layers: Iterable[str]) -> None:
    """Raise a ValueError for layers that did not run, or several times, with several values."""
    for layer in layers:
        count = calls.get(layer, 0)
        if count != 1:
            what = "is not used" if count == 0 else f"runs {count} times"
            raise ValueError(f"layer {layer!r} {what} in the forward pass of the model")


