"""Conditions: what they may say, and the rows of a batch that they belong to."""
from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from crp.attribution.contrast import Contrast
from crp.concepts import Concept, EncodedConcept
from crp.concepts.base import Mask
from crp.concepts.ids import is_boolean
from crp.model.callbacks import call_as_taken
from crp.model.names import unknown_layer_message

MaskFunction: TypeAlias = Callable[..., Mask]
"""``(batch_id, concept_ids, layer_name) -> (relevance -> relevance)``."""
MaskMap: TypeAlias = Concept | MaskFunction | Mapping[str, Concept | MaskFunction]


def check_conditions(conditions: Any, output_name: str, y_needed: bool) -> list[dict]:
    """The conditions as a list of copies.

    Parameters
    ----------
    conditions : iterable of dict
    output_name : str
        The key of outputs, "y".
    y_needed : bool
        Whether each condition has to name outputs.

    Raises
    ------
    TypeError, ValueError
        If there are none, or they are no conditions.
    """
    if isinstance(conditions, Mapping) or not isinstance(conditions, Iterable):
        raise TypeError("conditions is a list of dicts, such as [{'layer4': [3], 'y': [0]}]")
    conditions = list(conditions)
    if not conditions:
        raise ValueError("conditions is empty: give at least one, such as [{'y': [0]}]")
    for condition in conditions:
        if not isinstance(condition, Mapping):
            raise TypeError(f"a condition is a dict, such as {{'layer4': [3], 'y': [0]}}, not {condition!r}")
        if y_needed and output_name not in condition:
            raise ValueError(
                f"the condition {condition} does not say where relevance starts: name outputs under "
                f"{output_name!r}, or give start_layer or init_rel"
            )
    return [{layer: copy.copy(ids) for layer, ids in condition.items()} for condition in conditions]


def layers_of(condition: Mapping, output_name: str) -> list[str]:
    """The layers that a condition names."""
    return [layer for layer in condition if layer != output_name]


def group_rows(conditions: Sequence[Mapping | None], output_name: str | None) -> list[list[int]]:
    """Rows whose conditions name the same layers in the same order; all rows together without ``output_name``.

    Rows without condition are left out.
    """
    groups: dict[tuple, list[int]] = {}
    for row, condition in enumerate(conditions):
        if condition is not None:
            layers = () if output_name is None else tuple(layers_of(condition, output_name))
            groups.setdefault(layers, []).append(row)
    return list(groups.values())


def check_targets(conditions: Sequence[Mapping], output_name: str, shape: torch.Size) -> None:
    """Raise an IndexError if an output of this shape [B, ...] lacks a target."""
    for condition in conditions:
        for index in output_indices(condition.get(output_name, []), shape):
            for axis, (i, size) in enumerate(zip(index, shape[1:]), 1):
                if not -size <= i < size:
                    where = f" on axis {axis}" if len(shape) > 2 else ""
                    raise IndexError(f"target {i} is out of range: the outputs{where} are 0 to {size - 1}")


def output_indices(targets: Any, shape: torch.Size) -> list[tuple[int, ...]]:
    """Indices into the axes of the output [B, ...] after the first, from the ids under "y".

    Masks, slices and arrays mean what they mean in ``output[row][ids]``. A :class:`Contrast` has those of both sides.

    Raises
    ------
    TypeError
        If an id is neither an integer nor a tuple of integers.
    IndexError
        If the outputs do not have the axes of an id, or the shape of a mask.
    """
    if isinstance(targets, Contrast):
        return [*output_indices(targets.outputs, shape), *output_indices(targets.against, shape)]
    if isinstance(targets, slice):
        targets = range(*targets.indices(shape[1] if len(shape) > 1 else 1))
    targets = [targets] if isinstance(targets, (int, np.integer, np.bool_, *_ARRAYS)) else targets
    if not isinstance(targets, Iterable) or isinstance(targets, (str, Mapping)):
        raise TypeError(f"targets are integers or tuples of them, in a list; got {targets!r}")
    targets = list(targets)
    if len(shape) == 2 and all(type(target) is int for target in targets):  # quick, for sweeps have one in each row
        return [(target,) for target in targets]
    if len(targets) == 1 and is_boolean(targets[0]):
        return _indices_of_mask(np.atleast_1d(np.asarray(torch.as_tensor(targets[0]).cpu())), shape)
    if targets and all(is_boolean(target) and np.ndim(target) == 0 for target in targets):
        return _indices_of_mask(np.array([bool(target) for target in targets]), shape)
    return [_index_of(target, shape) for target in _flat(targets)]


def value_of_target(output: torch.Tensor, target: Any) -> torch.Tensor:
    """The outputs of one row [...] that "y" names, added up; less those against which a contrast is."""
    sides = ((target.outputs, 1), (target.against, -1)) if isinstance(target, Contrast) else ((target, 1),)
    total = output.new_zeros(())
    for chosen, sign in sides:
        for index in output_indices(chosen, torch.Size((1, *output.shape))):
            total = total + sign * output[index].sum()
    return total


def _indices_of_mask(mask: np.ndarray, shape: torch.Size) -> list[tuple[int, ...]]:
    outputs = tuple(shape[1:]) or (1,)
    if mask.shape != outputs[:mask.ndim]:
        raise IndexError(f"a mask of outputs has their shape {outputs}, not {mask.shape}")
    return [_index_of(tuple(index), shape) for index in np.argwhere(mask).tolist()]


def _flat(targets: list) -> Iterator:
    """The targets, and those that arrays among them hold."""
    for target in targets:
        if isinstance(target, _ARRAYS) and not is_boolean(target):
            yield from target.reshape(-1).tolist()
        else:
            yield target


_ARRAYS = torch.Tensor, np.ndarray


def _index_of(target: Any, shape: torch.Size) -> tuple[int, ...]:
    index = target if isinstance(target, tuple) else (target,)
    try:
        if any(map(is_boolean, index)):
            raise TypeError
        index = tuple(operator.index(i) for i in index)
    except TypeError:
        raise TypeError(
            f"a target is an integer or a tuple of them, or all are Booleans, one for each output; not {target!r}"
        ) from None
    if len(shape) == 1 and index == (0,):
        index = ()
    if len(index) > len(shape) - 1:
        raise IndexError(f"target {target!r} has more indices than the output has axes: {tuple(shape)}")
    return index


def one_at_the_largest(output: torch.Tensor) -> torch.Tensor:
    """Relevance to start with: 1 at the largest entry of each row of an output [B, ...], 0 elsewhere."""
    flat = output.flatten(1) if output.ndim > 1 else output[:, None]
    return torch.zeros_like(flat).scatter_(1, flat.argmax(1, keepdim=True), 1).view(output.shape)


def value_of_the_largest(output: torch.Tensor) -> torch.Tensor:
    """Relevance to start with: the largest entry of each row of an output [B, ...], 0 elsewhere."""
    return output * one_at_the_largest(output)


def concepts_of(mask_map: Any, layers: Iterable[str]) -> dict[str, Any]:
    """The concepts of a ``mask_map``, by layer; or its functions, where those belong to none."""
    mask_map = _from_pairs(mask_map)
    masks = {layer: mask_map.get(layer) if isinstance(mask_map, Mapping) else mask_map for layer in layers}
    return {layer: getattr(mask, "__self__", mask) for layer, mask in masks.items()}


def codings_of(concepts: Mapping[str, Any]) -> dict[str, EncodedConcept]:
    """The concepts that put a code in the place of a layer's tensor."""
    return {layer: concept for layer, concept in concepts.items() if isinstance(concept, EncodedConcept)}


def counted_from_the_front(concepts: Mapping[str, Any]) -> list[str]:
    """Layers whose concepts have their axis after that of the samples, such as channels on axis 1."""
    axes = {layer: getattr(concept, "axis", getattr(concept, "feature_axis", 1)) for layer, concept in concepts.items()}
    return [layer for layer, axis in axes.items() if axis >= 0]


def mask_of(mask_map: Any, layer: str) -> MaskFunction:
    """The mask function for a layer."""
    mask_map = _from_pairs(mask_map)
    if isinstance(mask_map, Mapping):
        if layer not in mask_map:
            raise ValueError(f"mask_map: {unknown_layer_message(layer, mask_map)}")
        mask_map = mask_map[layer]
    if isinstance(mask_map, type) and issubclass(mask_map, Concept):
        raise TypeError(f"mask_map takes {mask_map.__name__}() or {mask_map.__name__}.mask, not the class")
    return mask_map.mask if isinstance(mask_map, Concept) else mask_map


def make_mask(mask_map: Any, layer: str, row: int, ids: Any) -> Mask:
    """The mask of a layer for one row, that lets some concepts pass."""
    return call_as_taken(mask_of(mask_map, layer), row, ids, layer_name=layer)


def _from_pairs(mask_map: Any) -> Any:
    """A mapping from pairs of layer and mask; anything else as it is."""
    return dict(mask_map) if isinstance(mask_map, (set, frozenset, list, tuple)) else mask_map


def select_rows(init_rel: Any, rows: list[int], count: int) -> Any:
    """The rows of a tensor that has one for each of ``count`` conditions; anything else as it is."""
    if isinstance(init_rel, torch.Tensor) and init_rel.ndim > 1 and len(init_rel) == count > 1:
        return init_rel[rows]
    return init_rel


def restoring_order(groups: list[list[int]]) -> list[int]:
    """Positions of rows 0, 1, 2, ... when the groups are joined."""
    return np.argsort([row for rows in groups for row in rows], kind="stable").tolist()


def merge_rows(parts: list, order: list[int]) -> Any:
    """Join equal structures of tensors along the batch axis, in a given order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)[order]
    if isinstance(first, Mapping):
        return {key: merge_rows([part[key] for part in parts], order) for key in first}
    if isinstance(first, tuple):
        merged = [merge_rows(list(items), order) for items in zip(*parts)]
        return type(first)(*merged) if hasattr(first, "_fields") else tuple(merged)
    return first
