"""Operations that no module with a rule performs, seen while a model runs."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import zennit
from torch import nn
from torch.overrides import TorchFunctionMode
from zennit.core import Hook, RemovableHandleList

import crp

_LIBRARIES = tuple(str(Path(package.__file__).parent) + os.sep for package in (torch, crp, zennit))


class OperationMode(TorchFunctionMode):
    """Sees the functional operations of a model that runs within its context.

    It steps aside inside a module that carries a rule, which is then one operation, and inside functions of
    ``torch.autograd.Function``. To be entered when rules are attached.

    Parameters
    ----------
    model : torch.nn.Module

    Attributes
    ----------
    modules : list of (str, torch.nn.Module)
        The modules that are running, the innermost last.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.modules: list[tuple[str, nn.Module]] = []
        self._rules: list[nn.Module] = []
        self._handles = RemovableHandleList()

    def on_operation(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """What a functional operation gives."""
        return function(*args, **kwargs)

    def before_rule(self, name: str, module: nn.Module, rule: Hook, args: tuple, kwargs: dict) -> None:
        """Called when a module with a rule begins."""

    def after_rule(self, output: Any) -> None:
        """Called when it has ended."""

    def __enter__(self) -> OperationMode:
        for name, module in self.model.named_modules():
            self._handles += [
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, name=name: self._enter_module(name, module, args, kwargs),
                    prepend=True, with_kwargs=True,
                ),
                module.register_forward_hook(lambda module, args, output: self._leave_module(module, output)),
            ]
        return super().__enter__()

    def __exit__(self, *exception):
        self._handles.remove()
        return super().__exit__(*exception)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return function(*args, **kwargs) if self._rules else self.on_operation(function, args, kwargs)

    def _enter_module(self, name, module, args, kwargs):
        self.modules.append((name, module))
        rule = rule_of(module)
        if rule is None:
            return
        self._rules.append(module)
        if len(self._rules) == 1:
            self.before_rule(name, module, rule, args, kwargs)

    def _leave_module(self, module, output):
        if rule_of(module) is not None:
            if len(self._rules) == 1:
                self.after_rule(output)
            self._rules.pop()
        self.modules.pop()


def rule_of(module: nn.Module) -> Hook | None:
    """The first of zennit's hooks, or ours, on a module."""
    owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Hook)), None)


def source_line() -> str:
    """Where the code that is running called a library: ``file.py:line``; empty if a library called itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        if frame.f_code.co_name == "call_model":
            return ""
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def operation_name(function: Callable) -> str:
    """Name of a function as its users write it, such as ``add`` for ``Tensor.__add__``."""
    name = getattr(function, "__name__", str(function))
    if name == "__get__":  # a property of tensors
        return getattr(function.__self__, "__name__", name)
    return name.strip("_") or name
