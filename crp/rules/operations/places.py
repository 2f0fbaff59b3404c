"""Where in the user's code an operation was called, and its name there."""
from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch
import zennit

import crp

_LIBRARIES = tuple(package.__path__[0] + os.sep for package in (torch, crp, zennit))


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
        return getattr(getattr(function, "__self__", None), "__name__", name)
    return name.strip("_") or name


def warn_of_cast(kind: torch.dtype, place: str | None = None) -> None:
    """Say that relevance ends where real numbers become integers."""
    warn_of_loss(f"a cast to {kind}", "integers carry none, unless they look something up", place)


def warn_of_gradient(function: Callable, reason: str) -> None:
    """Say that relevance passes an operation by its gradient, and what to do."""
    place = source_line()
    warnings.warn(
        f"relevance passes {operation_name(function)}{f' ({place})' if place else ''} by its gradient, which is no "
        f"relevance: {reason}. crp.rules.register_rule gives it a rule", stacklevel=2,
    )


def warn_of_loss(name: str, reason: str, place: str | None = None) -> None:
    """Say that relevance ends at an operation, in the line that is running or another one."""
    place = source_line() if place is None else place
    warnings.warn(f"relevance ends at {name}{f' ({place})' if place else ''}: {reason}", stacklevel=2)
