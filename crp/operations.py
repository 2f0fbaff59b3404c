"""Functional operations of a model, seen while it runs and given the rules that relevance needs there."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import zennit
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from zennit.core import Composite, Hook, RemovableHandleList, Stabilizer
from zennit.layer import Sum

import crp
from crp import attention
from crp.functional_modules import as_module
from crp.layers import flatten_tensors
from crp.operation_rules import (
    RULES,
    SOFTMAX,
    Operation,
    OperationRule,
    carries,
    mark_constant_factor,
    normalises,
    run_with_rule,
)
from crp.rules import stabilizer_of
from crp.stabilizers import FastStabilizer

_LIBRARIES = tuple(str(Path(package.__file__).parent) + os.sep for package in (torch, crp, zennit))


ATTENTION = ("attnlrp", "cp-lrp")


class OperationRules:
    """The rules that functional operations get beside a composite.

    Linear operations, convolutions and pooling get the composite's rule for such a module; the others those of
    :mod:`crp.operation_rules`, with the composite's stabilizer.

    Parameters
    ----------
    composite : zennit.core.Composite
    model : torch.nn.Module
        On which it is registered.
    attention : {"attnlrp", "cp-lrp"}
        Whether relevance passes the softmax of attention, or all of it goes to the values.
    copy : bool, default False
        Let rules read copies of their inputs, for models that write to these later.
    """

    def __init__(self, composite: Composite, model: nn.Module, attention: str = "attnlrp", copy: bool = False):
        self.composite, self.attention, self.copy = composite, attention, copy
        self.context: dict = {}
        for name, module in model.named_modules():
            composite.module_map(self.context, name, module)
        rules = [composite.module_map(dict(self.context), "", module) for module in (Sum(), nn.Linear(1, 1))]
        found = (stabilizer_of(rule) for rule in rules if isinstance(rule, Hook))
        self.stabilize = FastStabilizer(next((stabilizer for stabilizer in found if stabilizer), Stabilizer(1e-6)))

    def rule_of(self, operation: Operation) -> OperationRule | None:
        """The rule of an operation; None where gradients are right, or nothing better is known."""
        choose = RULES.get(operation.function)
        return choose(operation) if choose is not None else None

    def is_constant_factor(self, operation: Operation) -> bool:
        """Whether what an operation gives counts as a constant where it is a factor."""
        return normalises(operation) or self.attention == "cp-lrp" and operation.function in SOFTMAX


class OperationMode(TorchFunctionMode):
    """Sees the functional operations of a model that runs within its context, and gives them rules.

    It steps aside inside a module that carries a rule, which is then one operation, and inside functions of
    ``torch.autograd.Function``. A module whose parameters another module uses by itself, as PyTorch's attention does,
    is called as the module that it is. To be entered when rules are attached.

    Parameters
    ----------
    model : torch.nn.Module
    rules : OperationRules, optional
        Without them operations are seen only.

    Attributes
    ----------
    modules : list of (str, torch.nn.Module)
        The modules that are running, the innermost last.
    temporary : zennit.core.RemovableHandleList
        Rules of functional operations; to be removed after the last backward pass.
    """

    def __init__(self, model: nn.Module, rules: OperationRules | None = None):
        super().__init__()
        self.model, self.rules = model, rules
        self.modules: list[tuple[str, nn.Module]] = []
        self._carrying_rule: list[nn.Module] = []
        self._owners: dict[int, nn.Module] = {}
        self._context: dict = {}
        self._handles = RemovableHandleList()
        self.temporary = RemovableHandleList()

    def on_operation(self, function: Callable, args: tuple, kwargs: dict, rule: OperationRule | None) -> Any:
        """What a functional operation gives."""
        if rule is None:
            return function(*args, **kwargs)
        return run_with_rule(rule, function, args, kwargs, self.rules.copy)

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
            if type(module) in _OWNERS and isinstance(module._parameters.get("weight"), Tensor):
                self._owners[id(module.weight)] = module
        if self.rules is not None:
            self._context = dict(self.rules.context)
        return super().__enter__()

    def __exit__(self, *exception):
        self._handles.remove()
        return super().__exit__(*exception)

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        """See operations again, while one of them is being handled."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._carrying_rule:
            return function(*args, **kwargs)
        if function is functional.multi_head_attention_forward:
            return self._resume(attention.multi_head_attention_forward, args, kwargs)
        if function is functional.linear:
            owner = self._owner_of(*args, **kwargs)
            if owner is not None:
                return self._resume(owner, args[:1], {})
        if self.rules is None or not any(map(carries, flatten_tensors((args, kwargs)))):
            return self.on_operation(function, args, kwargs, None)
        return self._with_rule(function, args, kwargs)

    def _with_rule(self, function, args, kwargs):
        composed = _COMPOSED.get(function)
        if function is functional.linear and any(map(carries, [*args[1:], *kwargs.values()])):
            composed = _linear  # with weights that are computed
        if composed is not None:
            return self._resume(composed, args, kwargs)
        operation = Operation(function, args, kwargs, self.rules.stabilize)
        template, module = self._as_module_with_rule(operation)
        if template is not None:
            result = self._run_as_module(template, module, operation.first)
        else:
            result = self.on_operation(function, args, kwargs, self.rules.rule_of(operation))
        if isinstance(result, Tensor) and self.rules.is_constant_factor(operation):
            mark_constant_factor(result)
        return result

    def _as_module_with_rule(self, operation):
        """The composite's rule for an operation, and the module that does the same; None if there is none."""
        module = as_module(operation)
        name, running = self.modules[-1] if self.modules else ("", None)
        if module is None or isinstance(running, type(module)):  # for which the composite has been asked
            return None, None
        return self.rules.composite.module_map(self._context, name, module), module

    def _run_as_module(self, template, module, x):
        rule = template.copy()
        self.temporary.append(rule.register(module))
        self.before_rule(self.modules[-1][0] if self.modules else "", module, rule, (x,), {})
        output = module(x)
        self.after_rule(output)
        return output

    def _owner_of(self, input, weight, bias=None):
        """The module with these parameters, unless it is the one that runs."""
        owner = self._owners.get(id(weight))
        runs = bool(self.modules) and self.modules[-1][1] is owner
        return owner if owner is not None and not runs and owner.bias is bias else None

    def _resume(self, function, args, kwargs):
        with self._resumed():
            return function(*args, **kwargs)

    def _enter_module(self, name, module, args, kwargs):
        self.modules.append((name, module))
        rule = rule_of(module)
        if rule is None:
            return
        self._carrying_rule.append(module)
        if len(self._carrying_rule) == 1:
            self.before_rule(name, module, rule, args, kwargs)

    def _leave_module(self, module, output):
        if rule_of(module) is not None:
            if len(self._carrying_rule) == 1:
                self.after_rule(output)
            self._carrying_rule.pop()
        self.modules.pop()


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return input @ weight.mT if bias is None else input @ weight.mT + bias


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if not carries(input) and not carries(mat2) and input.ndim == 1 and beta == alpha == 1:
        return functional.linear(mat1, mat2.mT, input)
    return beta * input + alpha * (mat1 @ mat2)


def _with_addend(product: Callable) -> Callable:
    def composed(input, first, second, *, beta=1, alpha=1):
        return beta * input + alpha * product(first, second)

    return composed


def _statistic_and_mean(statistic: Callable) -> Callable:
    def composed(input, *args, **kwargs):
        where = {name: value for name, value in kwargs.items() if name in ("dim", "keepdim")}
        dim = next((arg for arg in args if not isinstance(arg, bool)), None)
        return statistic(input, *args, **kwargs), input.mean(**({} if dim is None else {"dim": dim}), **where)

    return composed


_COMPOSED: dict[Callable, Callable] = {
    functional.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    functional.cosine_similarity: attention.cosine_similarity,
    functional.glu: attention.glu,
    torch.var_mean: _statistic_and_mean(torch.var),
    torch.std_mean: _statistic_and_mean(torch.std),
    torch.addmm: _addmm,
    Tensor.addmm: _addmm,
    **dict.fromkeys((torch.addmv, Tensor.addmv), _with_addend(torch.mv)),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _with_addend(torch.bmm)),
    **dict.fromkeys(
        (torch.addcmul, Tensor.addcmul), lambda input, first, second, *, value=1: input + value * (first * second)
    ),
    **dict.fromkeys(
        (torch.addcdiv, Tensor.addcdiv), lambda input, first, second, *, value=1: input + value * (first / second)
    ),
    **dict.fromkeys((torch.lerp, Tensor.lerp), lambda input, end, weight: (1 - weight) * input + weight * end),
}

_OWNERS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


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
