"""Functional operations of a model, seen while it runs and given the rules that relevance needs there."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from zennit.core import Hook, RemovableHandleList
from zennit.types import Activation, BatchNorm, Linear

from crp.model.layers import flatten_tensors
from crp.rules.operations import attention
from crp.rules.operations.autograd_functions import function_of, give_rule
from crp.rules.operations.call import Operation
from crp.rules.operations.choice import OperationRules
from crp.rules.operations.composed import COMPOSED, linear_with_computed_weight
from crp.rules.operations.descent import Descent, descent_of, mark_descent
from crp.rules.operations.first_order import QUESTIONS
from crp.rules.operations.modules import WITH_WEIGHTS, as_module
from crp.rules.operations.places import operation_name, warn_of_cast, warn_of_gradient, warn_of_loss
from crp.rules.operations.rule import (
    UNKNOWN,
    OperationRule,
    carries,
    clear_marks,
    is_in_place,
    mark_constant_factor,
    run_with_rule,
)
from crp.rules.operations.table import CASTS, PADDING, descent_of_output, inside_of
from crp.rules.padding import mark_padding
from crp.rules.replacement import PassThrough, check_not_transformed
from crp.rules.restoring import FunctionMode


class OperationMode(FunctionMode):
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
    on_integers : callable
        Is called with the type of integers that real numbers become; warns by default.
    modules : list of (str, torch.nn.Module)
        The modules that are running, the innermost last.
    temporary : zennit.core.RemovableHandleList
        Rules of functional operations; to be removed after the last backward pass.
    """

    def __init__(self, model: nn.Module, rules: OperationRules | None = None):
        super().__init__()
        self.model, self.rules = model, rules
        self.on_integers: Callable[[torch.dtype], None] = warn_of_cast
        self.modules: list[tuple[str, nn.Module]] = []
        self._carrying_rule: list[nn.Module] = []
        self._activated: Descent | None = None
        self._owners: dict[int, nn.Module] = {}
        self._context: dict = {}
        self._handles = RemovableHandleList()
        self._seen: set[Any] = set()
        self.temporary = RemovableHandleList()

    def on_operation(self, function: Callable, args: tuple, kwargs: dict, rule: OperationRule | None) -> Any:
        """What a functional operation gives."""
        if rule is UNKNOWN:
            warn_of_gradient(function, "relevance is not defined for its inputs")
        if rule is None or rule is UNKNOWN or self.rules is None:
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
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handles.remove()
        super().__exit__(*exception)

    @contextmanager
    def _resumed(self) -> Iterator[None]:
        """See operations again, while one of them is being handled."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._carrying_rule or function in QUESTIONS:
            return function(*args, **kwargs)
        if function is functional.multi_head_attention_forward:
            return self._resume(attention.multi_head_attention_forward, args, kwargs)
        if function is functional.linear:
            owner = self._owner_of(*args, **kwargs)
            if owner is not None:
                return self._resume(owner, args[:1], {})
        tensors = [] if self.rules is None else [x for x in flatten_tensors((args, kwargs)) if isinstance(x, Tensor)]
        for tensor in tensors:
            check_not_transformed(tensor)
        carrying = list(filter(carries, tensors))
        if self.rules is None or not carrying:
            return self.on_operation(function, args, kwargs, None)
        self.see(carrying)
        return self._with_rule(self.rules, function, args, kwargs)

    def see(self, value: Any) -> None:
        """Give rules to functions of ``torch.autograd`` that gave the tensors in a value, or tell that one has none."""
        for leaf in flatten_tensors(value) if self.rules is not None else ():
            function = function_of(leaf) if carries(leaf) else None
            if function is not None and leaf.grad_fn not in self._seen:
                self._seen.add(leaf.grad_fn)
                self.on_autograd_function(leaf, function, give_rule(leaf.grad_fn, function))

    def on_autograd_function(self, output: Tensor, function: type, has_rule: bool) -> None:
        """Called with what a ``torch.autograd.Function`` gave."""

    def _with_rule(self, rules: OperationRules, function: Callable, args: tuple, kwargs: dict) -> Any:
        composed = COMPOSED.get(function)
        if function is functional.linear and any(map(carries, [*args[1:], *kwargs.values()])):
            composed = linear_with_computed_weight  # with weights that are computed
        if composed is not None:
            return self._resume(composed, args, kwargs)
        operation = Operation(function, args, kwargs, rules.stabilize, rules.copy)
        module = as_module(operation)
        name, running = self.modules[-1] if self.modules else ("", None)
        is_asked = module is not None and isinstance(running, type(module))  # the composite was asked for that module
        composite = running and rules.open_layers.get(running) or (None if is_asked else rules.composite)
        template = composite.module_map(self._context, name, module) if composite and module is not None else None
        descent = None
        if module is not None and template is not None:
            result = self._run_as_module(template, module, operation.inputs[0])
        else:
            left_out = is_asked and function in WITH_WEIGHTS
            rule = None if left_out else rules.rule_of(operation)
            descent = descent_of_output(operation, rule)
            shape = operation.inputs[0].shape
            result = self.on_operation(function, args, kwargs, rule)
        if is_in_place(function) or function is Tensor.__setitem__:
            clear_marks(args[0])
        if descent is not None and isinstance(result, Tensor) and result.shape == shape:
            mark_descent(result, descent)
        if isinstance(result, Tensor) and not isinstance(module, Linear) and rules.is_constant_factor(operation):
            mark_constant_factor(result)
        if operation.function in PADDING and isinstance(result, Tensor):
            mark_padding(result, inside_of(operation))
        if operation.function in CASTS or isinstance(operation.function, torch._ops.OpOverloadPacket):
            self._tell_of_loss(operation.function, result)
        return result

    def _tell_of_loss(self, function: Callable, result: Any) -> None:
        """Tell where relevance cannot come back through what became integers, nor a kernel without derivative."""
        kinds = {leaf.dtype for leaf in flatten_tensors(result) if isinstance(leaf, Tensor) and not carries(leaf)}
        if function not in CASTS:
            if any(kind.is_floating_point for kind in kinds):
                warn_of_loss(operation_name(function), "it has no derivative; crp.rules.register_rule gives it a rule")
        elif kinds & _INTEGERS:
            self.on_integers(kinds.pop())

    def _run_as_module(self, template: Hook, module: nn.Module, x: Tensor) -> Any:
        rule = template.copy()
        self.temporary.append(rule.register(module))
        self.before_rule(self.modules[-1][0] if self.modules else "", module, rule, (x,), {})
        output = module(x)
        self.after_rule(output)
        return output

    def _owner_of(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> nn.Module | None:
        """The module with these parameters, unless it is the one that runs."""
        owner = self._owners.get(id(weight))
        runs = bool(self.modules) and self.modules[-1][1] is owner
        return owner if owner is not None and not runs and owner.bias is bias else None

    def _resume(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        with self._resumed():
            return function(*args, **kwargs)

    def _enter_module(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.modules.append((name, module))
        with torch._C.DisableTorchFunction():
            self.see((args, kwargs))
        rule = rule_of(module)
        if rule is None:
            return
        self._carrying_rule.append(module)
        if len(self._carrying_rule) == 1:
            x = next((leaf for leaf in flatten_tensors((args, kwargs)) if carries(leaf)), None)
            self._activated = descent_of(x).activated() if x is not None and _is_activation(module, rule) else None
            self.before_rule(name, module, rule, args, kwargs)

    def _leave_module(self, module: nn.Module, output: Any) -> None:
        rule = rule_of(module)
        if rule is not None:
            if len(self._carrying_rule) == 1:
                self.after_rule(output)
                if self._activated is not None and isinstance(output, Tensor):
                    mark_descent(output, self._activated)
            self._carrying_rule.pop()
        if _is_activation(module, rule) and isinstance(output, Tensor) and self.rules and self.rules.are_gates_constant:
            mark_constant_factor(output)
        self.modules.pop()


_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_OWNERS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


def _is_activation(module: nn.Module, rule: Hook | None) -> bool:
    return isinstance(module, Activation) or isinstance(rule, PassThrough) and not isinstance(module, BatchNorm)


def rule_of(module: nn.Module) -> Hook | None:
    """The first of zennit's hooks, or ours, on a module."""
    owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Hook)), None)
