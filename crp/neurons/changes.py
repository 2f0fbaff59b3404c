"""What the units of a layer can be set to."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from crp.concepts import ChannelConcept, Concept, EncodedConcept, HeadConcept
from crp.model.rows import is_shared
from crp.rules.operations.elementwise import Scaling
from crp.rules.operations.rule import carries, run_with_rule
from crp.rules.operations.sums import Addition
from crp.rules.stabilizers import stabilized
from crp.store.reader import ReferenceStore

NewValue: TypeAlias = Callable[[Tensor, bool], Tensor]
"""``(values, sends_relevance) -> new values``, of a layer's tensor or its code; of the same shape, or one that fits."""


class Place(NamedTuple):
    """Where a change is made: a layer, its concept, and what the layer gives for the inputs of :class:`From`."""

    layer: str
    concept: Concept
    captured: Mapping[int, Tensor]

    def coordinates(self, activation: Tensor) -> Tensor:
        """An activation as the concept sees it: itself, or its code."""
        return self.concept.code_of(activation) if isinstance(self.concept, EncodedConcept) else activation

    @property
    def feature_axis(self) -> int | None:
        """The axis along which units differ; None where the concept does not tell."""
        if isinstance(self.concept, ChannelConcept):
            return self.concept.axis
        return -1 if isinstance(self.concept, HeadConcept) else None

    def mean(self, activations: Tensor) -> Tensor:
        """The mean of activations over samples and positions, [units]; over samples, where the axis is not known."""
        found = self.coordinates(activations)
        axis = self.feature_axis
        others = [0] if axis is None else [i for i in range(found.ndim) if i != axis % found.ndim]
        return found.mean(others)


class Change:
    """Base class of what units can be set to, beside numbers."""

    def prepared(self, place: Place) -> NewValue:
        """The function that gives new values at a place."""
        raise NotImplementedError


@dataclass(frozen=True)
class Scale(Change):
    """Multiply by a factor: 0 ablates, -1 turns, 2 doubles.

    Parameters
    ----------
    factor : float
    """

    factor: float

    def __post_init__(self) -> None:
        _check_number("factor", self.factor)

    def prepared(self, place: Place) -> NewValue:
        """``factor`` times the values; relevance passes."""
        return lambda values, sends_relevance: _scaled(values, self.factor, sends_relevance)


@dataclass(frozen=True)
class Shift(Change):
    """Add a number.

    Parameters
    ----------
    amount : float
    """

    amount: float

    def __post_init__(self) -> None:
        _check_number("amount", self.amount)

    def prepared(self, place: Place) -> NewValue:
        """The values and the number; relevance is shared in proportion."""
        return lambda values, sends_relevance: _added(values, torch.as_tensor(self.amount), sends_relevance)


@dataclass(frozen=True)
class Add(Change):
    """Add a direction to the features of a whole layer, at each position: steering. Stands in the place of units.

    Parameters
    ----------
    direction : array-like
        [features]
    factor : float, default 1
    """

    direction: Any
    factor: float = 1.

    def __post_init__(self) -> None:
        _check_number("factor", self.factor)
        direction = torch.as_tensor(self.direction)
        if direction.ndim != 1 or not torch.isfinite(direction.float()).all():
            raise ValueError(f"a direction is finite, [features], not of the shape {tuple(direction.shape)}")

    def prepared(self, place: Place) -> NewValue:
        """The values and the direction, on the axis of the features."""
        concept, direction = place.concept, torch.as_tensor(self.direction) * self.factor
        axis = concept.feature_axis if isinstance(concept, EncodedConcept) else place.feature_axis
        if axis is None:
            raise ValueError(f"which axis of {place.layer!r} holds the features, {type(concept).__name__} does not "
                             "tell: give a ChannelConcept")

        def add(values: Tensor, sends_relevance: bool) -> Tensor:
            if values.shape[axis] != len(direction):
                raise ValueError(
                    f"layer {place.layer!r} has {values.shape[axis]} features on axis {axis}, the direction "
                    f"{len(direction)}"
                )
            return _added(values, _along(axis, direction, values), sends_relevance)

        return add


@dataclass(frozen=True)
class Mean(Change):
    """The mean of each unit, over samples and positions.

    Parameters
    ----------
    source : ReferenceStore or torch.Tensor
        A store that holds the layer with the same concepts; or activations of the layer, [N, ...].
    """

    source: Any

    def __post_init__(self) -> None:
        if not isinstance(self.source, (ReferenceStore, Tensor, np.ndarray)):
            raise TypeError(f"a mean is of a ReferenceStore or of activations, not of a {type(self.source).__name__}")

    def prepared(self, place: Place) -> NewValue:
        """The means, at each position."""
        if isinstance(self.source, ReferenceStore):
            if not isinstance(place.concept, ChannelConcept):
                raise ValueError(
                    f"a store knows of {type(place.concept).__name__} one sum for each concept, not the values of its "
                    "features: give activations of the layer instead, Mean(tensor)"
                )
            return Along(torch.from_numpy(_means_of_store(self.source, place.layer)).float()).prepared(place)
        activations = torch.as_tensor(self.source)
        activations = activations if activations.is_floating_point() else activations.float()
        if activations.ndim < 2:
            raise ValueError(f"activations are [N, ...], not of the shape {tuple(activations.shape)}")
        return Along(place.mean(activations)).prepared(place)


@dataclass(frozen=True, eq=False)
class Along(Change):
    """A value for each unit, at each position; of concepts that do not tell their axis, a sample of the layer.

    Parameters
    ----------
    values : torch.Tensor
        [units] or [...]
    factors : torch.Tensor, optional
        Of the same shape: add the values to so many times those that units have.
    """

    values: Tensor
    factors: Tensor | None = None

    def prepared(self, place: Place) -> NewValue:
        """The values on the axis of the units."""
        axis = place.feature_axis

        def aligned(given: Tensor, values: Tensor) -> Tensor:
            if axis is None:
                return given.to(values)
            if values.shape[axis] != len(given):
                raise ValueError(f"layer {place.layer!r} has {values.shape[axis]} units, not {len(given)}")
            return _along(axis, given.to(values), values)

        def set_values(values: Tensor, sends_relevance: bool) -> Tensor:
            new = aligned(self.values, values)
            if self.factors is None:
                return new
            return _added(_scaled(values, aligned(self.factors, values), sends_relevance), new, sends_relevance)

        return set_values


@dataclass(frozen=True)
class Resample(Change):
    """The values of other samples, drawn anew for each row of the batch: it keeps each unit's distribution.

    Parameters
    ----------
    activations : torch.Tensor
        [N, ...] of the layer.
    random_state : int, default 0
        The same rows are drawn at each call of the model.
    """

    activations: Any
    random_state: int = 0

    def prepared(self, place: Place) -> NewValue:
        """Rows of the activations."""
        drawn_from = place.coordinates(torch.as_tensor(self.activations))

        def resample(values: Tensor, sends_relevance: bool) -> Tensor:
            if drawn_from.shape[1:] != values.shape[1:]:
                raise ValueError(
                    f"layer {place.layer!r} has the shape {tuple(values.shape)}, but what is resampled "
                    f"{tuple(drawn_from.shape)}: all but the first axis are to be the same"
                )
            rows = np.random.default_rng(self.random_state).integers(0, len(drawn_from), len(values))
            if is_shared(values):  # which stand for one sample
                rows[:] = rows[0]
            return drawn_from[torch.from_numpy(rows)].to(values)

        return resample


@dataclass(frozen=True, eq=False)
class Rows(Change):
    """Given values for each row of the batch.

    Parameters
    ----------
    activations : torch.Tensor
        [B, ...] of the layer.
    """

    activations: Tensor

    def prepared(self, place: Place) -> NewValue:
        """The activations, as the concept sees them."""
        given = place.coordinates(self.activations)
        return lambda values, sends_relevance: given.to(values)


@dataclass(frozen=True, eq=False)
class From(Change):
    """The values that the model has for other inputs: activation patching.

    Parameters
    ----------
    inputs : torch.Tensor, tuple or dict
        One sample for all rows of the batch, or one for each.
    """

    inputs: Any

    def prepared(self, place: Place) -> NewValue:
        """What the layer gave for the inputs."""
        other = place.coordinates(place.captured[id(self.inputs)])

        def patch(values: Tensor, sends_relevance: bool) -> Tensor:
            if other.shape[1:] != values.shape[1:] or len(other) not in (1, len(values)):
                raise ValueError(
                    f"layer {place.layer!r} has the shape {tuple(values.shape)}, but for the other inputs "
                    f"{tuple(other.shape)}: give inputs of the same shape, one or as many"
                )
            return other.to(values)

        return patch


def as_new_value(value: Any, place: Place) -> NewValue:
    """The function that a change stands for."""
    if isinstance(value, Change):
        return value.prepared(place)
    number = float(value)
    return lambda values, sends_relevance: torch.full_like(values[:1], number)


def contents_of(value: Any) -> list:
    """What a change was made with: numbers, tensors, the identity of a store."""
    found = list(vars(value).values()) if isinstance(value, Change) else [float(value)]
    return [each.identity() if isinstance(each, ReferenceStore) else each for each in found]


def check_value(value: Any, where: str) -> None:
    """Raise a TypeError for anything but a number or a change."""
    is_number = isinstance(value, (Real, np.number)) or isinstance(value, Tensor) and value.numel() == 1
    if isinstance(value, type) and issubclass(value, Change):
        raise TypeError(f"{where} is set to the class {value.__name__}: make one, {value.__name__}(...)")
    if isinstance(value, Change):
        return
    if not is_number or isinstance(value, bool):
        raise TypeError(
            f"{where} is set to a number, Scale, Shift, Mean, Resample or From (a whole layer also to Add), not to "
            f"{value!r}"
        )
    _check_number(where, float(value))


def _check_number(name: str, number: float) -> None:
    if not np.isfinite(number):
        raise ValueError(f"{name} is a finite number, not {number}")


def _along(axis: int, given: Tensor, values: Tensor) -> Tensor:
    """A value for each feature, on the axis of the features of ``values``."""
    shape = [1] * values.ndim
    shape[axis] = -1
    return given.view(shape)


def _scaled(values: Tensor, factor: Tensor | float, sends_relevance: bool) -> Tensor:
    if sends_relevance and carries(values):
        factor = torch.as_tensor(factor, dtype=values.dtype, device=values.device)
        return run_with_rule(Scaling(factor, values.shape), torch.mul, (values, factor), {})
    return values * factor


def _added(values: Tensor, summand: Tensor, sends_relevance: bool) -> Tensor:
    summand = summand.to(values)
    if sends_relevance and carries(values):
        rule = Addition([1.], summand, "parameters", stabilized, values.dtype)
        return run_with_rule(rule, torch.add, (values, summand), {})
    return values + summand


def _means_of_store(store: ReferenceStore, layer: str) -> np.ndarray:
    """[C], means over samples and positions."""
    entry = store.entry(layer)
    if entry.position_shape is None:
        raise ValueError(f"the store does not know how many positions {layer!r} has: give activations, Mean(tensor)")
    matrix = store.values(layer, "activation")
    total = np.zeros(matrix.shape[1])
    for block in matrix.blocks():
        total += block.sum(0, dtype=np.float64)
    return total / len(matrix) / entry.positions
