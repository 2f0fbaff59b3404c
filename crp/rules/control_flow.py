"""PyTorch's functions that run other functions, step by step: so that each step is seen, and keeps its graph.

``torch.utils.checkpoint`` would run again in the backward pass, without rules; ``torch.vmap`` hides single samples;
``torch.cond`` and its like compile what they are given.
"""
from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from crp.rules.restoring import undone

_active = threading.local()
_lock = threading.RLock()
_users: set[object] = set()
_replaced: list[tuple[Any, str, Any]] = []


@contextmanager
def step_by_step() -> Iterator[None]:
    """Run what checkpoints, ``vmap`` and operators of control flow are given as Python would, in a context and thread.

    Other threads, which may be in such a context of their own, go on with PyTorch's functions.
    """
    user, here = object(), vars(_active).setdefault("users", set())

    def leave() -> None:
        here.discard(user)
        with _lock:
            _users.discard(user)
            if not _users:
                for original in reversed(_replaced):
                    setattr(*original)
                _replaced.clear()

    with undone(leave):
        with _lock:
            if not _users:
                _replace()
            _users.add(user)
        here.add(user)
        yield


def _is_active() -> bool:
    return bool(vars(_active).get("users"))


def _replace() -> None:
    for module_name, names in _REPLACEMENTS.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # in another version of PyTorch
            continue
        for name in names.keys() & vars(module).keys():
            original = getattr(module, name)
            _replaced.append((module, name, original))
            setattr(module, name, _Choice(original, names[name]))


class _Choice:
    """A function, or a class of ``torch.autograd`` functions, that is replaced in threads that run step by step."""

    def __init__(self, original: Any, replacement: Callable):
        self._original, self._replacement = original, replacement

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._replacement if _is_active() else self._original)(*args, **kwargs)

    def apply(self, *args: Any) -> Any:
        """Of a function of ``torch.autograd``."""
        return (self._replacement if _is_active() else self._original.apply)(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


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
    state = torch.get_rng_state() if randomness == "same" else None
    results = []
    for row in rows:
        if state is not None:
            torch.set_rng_state(state)
        results.append(pytree.tree_flatten(function(*pytree.tree_unflatten(row, spec), **kwargs)))
    structure = results[0][1]
    of_outputs = pytree._broadcast_to_and_flatten(out_dims, structure)
    if of_outputs is None:
        raise ValueError(f"vmap: out_dims={out_dims!r} do not fit what the function gives: {structure}")
    stacked = [
        parts[0] if dim is None else torch.stack(parts, dim).narrow(dim, 0, size)
        for parts, dim in zip(zip(*(leaves for leaves, _ in results)), of_outputs)
    ]
    return pytree.tree_unflatten(stacked, structure)


def _cond(chosen: Any, if_true: Callable, if_false: Callable, operands: Sequence[Any] = ()) -> Any:
    return (if_true if chosen else if_false)(*operands)


def _while_loop(condition: Callable, body: Callable, carried: Sequence[Any], others: Sequence[Any] = ()) -> Any:
    while condition(*carried, *others):
        carried = body(*carried, *others)
    return carried


def _scan(combine: Callable, carry: Sequence[Tensor], xs: Sequence[Tensor], others: Sequence[Any] = ()) -> Any:
    outputs = []
    for i in range(len(xs[0])):
        carry, output = combine(*pytree.tree_leaves(carry), *(x[i] for x in xs), *others)
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
        "CheckpointFunction": _call, "_checkpoint_without_reentrant_generator": _nothing,
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
