"""Relevance rules that equal zennit's and compute less.

A rule of zennit runs the module as it is and, in the backward pass, once more for each of its pairs of modified input
and modified parameters; the gradients of all these runs are computed, and the module's own is thrown away. Here the
module runs as it is, without autograd graph, and the backward pass holds one forward and one transposed operation for
each pair whose input is not zero.
"""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from zennit.core import BasicHook, Composite, Hook, ParamMod, zero_wrap
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus
from zennit.types import Activation, BatchNorm

from crp.linear import LinearOperation, linear_operation, share_uniform
from crp.replacement import PassThrough, Replacement, SharedMaxPool, precision
from crp.rows import distinct_rows, is_shared, share_rows
from crp.stabilizers import FastStabilizer

POSITIVE, NEGATIVE = "positive part", "negative part"


class Term(NamedTuple):
    """A pair of modified input ``x`` and modified parameters ``W, b``.

    Attributes
    ----------
    index : int
        Which pair of zennit's rule.
    part : str or None
        The part of the input that the rule takes, where it takes one.
    sign : int
        With which it enters: parameters are multiplied by it.
    """

    index: int
    part: str | None = None
    sign: int = 1


class Share(NamedTuple):
    """Pairs with a common denominator: their relevance is the sum of ``x * W^T (factor * R / z)``.

    Here ``z`` is the stabilized sum of ``W x + b``.

    Attributes
    ----------
    terms : tuple of Term
    factor : str or None
        The parameter of the rule that is the factor.
    outputs : str or None
        Only relevance of outputs with this sign takes part.
    """

    terms: tuple[Term, ...]
    factor: str | None = None
    outputs: str | None = None


_ALL = (Share((Term(0),)),)
_LIKE_SIGNS = (Term(0, POSITIVE), Term(1, NEGATIVE))
_UNLIKE_SIGNS = (Term(2, POSITIVE), Term(3, NEGATIVE))

FORMULAS: dict[type[BasicHook], tuple[Share, ...]] = {
    Epsilon: _ALL,
    Norm: _ALL,
    WSquare: _ALL,
    Flat: _ALL,
    ZPlus: (Share(_LIKE_SIGNS),),
    ZBox: (Share((Term(0), Term(1, sign=-1), Term(2, sign=-1))),),
    AlphaBeta: (Share(_LIKE_SIGNS, "alpha"), Share(_UNLIKE_SIGNS, "beta")),
    Gamma: (Share(_LIKE_SIGNS, outputs=POSITIVE), Share(_UNLIKE_SIGNS, outputs=NEGATIVE)),
}
_READ_OUTPUT = (Epsilon, Norm, Gamma)


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
    def code(hook):
        functions = (*hook.input_modifiers, *hook.output_modifiers, hook.gradient_mapper, hook.reducer)
        return [getattr(function, "__code__", function) for function in functions]

    return code(rule) == code(_example(type(rule)))


@functools.cache
def _example(rule_type: type[BasicHook]) -> BasicHook:
    return rule_type(0., 1.) if rule_type is ZBox else rule_type()


@dataclass
class _PreparedShare:
    """A share for one input: pairs of x and W that are not zero, and the outputs that take part, if not all do.

    It is merged where all channels of the output have the same weights and denominator, [1, 1, ...].
    """

    factor: float
    denominator: torch.Tensor
    terms: list[tuple[torch.Tensor, torch.Tensor | None]]
    outputs: torch.Tensor | None
    merged: bool


class FastRule(Replacement):
    """A rule of zennit on a linear operation.

    Parameters
    ----------
    rule : zennit.core.BasicHook
        Of a type in ``FORMULAS``.
    operation : crp.linear.LinearOperation
        What the module does.
    repeated : bool
        Whether to keep denominators.
    """

    def __init__(self, rule: BasicHook, operation: LinearOperation, repeated: bool):
        super().__init__()
        self.rule, self.operation, self.repeated = rule, operation, repeated
        # zennit's rules keep what they were made with in their functions alone
        self.stabilize = FastStabilizer(stabilizer_of(rule))
        numbers = inspect.getclosurevars(rule.reducer).nonlocals
        self.factors = {None: 1., "alpha": numbers.get("alpha"), "beta": -numbers.get("beta", 0.)}
        self.parameters = {
            term.index: ModifiedParameters(rule.param_modifiers[term.index], term.sign)
            for share in FORMULAS[type(rule)] for term in share.terms
        }

    def copy(self) -> FastRule:
        """A hook with the same rule."""
        return type(self)(self.rule, self.operation, self.repeated)

    def shares(self, x):
        """Whether one row stands for all rows of this input."""
        if not is_shared(x) or not self.operation.takes(x):
            return False
        return type(self.rule) is not ZBox or all(_has_equal_rows(bound(x)) for bound in self.rule.input_modifiers[1:])

    def call(self, module, x, output):
        """The output, and relevance by the formula of the rule."""
        shared = self.shares(x)
        reads_output = type(self.rule) in _READ_OUTPUT
        kept_output = self._keep(module, output) if reads_output else None
        version = kept_output._version if reads_output else None
        prepared = None

        def relevance_of_input(relevance, x):
            nonlocal prepared
            if relevance.numel() == 0:
                return torch.zeros_like(x)
            count = len(relevance)
            if shared:
                relevance, x = distinct_rows(relevance), x[:1]
            usable = reads_output and kept_output._version == version and kept_output.dtype == precision(x)
            output = kept_output if usable else None
            if self.operation.by_position and not shared and not self.repeated:
                return _at_active_positions(
                    lambda relevance, x, output: self._relevance(
                        relevance, self._prepare(module, x, output), x.shape
                    ), relevance, x, output
                )
            relevance, x = relevance.to(precision(relevance)), x.to(precision(x))
            shares = prepared or self._prepare(module, x, output)
            if self.repeated:
                prepared = shares
            shape = torch.Size((len(relevance), *x.shape[1:])) if shared else x.shape
            result = self._relevance(relevance, shares, shape)
            return share_rows(result, count) if shared else result

        return output, relevance_of_input

    @staticmethod
    def _keep(module, output):
        """The output; a copy, which no in-place activation changes, where that costs less than to compute it again."""
        weight = own_parameters(module)[0]
        return output if weight is None or output.numel() > weight.numel() else output.clone()

    def _prepare(self, module, x, output):
        """The shares that are not zero; ``output`` is what the module gave, if that is at hand."""
        shares = [share for share in FORMULAS[type(self.rule)] if self.factors[share.factor] != 0]
        if output is None and any(share.outputs for share in shares):
            output = self.operation.forward(x, *own_parameters(module, x.dtype))
        parts = _parts(x) if any(term.part for share in shares for term in share.terms) else {}
        prepared = [self._prepare_share(share, module, x, parts, output) for share in shares]
        return [share for share in prepared if share is not None]

    def _prepare_share(self, share, module, x, parts, output):
        terms, z = [], None
        for term in share.terms:
            modified = parts[term.part] if term.part else self._modified_input(term.index, x)
            weight, bias, are_own = self.parameters[term.index].of(module, x.dtype)
            if modified is None:
                contribution = self.operation.at_zero(x, weight, bias)
            else:
                is_output = modified is x and are_own and output is not None
                contribution = output if is_output else self.operation.forward(modified, weight, bias)
                terms.append((modified, weight))
            if contribution is not None:
                z = contribution if z is None else z + contribution
        if not terms:
            return None
        outputs = {None: None, POSITIVE: lambda: output > 0, NEGATIVE: lambda: output < 0}[share.outputs]
        denominator = self.stabilize(z, in_place=z is not output)
        merged = (
            outputs is None and isinstance(denominator, torch.Tensor) and len(denominator) == 1
            and all(self.operation.equal_weights(modified, weight) for modified, weight in terms)
            and torch.equal(denominator, denominator[:, :1].expand_as(denominator))
        )
        return _PreparedShare(
            self.factors[share.factor], denominator[:, :1] if merged else denominator, terms, outputs and outputs(),
            merged,
        )

    def _modified_input(self, index, x):
        """What the rule makes of the input, one row if all are equal; None if it is zero."""
        modifier, samples = self.rule.input_modifiers[index], self.operation.takes(x)
        modified = modifier(x[:1] if modifier is torch.ones_like and samples else x)
        if modified is x:
            return x
        modified = distinct_rows(modified) if samples else modified
        return modified if modified.any() else None

    def _relevance(self, relevance, shares, shape):
        total = None
        for share in shares:
            arriving = relevance.sum(1, keepdim=True) if share.merged else relevance
            if self.stabilize.adds_epsilon and not self.repeated and arriving.shape == share.denominator.shape:
                s = torch.div(arriving, share.denominator, out=share.denominator)
            else:
                s = arriving / share.denominator
            if share.outputs is not None:
                s = s * share.outputs
            if share.factor != 1:
                s = s * share.factor
            for x, weight in share.terms:
                contribution = self.operation.transpose(s, weight, shape).mul_(x)
                total = contribution if total is None else total.add_(contribution)
        return relevance.new_zeros(shape) if total is None else total


@dataclass
class _PreparedGamma:
    """Denominators for one input, and the signs of its outputs, by which they differ."""

    x: torch.Tensor
    denominator: torch.Tensor
    sign: torch.Tensor


class FastGamma(FastRule):
    """The Gamma rule with absolute values instead of positive and negative parts of inputs and parameters.

    With ``P`` and ``N`` the sums of positive and negative contributions ``x_i w_i``, which are half of
    ``(x W) + (|x| |W|)`` and ``(x W) - (|x| |W|)``, its denominators are ``z + gamma (P + b+)`` for positive outputs
    ``z``, and ``z + gamma (N + b-)`` for negative ones. The same halves make the way back.

    Parameters
    ----------
    rule : zennit.rules.Gamma
    operation : crp.linear.LinearOperation
    repeated : bool
    """

    @staticmethod
    def fits(rule: BasicHook, operation: LinearOperation) -> bool:
        """Whether a rule is Gamma as it is made by default, and signs of weights decide those of contributions."""
        return (
            type(rule) is Gamma and not rule.param_modifiers[0].zero_params
            and FastStabilizer(stabilizer_of(rule)).adds_epsilon and operation.contributions_have_sign_of_weight
        )

    def __init__(self, rule: Gamma, operation: LinearOperation, repeated: bool):
        super().__init__(rule, operation, repeated)
        self.gamma = inspect.getclosurevars(rule.param_modifiers[0].modifier).nonlocals["gamma"]
        self.own = ModifiedParameters(lambda parameter, name: parameter)
        self.absolute = ModifiedParameters(lambda parameter, name: parameter.abs())

    def _prepare(self, module, x, output):
        weight, bias, _ = self.own.of(module, x.dtype)
        if output is None:
            output = self.operation.forward(x, weight, bias)
        sign = output.sign()
        denominator = self.operation.forward(x.abs(), self.absolute.of(module, x.dtype)[0], None).mul_(sign)
        denominator.add_(output).mul_(self.gamma / 2).add_(output)
        if bias is not None:
            b = self.operation.at_zero(x, weight, bias)
            denominator.add_((self.gamma / 2) * (sign * b.abs()))  # b+ or b-, less the half of b that is in the output
        return _PreparedGamma(x, self.stabilize(denominator, in_place=True), sign)

    def _relevance(self, relevance, prepared, shape):
        module, x = self.operation.module, prepared.x
        weight, absolute = (parameters.of(module, x.dtype)[0] for parameters in (self.own, self.absolute))
        s = relevance / prepared.denominator * prepared.sign.abs()
        sent = self.operation.transpose(s, weight, shape).mul_(x).mul_(1 + self.gamma / 2)
        unlike = self.operation.transpose(s.mul_(prepared.sign), absolute, shape)
        return sent.addcmul_(unlike, x.abs(), value=self.gamma / 2)


def _at_active_positions(
    function: Callable[..., torch.Tensor], relevance: torch.Tensor, x: torch.Tensor, output: torch.Tensor | None
) -> torch.Tensor:
    """``function(relevance, x, output)``, of the positions at which relevance arrives if these are few."""
    tensors = [relevance, x, output]
    rows = relevance.flatten(0, -2).any(1) if relevance.ndim > 1 else None
    if rows is None or 2 * int(rows.sum()) > len(rows):
        return function(*(None if tensor is None else tensor.to(precision(tensor)) for tensor in tensors))
    result = torch.zeros(x.shape, dtype=precision(x), device=x.device)
    if rows.any():
        active = [None if tensor is None else tensor.flatten(0, -2)[rows] for tensor in tensors]
        result.view(-1, x.shape[-1])[rows] = _at_active_positions(function, *active)
    return result


def stabilizer_of(rule: Hook) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The function with which a rule of zennit's stabilizes its denominator; None if it has none."""
    rule = rule.rule if isinstance(rule, FastRule) else rule
    mapper = getattr(rule, "gradient_mapper", None)
    return inspect.getclosurevars(mapper).nonlocals.get("stabilizer_fn") if inspect.isfunction(mapper) else None


def _has_equal_rows(tensor: torch.Tensor) -> bool:
    return is_shared(tensor) or torch.equal(tensor, tensor[:1].expand_as(tensor))


def _parts(x: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Positive and negative part of an input, None where that is zero."""
    low, high = torch.aminmax(x)
    if low >= 0:
        return {POSITIVE: x, NEGATIVE: None}
    if high <= 0:
        return {POSITIVE: None, NEGATIVE: x}
    return {POSITIVE: x.clamp(min=0), NEGATIVE: x.clamp(max=0)}


class ModifiedParameters:
    """Weight and bias as a rule modifies them; modified again when the module's have changed.

    Parameters
    ----------
    modifier : zennit.core.ParamMod or callable
        As in zennit's rules.
    sign : int
        With which to multiply them.
    """

    def __init__(self, modifier: ParamMod | Callable, sign: int = 1):
        self.modifier, self.sign = ParamMod.ensure(modifier), sign
        self._result = self._sources = self._state = None

    def of(self, module: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor | None, bool]:
        """Weight and bias (None if there is none or it is zero), and whether they are the module's own."""
        own = own_parameters(module)
        state = [dtype, *((None, 0) if tensor is None else (tensor.data_ptr(), tensor._version) for tensor in own)]
        if state != self._state:
            # The sources are held, so that no other tensor gets their memory while the result is valid.
            self._state, self._sources = state, own
            changed = [self._modify(tensor, name) for tensor, name in zip(own, ("weight", "bias"))]
            weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in changed)
            are_own = all(new is old for new, old in zip(changed, own))
            weight = weight if weight is None else share_uniform(weight)
            self._result = weight, bias if bias is not None and bias.any() else None, are_own
        return self._result

    def _modify(self, parameter, name):
        keys = self.modifier.param_keys
        if parameter is not None and (keys is None or name in keys):
            parameter = zero_wrap(self.modifier.zero_params)(self.modifier.modifier)(parameter, name)
        return parameter if parameter is None or self.sign > 0 else -parameter


def own_parameters(module: nn.Module, dtype: torch.dtype | None = None) -> list[torch.Tensor | None]:
    """Weight and bias of a module, None where it has none."""
    parameters = (getattr(module, name, None) for name in ("weight", "bias"))
    return [None if parameter is None else parameter.detach().to(dtype or parameter.dtype) for parameter in parameters]
