"""Relevance rules that equal zennit's and compute less.

A rule of zennit runs the module as it is and, in the backward pass, once more for each of its pairs of modified input
and modified parameters; the gradients of all these runs are computed, and the module's own is thrown away. Here the
module runs as it is, without autograd graph, and the backward pass holds one forward and one transposed operation for
each pair whose input is not zero.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from zennit.core import BasicHook, Hook
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, WSquare, ZBox, ZPlus

from crp.model.rows import distinct_rows, is_shared, share_rows
from crp.rules.linear import LinearOperation
from crp.rules.padding import inside_of_padding, mark_padding
from crp.rules.parameters import ModifiedParameters, UsedParameters, own_parameters
from crp.rules.replacement import RelevanceOfInput, Replacement, precision
from crp.rules.stabilizers import FastStabilizer

POSITIVE, NEGATIVE = "positive part", "negative part"


class Term(NamedTuple):
    """A pair of modified input ``x`` and modified parameters ``W, b``.

    Attributes
    ----------
    pair : int
        Which pair of zennit's rule.
    part : str or None
        The part of the input that the rule takes, where it takes one.
    sign : int
        With which it enters: parameters are multiplied by it.
    """

    pair: int
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
    operation : crp.rules.linear.LinearOperation
        What the module does.
    repeated : bool
        Whether to keep denominators.
    """

    def __init__(self, rule: BasicHook, operation: LinearOperation, repeated: bool):
        super().__init__()
        self.rule, self.operation, self.repeated = rule, operation, repeated
        # zennit's rules keep what they were made with in their functions alone
        self.stabilize = FastStabilizer(stabilizer_of(rule))
        numbers = _variables(rule.reducer)
        self.factors = {None: 1., "alpha": numbers.get("alpha"), "beta": -numbers.get("beta", 0.)}
        self.parameters = {
            term.pair: ModifiedParameters(rule.param_modifiers[term.pair], term.sign)
            for share in FORMULAS[type(rule)] for term in share.terms
        }

    def copy(self) -> FastRule:
        """A hook with the same rule."""
        return type(self)(self.rule, self.operation, self.repeated)

    def shares(self, x: torch.Tensor) -> bool:
        """Whether one row stands for all rows of this input."""
        if not is_shared(x) or not self.operation.takes(x):
            return False
        return type(self.rule) is not ZBox or all(_has_equal_rows(bound(x)) for bound in self.rule.input_modifiers[1:])

    def call(
        self, module: nn.Module, x: torch.Tensor, output: torch.Tensor
    ) -> tuple[torch.Tensor, RelevanceOfInput]:
        """The output, and relevance by the formula of the rule."""
        shared, inside = self.shares(x), inside_of_padding(x)
        used = UsedParameters(module)
        kept_output = self._keep(module, output) if type(self.rule) in _READ_OUTPUT else None
        version = None if kept_output is None else kept_output._version
        prepared = None

        def relevance_of_input(relevance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            nonlocal prepared
            if relevance.numel() == 0:
                return torch.zeros_like(x)
            count = len(relevance)
            if shared:
                relevance, x = distinct_rows(relevance), x[:1]
            output = kept_output
            if output is not None and (output._version != version or output.dtype != precision(x)):
                output = None
            if self.operation.by_position and not shared and not self.repeated:
                return _at_active_positions(
                    lambda relevance, x, output: self._relevance(
                        relevance, self._prepare(used, x, output), x.shape
                    ), relevance, x, output
                )
            relevance, x = relevance.to(precision(relevance)), x.to(precision(x))
            mark_padding(x, inside)
            shares = prepared or self._prepare(used, x, output)
            if self.repeated:
                prepared = shares
            shape = torch.Size((len(relevance), *x.shape[1:])) if shared else x.shape
            result = self._relevance(relevance, shares, shape)
            return share_rows(result, count) if shared else result

        return output, relevance_of_input

    @staticmethod
    def _keep(module: nn.Module, output: torch.Tensor) -> torch.Tensor:
        """The output; a copy, which no in-place activation changes, where that costs less than to compute it again."""
        weight = own_parameters(module)[0]
        return output if weight is None or output.numel() > weight.numel() else output.clone()

    def _prepare(self, used: UsedParameters, x: torch.Tensor, output: torch.Tensor | None) -> Any:
        """The shares that are not zero; ``output`` is what the module gave, if that is at hand."""
        shares = [share for share in FORMULAS[type(self.rule)] if self.factors[share.factor] != 0]
        if output is None and any(share.outputs for share in shares):
            output = self.operation.forward(x, *own_parameters(used, x.dtype))
        parts = _parts(x) if any(term.part for share in shares for term in share.terms) else {}
        prepared = [self._prepare_share(share, used, x, parts, output) for share in shares]
        return [share for share in prepared if share is not None]

    def _prepare_share(
        self, share: Share, used: UsedParameters, x: torch.Tensor, parts: dict[str, torch.Tensor | None],
        output: torch.Tensor | None,
    ) -> _PreparedShare | None:
        terms: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        z = None
        for term in share.terms:
            modified = parts[term.part] if term.part else self._modified_input(term.pair, x)
            weight, bias, are_own = self.parameters[term.pair].of(used, x.dtype)
            if modified is None:
                contribution = self.operation.at_zero(x, weight, bias)
            else:
                is_output = modified is x and are_own and output is not None
                contribution = output if is_output else self.operation.forward(modified, weight, bias)
                terms.append((modified, weight))
            if contribution is not None:
                z = contribution if z is None else z + contribution
        if z is None or not terms:
            return None
        outputs = None
        if share.outputs is not None and output is not None:
            outputs = output > 0 if share.outputs == POSITIVE else output < 0
        denominator = self.stabilize(z, in_place=z is not output)
        merged = (
            outputs is None and isinstance(denominator, torch.Tensor) and len(denominator) == 1
            and all(self.operation.equal_weights(modified, weight) for modified, weight in terms)
            and torch.equal(denominator, denominator[:, :1].expand_as(denominator))
        )
        return _PreparedShare(
            self.factors[share.factor], denominator[:, :1] if merged else denominator, terms, outputs, merged,
        )

    def _modified_input(self, pair: int, x: torch.Tensor) -> torch.Tensor | None:
        """What the rule makes of the input, one row if all are equal; None if it is zero."""
        modifier, samples = self.rule.input_modifiers[pair], self.operation.takes(x)
        modified = modifier(x[:1] if modifier is torch.ones_like and samples else x)
        if modified is x:
            return x
        inside = inside_of_padding(x)
        modified = modified if inside is None else modified * inside
        modified = distinct_rows(modified) if samples else modified
        return modified if modified.any() else None

    def _relevance(self, relevance: torch.Tensor, shares: Any, shape: torch.Size) -> torch.Tensor:
        total: torch.Tensor | None = None
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

    used: UsedParameters
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
    operation : crp.rules.linear.LinearOperation
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
        self.gamma: float = _variables(rule.param_modifiers[0].modifier)["gamma"]
        self.own = ModifiedParameters(lambda parameter, name: parameter)
        self.absolute = ModifiedParameters(lambda parameter, name: parameter.abs())

    def _prepare(self, used: UsedParameters, x: torch.Tensor, output: torch.Tensor | None) -> _PreparedGamma:
        weight, bias, _ = self.own.of(used, x.dtype)
        if output is None:
            output = self.operation.forward(x, weight, bias)
        sign = output.sign()
        denominator = self.operation.forward(x.abs(), self.absolute.of(used, x.dtype)[0], None).mul_(sign)
        denominator.add_(output).mul_(self.gamma / 2).add_(output)
        b = self.operation.at_zero(x, weight, bias)
        if b is not None:
            denominator.add_((self.gamma / 2) * (sign * b.abs()))  # b+ or b-, less the half of b that is in the output
        return _PreparedGamma(used, x, self.stabilize(denominator, in_place=True), sign)

    def _relevance(self, relevance: torch.Tensor, prepared: _PreparedGamma, shape: torch.Size) -> torch.Tensor:
        x = prepared.x
        weight, absolute = (parameters.of(prepared.used, x.dtype)[0] for parameters in (self.own, self.absolute))
        s = relevance / prepared.denominator * prepared.sign.abs()
        sent = self.operation.transpose(s, weight, shape).mul_(x).mul_(1 + self.gamma / 2)
        unlike = self.operation.transpose(s.mul_(prepared.sign), absolute, shape)
        return sent.addcmul_(unlike, x.abs(), value=self.gamma / 2)


def _at_active_positions(
    function: Callable[..., torch.Tensor], relevance: torch.Tensor, x: torch.Tensor, output: torch.Tensor | None
) -> torch.Tensor:
    """``function(relevance, x, output)``, of the positions at which relevance arrives if these are few."""
    rows = relevance.flatten(0, -2).any(1) if relevance.ndim > 1 else None
    if rows is None or 2 * int(rows.sum()) > len(rows):
        tensors = (relevance, x, output)
        return function(*(None if tensor is None else tensor.to(precision(tensor)) for tensor in tensors))
    result = torch.zeros(x.shape, dtype=precision(x), device=x.device)
    if rows.any():
        flat_relevance, flat_x = relevance.flatten(0, -2)[rows], x.flatten(0, -2)[rows]
        flat_output = None if output is None else output.flatten(0, -2)[rows]
        result.view(-1, x.shape[-1])[rows] = _at_active_positions(function, flat_relevance, flat_x, flat_output)
    return result


def stabilizer_of(rule: Hook) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The function with which a rule of zennit's stabilizes its denominator; None if it has none."""
    rule = rule.rule if isinstance(rule, FastRule) else rule
    mapper = getattr(rule, "gradient_mapper", None)
    return _variables(mapper).get("stabilizer_fn") if inspect.isfunction(mapper) else None


def _variables(function: Callable) -> dict[str, Any]:
    """What a function of zennit's took along from where it was made."""
    return dict(inspect.getclosurevars(function).nonlocals)


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
