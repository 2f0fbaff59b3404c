"""Attaching rules to a model for a while, and leaving no trace."""
from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from zennit.core import Composite, Hook, RemovableHandleList
from zennit.rules import Pass
from zennit.types import Linear

from crp.rules.operations.elementwise import maps_single_elements
from crp.rules.replacement import PassThrough

_in_use: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_in_use_lock = threading.Lock()


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


def is_in_use(model: nn.Module) -> bool:
    """Whether an attribution is using a model, in any thread."""
    with _in_use_lock:
        return model in _in_use


@contextmanager
def exclusive_use(model: nn.Module) -> Iterator[None]:
    """Let nobody else attribute a model within the context, in any thread.

    Raises
    ------
    RuntimeError
        If somebody does already.
    """
    with _in_use_lock:
        if model in _in_use:
            raise RuntimeError(
                "another attribution is using this model: finish or close its generate() first; "
                "threads need a copy of the model each"
            )
        _in_use.add(model)
    try:
        yield
    finally:
        _in_use.discard(model)


@contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """Undo what a forward pass in train mode does to buffers, such as running means."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()] if model.training else []
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)


@contextmanager
def restored_attributes(found: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Put back what dictionaries of attributes held before."""
    held = [(attributes, dict(attributes)) for attributes in found]
    try:
        yield
    finally:
        for attributes, before in held:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)


def check_nothing_registered(model: nn.Module, composite: Composite | None) -> None:
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


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Let no parameter require gradients within the context."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def registered(composite: Composite, model: nn.Module) -> Iterator[None]:
    """Like ``composite.context``, but nothing stays on the model, also where registering fails half-way."""
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        composite = _without_attention(composite)
    modules = [(module, dict(module._parameters), set(vars(module))) for module in model.modules()]
    dense = (tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.layout == torch.strided)
    tensors = [(tensor, tensor.data) for tensor in dense]
    try:
        composite.register(model)
        yield
    finally:
        composite.remove()
        for tensor, data in tensors:
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
        for module, parameters, attributes in modules:
            # zennit 1.0's canonizers hide parameters behind attributes of the same name
            for name in (parameters.keys() | module._buffers.keys()) & (vars(module).keys() - attributes):
                del vars(module)[name]
            module._parameters.clear()
            module._parameters.update(parameters)


@contextmanager
def passing_activations(model: nn.Module) -> Iterator[None]:
    """Let relevance pass modules that are activations but not of PyTorch's kinds, by what they do."""
    handles = RemovableHandleList([
        PassThrough().register(module) for module in model.modules()
        if not type(module).__module__.startswith("torch.") and _is_elementwise_function(module)
    ])
    try:
        yield
    finally:
        handles.remove()


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
