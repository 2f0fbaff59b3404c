"""Batch norms: merged into the linear layers that feed them; after an activation, with a rule of their own."""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from zennit.canonizers import NamedMergeBatchNorm
from zennit.core import Composite, Hook
from zennit.rules import Epsilon, Pass
from zennit.types import BatchNorm, ConvolutionTranspose, Linear

from crp.model.inputs import call_model
from crp.model.layers import flatten_tensors
from crp.rules.fast_rules import stabilizer_of
from crp.rules.operations.mode import OperationMode
from crp.rules.operations.rule import OperationRule
from crp.rules.operations.table import gives_activation, pools
from crp.rules.restoring import run_undone
from crp.rules.used_weights import computes_weight


class MergeNamedBatchNorm(NamedMergeBatchNorm):
    """Like zennit's, but what remains of a batch norm is the identity exactly: it no longer adds its epsilon.

    Transposed convolutions in groups are merged too. Batch norms that another canonizer has merged are left alone.

    Parameters
    ----------
    name_map : list of (list of str, str)
        Names of linear layers, and of the batch norm that is merged into them.
    """

    def apply(self, root_module: nn.Module) -> list[MergeNamedBatchNorm]:
        """Merge the batch norms of a model."""
        remaining = [
            (linears, name) for linears, name in self.name_map if not is_identity(root_module.get_submodule(name))
        ]
        return NamedMergeBatchNorm.apply(MergeNamedBatchNorm(remaining), root_module) if remaining else []

    def copy(self) -> MergeNamedBatchNorm:
        """A canonizer for the same names."""
        return type(self)(self.name_map)

    def register(self, linears: Iterable[nn.Module], batch_norm: Any) -> None:
        """Merge a batch norm."""
        linears = list(linears)
        self.grouped = [
            (linear, linear.weight.data, linear.groups) for linear in linears
            if isinstance(linear, ConvolutionTranspose) and linear.groups > 1
        ]
        for linear, weight, groups in self.grouped:  # as zennit knows it: all outputs on axis 1
            linear.weight.data = weight.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)
        super().register(linears, batch_norm)
        for linear, _, groups in self.grouped:
            linear.weight.data = linear.weight.data.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)
        self.epsilon, batch_norm.eps = batch_norm.eps, 0.

    def remove(self) -> None:
        """Restore what was merged."""
        self.batch_norm.eps = self.epsilon
        super().remove()
        for linear, weight, _ in self.grouped:
            linear.weight.data = weight


def weighing(composite: Composite, model: nn.Module, names: list[str]) -> Composite:
    """A composite with the epsilon rule for batch norms after an activation, where it has no rule of its own for them.

    Their shift gets a share, as where a model writes out scale and shift. ``benchmarks/batch_norms.py`` compares it
    with passing relevance on.

    Parameters
    ----------
    composite : zennit.core.Composite
    model : torch.nn.Module
    names : list of str
        Of the batch norms.
    """
    rules, context = _rules(composite, model)
    given = {name for name in names if rules[name] is None or type(rules[name]) is Pass}
    if not given:
        return composite
    rule_of_layers = composite.module_map(dict(context), "", nn.Linear(1, 1, device="meta"))
    stabilizer = stabilizer_of(rule_of_layers) if isinstance(rule_of_layers, Hook) else None
    rule = Epsilon(stabilizer or 1e-6)

    def module_map(context: dict, name: str, module: nn.Module) -> Hook | None:
        return rule if name in given else composite.module_map(context, name, module)

    return Composite(module_map, composite.canonizers)


def _rules(composite: Composite, model: nn.Module) -> tuple[dict[str, Any], dict]:
    """The rule of each module, by name, and the context in which they were found."""
    context: dict = {}
    return {name: composite.module_map(context, name, module) for name, module in model.named_modules()}, context


def merging(composite: Composite, model: nn.Module, pairs: list[tuple[str, str]]) -> Composite:
    """A composite that also merges batch norms, where it has no rule of its own for them.

    Parameters
    ----------
    composite : zennit.core.Composite
    model : torch.nn.Module
    pairs : list of (str, str)
        Names of linear layers and of the batch norms that they feed.
    """
    if not pairs:
        return composite
    rules, _ = _rules(composite, model)
    passing = [(linear, norm) for linear, norm in pairs if rules[norm] is None or type(rules[norm]) is Pass]
    if not passing:
        return composite
    canonizer = MergeNamedBatchNorm([([linear], norm) for linear, norm in passing])
    return Composite(composite.module_map, [*composite.canonizers, canonizer])


def find_mergeable(model: nn.Module, data: Any) -> list[tuple[str, str]]:
    """Names of linear layers and of the batch norms that alone take what they give, as :func:`find_batch_norms`."""
    return find_batch_norms(model, data).mergeable


class BatchNorms(NamedTuple):
    """The batch norms of a model.

    Attributes
    ----------
    mergeable : list of (str, str)
        Names of linear layers, and of the batch norms that alone take what they give.
    after_activation : list of str
        Names of batch norms whose input an activation function gave, perhaps pooled.
    """

    mergeable: list[tuple[str, str]]
    after_activation: list[str]


def find_batch_norms(model: nn.Module, data: Any) -> BatchNorms:
    """What feeds the batch norms of a model, seen in one forward pass.

    Parameters
    ----------
    model : torch.nn.Module
    data : torch.Tensor, tuple or dict
        Input of the model; one sample is enough.
    """
    modules = dict(model.named_modules())
    if not any(isinstance(module, BatchNorm) and not module.training for module in modules.values()):
        return BatchNorms([], [])
    consumers = _Consumers(model)
    with torch.no_grad(), consumers:
        run_undone(lambda: call_model(model, data))
    return BatchNorms(
        [(linear, norm) for linear, norm in consumers.exclusive() if _fit(modules[linear], modules[norm])],
        [name for name in consumers.after_activation if not is_identity(modules[name])],
    )


class _Consumers(OperationMode):
    """Sees which operations take what linear layers give."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._calls: Counter[str] = Counter()
        self._taken: dict[str, list[tuple[Callable, str]]] = defaultdict(list)
        self.after_activation: list[str] = []

    def on_operation(self, function: Callable, args: tuple, kwargs: dict, rule: OperationRule | None) -> Any:
        """Run a function, and note what it takes and gives."""
        name, module = self.modules[-1] if self.modules else ("", None)
        result = function(*args, **kwargs)
        if not any(isinstance(leaf, torch.Tensor) for leaf in flatten_tensors(result)):
            return result
        leaves = flatten_tensors((args, kwargs))
        self._follow_activations(function, leaves, result)
        sources = {getattr(leaf, "linear_layer", "") for leaf in leaves}
        for source in sources - {"", name}:
            self._taken[source].append((function, name))
        if isinstance(module, (Linear, BatchNorm)):
            self._calls[name] += 1
        if isinstance(module, Linear) and isinstance(result, torch.Tensor):
            vars(result)["linear_layer"] = name
        return result

    def _follow_activations(self, function: Callable, leaves: list[Any], result: Any) -> None:
        """Note which batch norms take what an activation function gave."""
        name, module = self.modules[-1] if self.modules else ("", self.model)
        is_activated = any(getattr(leaf, "is_activated", False) for leaf in leaves)
        if function is functional.batch_norm:
            uses_statistics = not module.training and getattr(module, "running_mean", None) is not None
            is_plain = isinstance(module, BatchNorm) and type(module).forward is _BatchNorm.forward  # no more than that
            if is_activated and is_plain and uses_statistics:
                self.after_activation.append(name)
        elif isinstance(result, torch.Tensor) and (gives_activation(function) or is_activated and pools(function)):
            vars(result)["is_activated"] = True

    def exclusive(self) -> list[tuple[str, str]]:
        """Linear layers that one batch norm takes from, and nobody else, called once both."""
        taken = [(source, uses[0]) for source, uses in self._taken.items() if len(uses) == 1]
        return [
            (source, name) for source, (function, name) in taken
            if function is functional.batch_norm and self._calls[source] == self._calls[name] == 1
        ]


def _fit(linear: Any, batch_norm: nn.Module) -> bool:
    weight = linear._parameters.get("weight")
    if not isinstance(batch_norm, BatchNorm) or batch_norm.training or weight is None or computes_weight(linear):
        return False
    parameters = (batch_norm.weight, batch_norm.bias, batch_norm.running_mean)
    if not all(isinstance(parameter, torch.Tensor) for parameter in parameters):
        return False
    is_transposed = isinstance(linear, ConvolutionTranspose)
    channels = weight.shape[1] * linear.groups if is_transposed else weight.shape[0]
    return channels == batch_norm.num_features


def is_identity(batch_norm: Any) -> bool:
    """Whether a batch norm does nothing, as when it has been merged."""
    if batch_norm.running_mean is None:
        return False
    scale = (batch_norm.running_var + batch_norm.eps).rsqrt()
    scale = scale if batch_norm.weight is None else scale * batch_norm.weight
    shift = (0 if batch_norm.bias is None else batch_norm.bias) - batch_norm.running_mean * scale
    close = 2e-3  # zennit's canonizers leave its epsilon, 1e-3 at most in common models
    return bool((scale - 1).abs().max() < close and shift.abs().max() < close)
