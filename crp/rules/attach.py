"""Attaching rules to a model for a while, and leaving no trace."""
from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from zennit.core import Composite, Hook, RemovableHandleList
from zennit.rules import Pass
from zennit.types import Linear

from crp.rules.operations.elementwise import maps_single_elements
from crp.rules.replacement import PassThrough
from crp.rules.restoring import HookState, ModuleState, Result, Undo, run_undone, undone

_in_use: weakref.WeakKeyDictionary[nn.Module, object] = weakref.WeakKeyDictionary()
_attached: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def check_supported(model: nn.Module) -> None:
    """Raise a TypeError for anything but a module of PyTorch that runs as it is written, in floating point."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a torch.nn.Module, not {type(model).__name__}")
    for name, module in model.named_modules():
        place = f"module {name!r}" if name else "the model"
        kind = f"{type(module).__module__}.{type(module).__name__}"
        if kind == "torch._dynamo.eval_frame.OptimizedModule":
            raise TypeError(f"{place} is compiled, which hides what happens in it: use the original, ._orig_mod")
        if getattr(module, "_compiled_call_impl", None) is not None:
            raise TypeError(f"{place} is compiled, which hides what happens in it: use a model before .compile()")
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"{place} is a script, which hides what happens in it: use the model that was scripted")
        weight = getattr(module, "weight", None) if isinstance(module, Linear) else None
        is_integer = isinstance(weight, torch.Tensor) and not weight.is_floating_point()
        if is_integer or ".quantized." in kind or kind.startswith("torchao."):
            raise TypeError(
                f"{place} is quantised ({kind}): relevance needs floating-point weights, such as those of the model "
                "before quantisation"
            )


class ExclusiveUse:
    """Lets nobody else attribute a model from begin to end, in any thread; in the end, no hook of rules is new there.

    Parameters
    ----------
    model : torch.nn.Module
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._hooks: HookState | None = None

    def begin(self) -> None:
        """Raise a RuntimeError if somebody uses the model already."""
        if _in_use.setdefault(self._model, self) is not self:
            raise RuntimeError(_IN_USE)
        self._hooks = HookState(self._model)

    def end(self) -> None:
        """Do nothing if it has not begun."""
        if _in_use.get(self._model) is self:
            if self._hooks is not None:
                self._hooks.restore()
            del _in_use[self._model]


def run_exclusively(model: nn.Module, function: Callable[[], Result], *undo: Undo) -> Result:
    """Run a function that nobody else attributes a model meanwhile, and undo what it leaves.

    Parameters
    ----------
    model : torch.nn.Module
    function : callable
    *undo : callable
        As for :func:`crp.rules.restoring.undoing`.

    Raises
    ------
    RuntimeError
        If somebody uses the model already.
    """
    use = ExclusiveUse(model)

    def run() -> Result:
        use.begin()
        return function()

    return run_undone(run, *undo, use.end)


def is_in_use(model: nn.Module) -> bool:
    """Whether an attribution is using a model, in any thread."""
    return model in _in_use


def check_not_in_use(model: nn.Module) -> None:
    """Raise a RuntimeError if an attribution is using a model."""
    if is_in_use(model):
        raise RuntimeError(_IN_USE)


_IN_USE = (
    "another attribution is using this model: finish or close its generate() first; threads need a copy of the model "
    "each"
)


def check_registered(model: nn.Module, composite: Composite | None) -> None:
    """Raise a ValueError if other rules than those of a composite would act on a model.

    Without a composite, those act that users have registered themselves.
    """
    if composite is not None or model in _attached:
        check_nothing_registered(model, composite)


def check_nothing_registered(model: nn.Module, composite: Composite | None = None) -> None:
    """Raise a ValueError if a composite is registered on the model, or this one on any."""
    if composite is not None and not isinstance(composite, Composite):
        hint = f"; did you mean {composite.__name__}()?" if isinstance(composite, type) else ""
        raise TypeError(f"composite is an instance of zennit.core.Composite, not {composite!r}{hint}")
    for module_name, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any(isinstance(getattr(hook, "__self__", None), Hook) for hook in hooks):
            raise ValueError(
                f"a composite is still registered (on {module_name or 'the model'}), so its rules would act twice: "
                "call composite.remove() or leave its context (or finish the generate() that uses it) first"
            )
    if composite is not None and len(composite.handles) > 0:
        raise ValueError("the composite is still registered on another model: call composite.remove() first")


def freeze_parameters(model: nn.Module) -> None:
    """Let no parameter require gradients."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.requires_grad_(False)


def own_copy(composite: Composite) -> Composite:
    """A composite with the same rules and canonizers, to be registered beside it."""
    copied = copy.copy(composite)
    copied.handles, copied.hook_refs = RemovableHandleList(), weakref.WeakSet()
    return copied


@contextmanager
def registered(composite: Composite, model: nn.Module) -> Iterator[None]:
    """Like ``composite.context``, but nothing stays on the model, also where registering fails half-way.

    The composite itself is left alone, so that threads can share it.
    """
    composite = own_copy(composite)
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        composite = _without_attention(composite)
    state = ModuleState(model, not composite.canonizers and type(composite).register is Composite.register)
    with undone(state.restore, lambda: _attached.discard(model)):
        try:
            _attached.add(model)
            composite.register(model)
            state.attributes.leave_later_changes()
            yield
        finally:
            composite.remove()


def pass_activations(model: nn.Module) -> None:
    """Let relevance pass modules that are activations but not of PyTorch's kinds, by what they do."""
    for module in model.modules():
        if not type(module).__module__.startswith("torch.") and _is_elementwise_function(module):
            PassThrough().register(module)


def _is_elementwise_function(module: nn.Module) -> bool:
    """Whether a module without parts or parameters maps each element by itself."""
    if module._modules or module._parameters or module._buffers or module._forward_pre_hooks or module.training:
        return False
    return maps_single_elements(module.forward)


def _without_attention(composite: Composite) -> Composite:
    """The composite, less the rule for activations that zennit gives to nn.MultiheadAttention, where it fails.

    PyTorch keeps that module with the activations; its three inputs do not fit the rule. Gradients flow instead.
    """
    def module_map(context: dict, name: str, module: nn.Module) -> Hook | None:
        rule = composite.module_map(context, name, module)
        return None if isinstance(module, nn.MultiheadAttention) and type(rule) is Pass else rule

    return Composite(module_map, composite.canonizers)
