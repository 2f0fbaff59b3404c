"""Changes to what layers give, which stand on a model for a while.

Hooks make them when the model is called. An attribution makes them itself, where rules and readers of layers are in
their right order, and what only looks at how a model is built runs it without them.
"""
from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from crp.model.layers import LayerAddress


@dataclass(eq=False)
class Edit:
    """A change to the tensor at an address, in the thread that made it.

    Attributes
    ----------
    address : LayerAddress
    change : callable
        ``(tensor, sends_relevance) -> tensor``; with True, what comes back through it is relevance.
    says : object
        What it does, in values that tell it from other edits.
    calls : int
        How often it was made.
    """

    address: LayerAddress
    change: Callable[[torch.Tensor, bool], torch.Tensor]
    says: Any = None
    calls: int = 0
    thread: int = field(default_factory=threading.get_ident)

    def __call__(self, tensor: torch.Tensor, sends_relevance: bool = False) -> torch.Tensor:
        """The changed tensor; the same in other threads, and where edits stand aside."""
        if self.thread != threading.get_ident() or _aside.count and not sends_relevance:
            return tensor
        return self.make(tensor, sends_relevance)

    def make(self, tensor: torch.Tensor, sends_relevance: bool) -> torch.Tensor:
        """The changed tensor."""
        self.calls += 1
        return self.change(tensor, sends_relevance)


class _Aside(threading.local):
    count = 0


_aside = _Aside()
_edits: weakref.WeakKeyDictionary[nn.Module, list[Edit]] = weakref.WeakKeyDictionary()


def put_down(edits: Iterable[Edit]) -> None:
    """Note edits that stand on modules."""
    for edit in edits:
        _edits.setdefault(edit.address.module, []).append(edit)


def take_up(edits: Iterable[Edit]) -> None:
    """Forget edits; those that are not noted are not missed."""
    for edit in edits:
        of_module = _edits.get(edit.address.module, [])
        if edit in of_module:
            of_module.remove(edit)


def edits_of(model: nn.Module) -> list[tuple[str, Edit]]:
    """The edits of this thread that stand on a model's modules, with addresses in this model; earlier ones first."""
    found = []
    for name, module in model.named_modules() if _edits else ():
        for edit in _edits.get(module, ()):
            if edit.thread == threading.get_ident():
                part = edit.address.layer[len(edit.address.module_name):]
                found.append((name + part, edit))
    return found


@contextmanager
def without_edits() -> Iterator[None]:
    """Run models without the edits that stand on them, in this thread."""
    _aside.count += 1
    try:
        yield
    finally:
        _aside.count -= 1
