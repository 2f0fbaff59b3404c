"""PyTorch's functions that run other functions, step by step: so that each step is seen, and keeps its graph.

``torch.utils.checkpoint`` would run again in the backward pass, without rules; ``torch.vmap`` hides single samples;
``torch.cond`` and its like compile what they are given.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@contextmanager
def step_by_step() -> Iterator[None]:
    """Run what checkpoints, ``vmap`` and operators of control flow are given as Python would, within a context."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for module_name, names in _REPLACEMENTS.items():
            try:
                module = importlib.import_module(module_name)
            except ImportError:  # in another version of PyTorch
                continue
            for name in names.keys() & vars(module).keys():
                replaced.append((module, name, getattr(module, name)))
                setattr(module, name, names[name])
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def _call(function: Callable, preserve_rng_state: bool, *args: Any) -> Any:
    return function(*args)


def _nothing(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


def _vmap(
    function: Callable, size: int, dims: Sequence[int | None], args: Sequence[Any], spec: Any, out_dims: Any,
    randomness: str, **kwargs: Any,
) -> Any:
    rows = [[arg if dim is None else arg.select(dim, i) for arg, dim in zip(args, dims)] for i in range(size)]
    if size == 0:
        rows = [[arg if dim is None else arg.new_zeros(1).expand(arg.movedim(dim, 0).shape[1:])
                 for arg, dim in zip(args, dims)]]
    results = [pytree.tree_flatten(function(*pytree.tree_unflatten(row, spec), **kwargs)) for row in rows]
    structure = results[0][1]
    of_outputs = pytree._broadcast_to_and_flatten(out_dims, structure) or []
    stacked = [torch.stack(parts, dim) for parts, dim in zip(zip(*(leaves for leaves, _ in results)), of_outputs)]
    return pytree.tree_unflatten([x.narrow(dim, 0, size) for x, dim in zip(stacked, of_outputs)], structure)


def _cond(chosen: Any, if_true: Callable, if_false: Callable, operands: Sequence[Any] = ()) -> Any:
    return (if_true if chosen else if_false)(*operands)


def _while_loop(condition: Callable, body: Callable, carried: Sequence[Any], others: Sequence[Any] = ()) -> Any:
    while condition(*carried, *others):
        carried = body(*carried, *others)
    return carried


def _scan(combine: Callable, carry: Sequence[Tensor], xs: Sequence[Tensor], others: Sequence[Any] = ()) -> Any:
    outputs = []
    for i in range(len(xs[0])):
        result, output = combine(*pytree.tree_leaves(carry), *(x[i] for x in xs), *others)
        carry = result
        outputs.append(output)
    return carry, _stacked(outputs)


def _associative_scan(combine: Callable, xs: Sequence[Tensor], additional_inputs: Sequence[Any] = ()) -> Any:
    outputs = [[x[0] for x in xs]]
    for i in range(1, len(xs[0])):
        outputs.append(pytree.tree_leaves(combine(*outputs[-1], *(x[i] for x in xs), *additional_inputs)))
    return _stacked(outputs)


def _map(function: Callable, xs: Sequence[Tensor], others: Sequence[Any] = ()) -> Any:
    return _stacked([function(*(x[i] for x in xs), *others) for i in range(len(xs[0]))])


def _stacked(outputs: list[Any]) -> Any:
    return pytree.tree_map(lambda *parts: torch.stack(parts), *outputs)


def _run(function: Callable, args: Sequence[Any], kwargs: dict[str, Any] | None = None) -> Any:
    return function(*args, **(kwargs or {}))


_REPLACEMENTS: dict[str, dict[str, Any]] = {
    "torch.utils.checkpoint": {
        "CheckpointFunction": SimpleNamespace(apply=_call), "_checkpoint_without_reentrant_generator": _nothing,
        "_checkpoint_without_reentrant_generator_impl": _nothing,
    },
    "torch._functorch.vmap": {"_flat_vmap": _vmap},
    "torch._higher_order_ops.utils": {"_hop_compile_and_call": _run},
    "torch._higher_order_ops.cond": {"cond_op": _cond},
    "torch._higher_order_ops.while_loop": {"while_loop_op": _while_loop},
    "torch._higher_order_ops.scan": {"scan_op": _scan},
    "torch._higher_order_ops.associative_scan": {"associative_scan_op": _associative_scan},
    "torch._higher_order_ops.map": {"map_impl": _map},
}
