"""Undoing what is done for a while, whenever an interrupt comes.

Python raises a KeyboardInterrupt between almost any two steps: also of undoing, or when a context has been entered but
its body has not begun, or on its way out. Contexts that it skipped end when the traceback is forgotten, which may be
long after. So there is one frame around each call, which ends them before it undoes the rest.
"""
from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import is_
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import hooks
from zennit.core import Hook

from crp.model.inputs import gradient_mode

Result = TypeVar("Result")
Undo = Callable[[], Any]

_ATTEMPTS = (1, 2, 3)


def undoing(*undo: Undo) -> Generator[None, None, None]:
    """Begun with ``next``, waits; closed, calls functions, and again if it is interrupted meanwhile.

    Frames that nothing else surrounds begin it within ``try`` and close it in ``finally``: either is a single step,
    while a ``with`` statement leaves gaps.

    Parameters
    ----------
    *undo : callable
        Each can be called again, also when it has been interrupted.
    """
    handled = sys.exception()
    try:
        yield
    finally:
        interrupt = None
        errors: list[BaseException] = []  # no call stands here, of which an interrupt could come
        for _ in _ATTEMPTS:
            try:
                errors = _errors_since(handled, interrupt or sys.exception())
                _end_skipped_contexts(errors)
                _call_all(undo)
                break
            except BaseException as error:
                interrupt = error
        interrupt = interrupt or _hidden_interrupt(errors)
        handled, errors = None, []  # their tracebacks refer to this frame
        if interrupt is not None:
            raise interrupt


def _call_all(functions: Iterable[Undo]) -> None:
    """Call each, also where one fails; then raise what the first raised."""
    errors = []
    for function in functions:
        try:
            function()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


undone = contextmanager(undoing)
"""The same as a context, for use within what :func:`run_undone` runs."""


def run_undone(function: Callable[[], Result], *undo: Undo) -> Result:
    """Run a function and undo what it leaves, whenever an interrupt comes.

    Parameters
    ----------
    function : callable
    *undo : callable
        As for :func:`undoing`; beside the state of the thread.
    """
    guard = undoing(ThreadState().restore, *undo)
    try:
        next(guard)
        return function()
    finally:
        guard.close()


def in_gradient_mode(function: Callable[[], Result]) -> Result:
    """Run a function whose results may have gradients, in any mode of the caller."""
    def run() -> Result:
        with gradient_mode():
            return function()

    return run_undone(run)


def _errors_since(handled: BaseException | None, error: BaseException | None) -> list[BaseException]:
    """An error and those before it, without what had been raised before the call."""
    errors: list[BaseException] = []
    while error is not None and error is not handled and error not in errors:
        errors.append(error)
        error = error.__context__
    return errors


def _is_interrupt(error: BaseException) -> bool:
    return not isinstance(error, (Exception, GeneratorExit))


def _end_skipped_contexts(errors: list[BaseException]) -> None:
    """End the contexts that an interrupt has skipped: only tracebacks refer to them."""
    for error in errors if any(map(_is_interrupt, errors)) else ():
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals.get("__name__", "").partition(".")[0] in _WITH_CONTEXTS:
                with suppress(RuntimeError):  # of frames that run
                    frame.clear()


def _hidden_interrupt(errors: list[BaseException]) -> BaseException | None:
    """The interrupt of which contexts of others made an error on their way out."""
    raised = [error for error in errors if not isinstance(error, GeneratorExit)]
    if not raised or _is_interrupt(raised[0]) or raised[0].__suppress_context__:
        return None
    return next(filter(_is_interrupt, raised), None)


_WITH_CONTEXTS = {"contextlib", "crp", "torch", "zennit"}


class FunctionMode(TorchFunctionMode):
    """A mode that leaves the stack only once, where an interrupt has taken it off."""

    def __exit__(self, *exception: Any) -> None:
        if function_modes()[-1:] == [self]:
            super().__exit__(*exception)


def function_modes() -> list[TorchFunctionMode]:
    """The modes for functions of PyTorch that are active in this thread, the innermost last."""
    return [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]


class ThreadState:
    """What PyTorch's contexts change in a thread, as it is now."""

    def __init__(self) -> None:
        self._modes, self._has_gradients = function_modes(), torch.is_grad_enabled()
        self._transforms = _count_transforms()

    def restore(self) -> None:
        """Make it so again."""
        if _count_transforms() != self._transforms:
            torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(self._transforms)
        if function_modes() != self._modes:
            while function_modes():
                torch._C._pop_torch_function_stack()
            for mode in self._modes:
                torch._C._push_on_torch_function_stack(mode)
        if torch.is_grad_enabled() != self._has_gradients:
            torch._C._set_grad_enabled(self._has_gradients)


# of functions, such as by torch.vmap; none where PyTorch does not tell
_count_transforms: Callable[[], int] = getattr(torch._C._functorch, "get_dynamic_layer_stack_depth", int)


class HookState:
    """The hooks of zennit and of this package on a model, as they are now."""

    def __init__(self, model: nn.Module):
        self._model, self._first_new = model, hooks.RemovableHandle.next_id

    def restore(self) -> None:
        """Remove those that have come since."""
        for module in self._model.modules():
            for registered, *options in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
                (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called),
            ):
                if registered or any(options):
                    self._remove_new(registered, options)

    def _remove_new(self, registered: dict[int, Callable], options: list[dict[int, bool]]) -> None:
        for key in [key for key, hook in registered.items() if key >= self._first_new and _is_of_rules(hook)]:
            del registered[key]
        for option in options:
            for key in [key for key in option if key >= self._first_new and key not in registered]:
                del option[key]


@contextmanager
def without_hooks_of_rules(model: nn.Module) -> Iterator[None]:
    """Run a model as it is without the hooks of zennit and of this package, which users may have registered."""
    taken = [
        (registered, dict(registered))
        for module in model.modules() for registered in (module._forward_pre_hooks, module._forward_hooks)
        if any(map(_is_of_rules, registered.values()))
    ]

    def put_back() -> None:
        for registered, before in taken:
            new = {key: hook for key, hook in registered.items() if key not in before}
            registered.clear()
            registered.update({**before, **new})

    with undone(put_back):
        for registered, before in taken:
            for key, hook in before.items():
                if _is_of_rules(hook):
                    del registered[key]
        yield


def _is_of_rules(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    owner = getattr(hook, "__self__", hook)
    package = getattr(owner, "__module__", "").partition(".")[0]
    return isinstance(owner, Hook) or package in ("crp", "zennit")


class BufferState:
    """The values of a model's buffers, as they are now."""

    def __init__(self, model: nn.Module):
        self._values = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def restore(self) -> None:
        """Make it so again."""
        for buffer, value in self._values:
            buffer.data.copy_(value)


class TensorState:
    """Which parameters of a model require gradients, and in train mode the values of its buffers, as they are now."""

    def __init__(self, model: nn.Module):
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buffers = BufferState(model) if model.training else None

    def restore(self) -> None:
        """Make it so again."""
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        if self._buffers is not None:
            self._buffers.restore()


class AttributeState:
    """What dictionaries of attributes hold now.

    Parameters
    ----------
    found : iterable of dict
    """

    def __init__(self, found: Iterable[dict[str, Any]]):
        self._held: list[tuple[dict[str, Any], dict[str, Any], list[str] | None]] = [
            (held, dict(held), None) for held in found
        ]

    def leave_later_changes(self) -> None:
        """Restore only what has changed until now."""
        self._held = [
            (held, before, changed) for held, before, _ in self._held if (changed := _changed(held, before))
        ]

    def restore(self) -> None:
        """Make it so again."""
        for held, before, changed in self._held:
            for name in _changed(held, before) if changed is None else changed:
                if name in before:
                    held[name] = before[name]
                else:
                    held.pop(name, None)
            if [name for name in held if name in before] != list(before):  # parameters have an order
                for name, value in before.items():
                    held[name] = held.pop(name, value)


def _changed(held: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Names that are missing, new or stand for something else."""
    if len(held) == len(before) and all(map(is_, held, before)) and all(map(is_, held.values(), before.values())):
        return []  # for which one need not look at each name
    missing = object()
    changed = [name for name, value in before.items() if held.get(name, missing) is not value]
    return [*changed, *(held.keys() - before.keys())]


class ModuleState:
    """What a composite changes of the modules of a model, as it is now.

    Parameters
    ----------
    model : torch.nn.Module
    only_rules : bool, default False
        Take notice of the parameters that rules replace for a while, not of what canonizers may change as well:
        attributes, the memory of tensors, and parameters that they have hidden behind attributes.
    """

    def __init__(self, model: nn.Module, only_rules: bool = False):
        modules = [
            module for module in model.modules() if not (only_rules and module._parameters.keys() & vars(module).keys())
        ]
        canonized = [] if only_rules else modules
        self.attributes = AttributeState(
            held for module in canonized for held in (vars(module), module._buffers, module._modules)
        )
        self._parameters = AttributeState(module._parameters for module in modules)
        self._names = [(module, {*module._parameters, *module._buffers} - vars(module).keys()) for module in modules]
        tensors = (x for module in canonized for held in (module._parameters, module._buffers) for x in held.values())
        self._data = [(x, x.data, _memory(x)) for x in tensors if x is not None and x.layout == torch.strided]

    def restore(self) -> None:
        """Make it so again, but for attributes that have changed later."""
        self.attributes.restore()
        self._parameters.restore()
        for module, names in self._names:
            for name in names & vars(module).keys():  # zennit 1.0 hides parameters behind attributes of the same name
                vars(module).pop(name, None)
        for tensor, data, memory in self._data:
            if _memory(tensor) != memory:
                tensor.data = data


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()
