"""Composites with zennit's rules replaced by equal, faster ones."""
from __future__ import annotations

from typing import Any

from torch import nn
from zennit.core import BasicHook, Composite, Hook
from zennit.rules import Pass, ZBox
from zennit.types import Activation, BatchNorm

from crp.rules.fast_rules import FORMULAS, FastGamma, FastRule
from crp.rules.linear import linear_operation
from crp.rules.parameters import own_parameters
from crp.rules.replacement import PassThrough, SharedMaxPool


def accelerate(composite: Composite, *, repeated: bool = False) -> Composite:
    """A composite that gives the same relevance as another, faster.

    The rules Epsilon, ZPlus, AlphaBeta, Gamma, ZBox, WSquare, Flat, Norm and Pass of zennit are replaced on linear
    layers, convolutions, batch normalisation, average pooling and activations. Other rules and modules, and subclasses
    of either, keep zennit's hooks. Relevance is equal within rounding and computed in float32 at least, also where
    ``torch.autocast`` lets the model run in less. Modules with replaced rules give their parameters no gradients, and
    relevance cannot be differentiated again.

    Parameters
    ----------
    composite : zennit.core.Composite
        It is not changed.
    repeated : bool, default False
        Keep denominators for further backward passes through the same graph, at the cost of memory.

    Returns
    -------
    zennit.core.Composite
        The given one itself if its class registers rules in a way of its own.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from zennit.composites import EpsilonPlus
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    >>> x = torch.rand(2, 1, 8, 8, requires_grad=True)
    >>> with accelerate(EpsilonPlus()).context(model):
    ...     output = model(x)
    >>> relevance, = torch.autograd.grad(output, x, output.detach())
    >>> relevance.shape
    torch.Size([2, 1, 8, 8])
    """
    if type(composite).register is not Composite.register:
        return composite

    def module_map(context: dict, name: str, module: nn.Module) -> Hook | None:
        return _accelerated(composite.module_map(context, name, module), module, repeated)

    return Composite(module_map, composite.canonizers)


def _accelerated(rule: Hook | None, module: nn.Module, repeated: bool) -> Hook | None:
    if rule is None and SharedMaxPool.fits(module):
        return SharedMaxPool()
    if type(rule) is Pass and _is_elementwise(module):
        return PassThrough()
    if type(rule) not in FORMULAS or not _is_as_made(rule):
        return rule
    operation = linear_operation(module)
    has_signs = any(term.sign < 0 for share in FORMULAS[type(rule)] for term in share.terms)
    if operation is None or has_signs and own_parameters(module)[0] is None:
        return rule
    return (FastGamma if FastGamma.fits(rule, operation) else FastRule)(rule, operation, repeated)


def _is_elementwise(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own that treats each element by itself."""
    if isinstance(module, nn.MultiheadAttention) or not type(module).__module__.startswith("torch.nn.modules."):
        return False
    mixes_samples = isinstance(module, BatchNorm) and module.training
    return isinstance(module, (Activation, BatchNorm)) and not mixes_samples


def _is_as_made(rule: BasicHook) -> bool:
    """Whether a rule has the functions that its class gives it."""
    return _code_of(rule) == _CODE[type(rule)]


def _code_of(rule: BasicHook) -> list[Any]:
    functions = (*rule.input_modifiers, *rule.output_modifiers, rule.gradient_mapper, rule.reducer)
    return [getattr(function, "__code__", function) for function in functions]


_CODE = {
    rule_type: _code_of(rule_type(0., 1.) if rule_type is ZBox else rule_type()) for rule_type in FORMULAS
}
