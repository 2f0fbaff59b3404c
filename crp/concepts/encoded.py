"""Concepts that are no units of a layer: directions, and the latents of an autoencoder.

The layer's tensor x is written as ``decode(encode(x)) + remainder``. Its code, with one more entry for the remainder,
takes the place of the tensor: it is recorded, read and masked as if the code's entries were channels on the last axis.
The model goes on with x itself. Relevance of x is divided among code and remainder by what they contribute to it, so it
adds up. Where a condition names the layer, relevance goes back to x through the encoder; elsewhere it passes as it
came, so that to read a code changes nothing below it.

Autoencoders that normalise keep the norm of what they encoded until they have decoded it. So ``decode`` is called once
for each time that ``encode`` was, right after it and on the same rows.
"""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crp.concepts.channels import ChannelConcept
from crp.model.callbacks import call_reader
from crp.rules.operations.call import Operation
from crp.rules.operations.table import normalises
from crp.rules.restoring import AttributeState, FunctionMode, undone
from crp.rules.stabilizers import stabilized


class EncodedConcept(ChannelConcept):
    """Each entry of a code, such as a latent of a sparse autoencoder, is a concept; the last id is the remainder.

    The remainder is what the decoder does not reconstruct, its bias included; the value of its activation is its norm.
    Recorded activations and relevances of the layer are codes [B, positions..., K + 1]. To be given as ``mask_map`` or
    in a ``layer_map``.

    Parameters
    ----------
    encode : callable
        ``[..., C] -> [..., K]``. Relevance passes it by the epsilon rule, ReLU and choices of the largest entries
        included; norms and standard deviations of the features are constants.
    decode : callable
        ``[..., K] -> [..., C]``, affine, as the decoders of sparse autoencoders are: at least for the features that
        ``encode`` was given last. It may use, and delete, what ``encode`` keeps of them, such as their norm; once both
        have run, attributes of the objects that they belong to are as before.
    axis : int, default -1
        The axis of the layer's features C, counted with the batch axis.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from zennit.composites import EpsilonPlus
    >>> from crp.attribution import CondAttribution
    >>> encoder, decoder = nn.Sequential(nn.Linear(8, 20), nn.ReLU()), nn.Linear(20, 8)
    >>> concept = EncodedConcept(encoder, decoder)
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> attribution = CondAttribution(model, heatmap_axis=None)
    >>> result = attribution(torch.rand(2, 4), [{"1": [3], "y": [0]}], EpsilonPlus(), ["1"], mask_map={"1": concept})
    >>> result.relevances["1"].shape
    torch.Size([2, 21])
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], axis: int = -1):
        super().__init__(-1)
        self.encode, self.decode, self.feature_axis = encode, decode, ChannelConcept(axis).axis

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.encode!r}, {self.decode!r}, axis={self.feature_axis})"

    def splice(
        self, x: Tensor, on_code: Callable[[Tensor], Tensor], masked_rows: Callable[[], list[int]] = list
    ) -> Tensor:
        """Put the code between a tensor and what follows.

        Parameters
        ----------
        x : torch.Tensor
            [B, ...], activation of the layer.
        on_code : callable
            Is given the code [B, positions..., K + 1] and returns it, perhaps as another tensor.
        masked_rows : callable
            Asked on the way back, in which rows the code's relevance was masked.

        Returns
        -------
        torch.Tensor
            Equal to ``x``.
        """
        features, shares = x.movedim(self.feature_axis, -1), _Shares(masked_rows)
        code, remainder = _Encode.apply(features, self, shares)
        return _Decode.apply(on_code(code), features.detach(), remainder, self, shares).movedim(-1, self.feature_axis)

    def code_of(self, x: Tensor) -> Tensor:
        """The code [B, positions..., K + 1] of an activation [B, ...]."""
        return self.with_remainder(x.movedim(self.feature_axis, -1))[0]

    def with_remainder(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The code of ``features`` [..., C], the remainder's norm as its last entry; and the remainder [..., C]."""
        with _left_as_found(self.encode, self.decode):
            code = self.encoded(features)
            contribution = self.decoded(code, features)
            contribution = contribution - self.decoded(torch.zeros_like(self.encoded(features)), features)
        remainder = features - contribution.to(features.dtype)
        return torch.cat([code, remainder.norm(dim=-1, keepdim=True)], -1), remainder

    def edited(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """An activation [B, ...] whose code [B, positions..., K + 1] was changed; the remainder follows its norm."""
        features = x.movedim(self.feature_axis, -1)
        code, remainder = self.with_remainder(features)
        changed = change(code)
        with _left_as_found(self.encode, self.decode):
            before = self.decoded(self.encoded(features), features)
        with _left_as_found(self.encode, self.decode):
            self.encoded(features)
            after = self.decoded(changed[..., :-1], features)
        scale = changed[..., -1:] / code[..., -1:].clamp_min(torch.finfo(code.dtype).tiny)
        others = remainder * (torch.where(changed[..., -1:] == code[..., -1:], 1, scale) - 1)
        return x + (after - before + others.to(after)).to(x.dtype).movedim(-1, self.feature_axis)

    def shares_of(self, difference: Tensor, x: Tensor, other: Tensor) -> Tensor:
        """Products of ``difference``, which are per unit of ``x``, with what each latent changes from ``x`` to another.

        Parameters
        ----------
        difference, x, other : torch.Tensor
            [B, ...] each, the last two activations.

        Returns
        -------
        torch.Tensor
            [B, positions..., K + 1], the remainder last: they add up to ``difference * (other - x)``.
        """
        (code, remainder), (goal, of_other) = (
            self.with_remainder(features.movedim(self.feature_axis, -1)) for features in (x, other)
        )
        features, factors = x.movedim(self.feature_axis, -1), difference.movedim(self.feature_axis, -1)
        with _left_as_found(self.encode, self.decode):
            leaf = self.encoded(features).detach().requires_grad_()
            with torch.enable_grad():
                decoded = self.decoded(leaf, features)
        gradient, = torch.autograd.grad(decoded, leaf, factors.to(decoded.dtype))
        latents = gradient * (goal - code)[..., :-1]
        return torch.cat([latents, (factors * (of_other - remainder)).sum(-1, keepdim=True)], -1)

    def patched(self, x: Tensor, other: Tensor, members: Tensor) -> Tensor:
        """``x`` with those latents of another activation that are members, [rows, positions..., K + 1] bool."""
        features, goal = (tensor.movedim(self.feature_axis, -1) for tensor in (x, other))
        (code, remainder), (of_other, other_remainder) = map(self.with_remainder, (features, goal))
        chosen = torch.where(members[..., :-1], of_other[..., :-1], code[..., :-1])
        with _left_as_found(self.encode, self.decode):
            self.encoded(features)
            decoded = self.decoded(chosen, features.expand(*chosen.shape[:-1], features.shape[-1]))
            self.encoded(features)
            before = self.decoded(code[..., :-1], features)
        rest = torch.where(members[..., -1:], other_remainder - remainder, 0)
        return (features + (decoded - before) + rest).to(x.dtype).movedim(-1, self.feature_axis)

    def encoded(self, features: Tensor) -> Tensor:
        """The code [..., K] of ``features`` [..., C]; to be decoded before anything else is encoded."""
        code = call_reader(self.encode, "encode", features)
        if not isinstance(code, Tensor):
            raise TypeError(
                f"encode gives a {type(code).__name__}, not a tensor. Where the code is one of several things, give a "
                "function that returns it alone, such as lambda x: autoencoder.encode(x)[1]"
            )
        if code.shape[:-1] != features.shape[:-1]:
            raise ValueError(
                f"encode gives {tuple(code.shape)} for {tuple(features.shape)}: [..., C] is to become [..., K]"
            )
        return code

    def decoded(self, code: Tensor, features: Tensor) -> Tensor:
        """What a code [..., K] stands for, right after ``features`` [..., C] were encoded."""
        decoded = call_reader(self.decode, "decode", code)
        if not isinstance(decoded, Tensor) or decoded.shape != features.shape:
            raise ValueError(
                f"decode gives {tuple(getattr(decoded, 'shape', ()))} for the code of {tuple(features.shape)}: "
                "[..., K] is to become [..., C]"
            )
        return decoded


def _left_as_found(*functions: Callable) -> AbstractContextManager[None]:
    """Put back, at the end, the attributes of the objects and modules that functions belong to, or name."""
    return undone(AttributeState(held for function in functions for held in _attributes_near(function)).restore)


def _attributes_near(function: Callable) -> Iterator[dict[str, Any]]:
    while isinstance(function, functools.partial):
        function = function.func
    owner = function.__self__ if inspect.ismethod(function) else function
    attributes = getattr(owner, "__dict__", {})
    if isinstance(attributes, dict):  # those of classes cannot be written to
        yield attributes
    near = [owner, *attributes.values()]
    if inspect.isfunction(owner):
        named = inspect.getclosurevars(owner)
        near += [*named.nonlocals.values(), *named.globals.values()]
    for module in (module for value in near if isinstance(value, nn.Module) for module in value.modules()):
        yield from (vars(module), module._buffers)


class _NormsAreConstant(FunctionMode):
    """Gradients pass no norm and no deviation of the features of a row."""

    def __init__(self, rows: int):
        super().__init__()
        self.rows = rows

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result, kwargs = function(*args, **(kwargs or {})), kwargs or {}
        is_of_rows = isinstance(result, Tensor) and result.requires_grad and result.numel() == self.rows
        return result.detach() if is_of_rows and normalises(Operation(function, args, kwargs, stabilized)) else result


class _Shares:
    """What is kept on the way back from decoder to encoder: relevance of the layer and of the remainder, by feature."""

    def __init__(self, masked_rows: Callable[[], list[int]]):
        self.masked_rows = masked_rows
        self.of_layer: Tensor | None = None
        self.of_remainder: Tensor | None = None

    def taken(self) -> tuple[Tensor | None, Tensor | None]:
        """Both, which are not kept any longer; None where relevance starts at the code."""
        found = self.of_layer, self.of_remainder
        self.of_layer = self.of_remainder = None
        return found


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, concept: EncodedConcept, shares: _Shares) -> tuple[Tensor, Tensor]:
        ctx.concept, ctx.shares = concept, shares
        code, remainder = concept.with_remainder(features)
        ctx.save_for_backward(features, remainder)
        ctx.mark_non_differentiable(remainder)
        ctx.set_materialize_grads(False)
        return code, remainder

    @staticmethod
    def backward(ctx: Any, relevance: Tensor, _: None) -> tuple[Tensor, None, None]:
        """By the epsilon rule in masked rows; elsewhere relevance of the layer, as it came."""
        of_layer, of_remainder = ctx.shares.taken()
        masked = ctx.shares.masked_rows()
        if of_layer is not None and not masked:
            return of_layer, None, None
        features, remainder = ctx.saved_tensors
        concept = ctx.concept
        with _left_as_found(concept.encode, concept.decode):
            with torch.enable_grad(), _NormsAreConstant(features[..., 0].numel()):
                leaf = features.detach().requires_grad_()
                code = concept.encoded(leaf)
            concept.decoded(code.detach(), features)
        of_code = relevance[..., :-1].to(code.dtype) / stabilized(code.detach())
        gradient, = torch.autograd.grad(code, leaf, of_code)
        # relevance of the remainder goes as it came, or where it starts here by what its norm consists of
        parts = remainder.square() if of_remainder is None else of_remainder
        total = parts.sum(-1, keepdim=True)
        parts = torch.where(total == 0, 0, parts / torch.where(total == 0, 1, total))
        sent = (features * gradient + relevance[..., -1:] * parts).to(features.dtype)
        if of_layer is not None:
            others = torch.ones(len(sent), dtype=torch.bool, device=sent.device).index_fill(
                0, torch.tensor(masked, device=sent.device), False
            )
            sent[others] = of_layer[others]
        return sent, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, code: Tensor, features: Tensor, remainder: Tensor, concept: EncodedConcept, shares: _Shares
    ) -> Tensor:
        ctx.concept, ctx.shares = concept, shares
        ctx.save_for_backward(features, remainder)
        return features.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None, None, None, None]:
        """In proportion to contributions."""
        features, remainder = ctx.saved_tensors
        concept, s = ctx.concept, relevance / stabilized(features)
        with _left_as_found(concept.encode, concept.decode):
            code = concept.encoded(features).detach().requires_grad_()
            with torch.enable_grad():
                decoded = concept.decoded(code, features)
        gradient, = torch.autograd.grad(decoded, code, s.to(decoded.dtype))
        ctx.shares.of_remainder = s * remainder
        of_remainder = ctx.shares.of_remainder.sum(-1, keepdim=True)
        ctx.shares.of_layer = relevance
        return torch.cat([code.detach() * gradient, of_remainder], -1), None, None, None, None


class DirectionConcept(EncodedConcept):
    """Each direction in the space of a layer's features is a concept; the last id is what they do not span.

    Parameters
    ----------
    basis : array_like
        [K, C]. The code of x are the coefficients of its projection on their span; the smallest ones, if the directions
        depend on each other.
    axis : int, default -1
        The axis of the layer's features C, counted with the batch axis: -1 for [B, T, C] and [B, C], 1 for
        [B, C, H, W].

    Raises
    ------
    ValueError
        If directions are zero or not finite.
    """

    def __init__(self, basis: Any, axis: int = -1):
        directions = torch.as_tensor(_as_array(basis))
        if directions.ndim != 2:
            raise ValueError(f"a basis is [directions, features], not of the shape {tuple(directions.shape)}")
        if not torch.isfinite(directions).all() or not directions.any(1).all():
            raise ValueError("the directions of a basis are finite and not zero")
        self.basis = directions
        self._inverse: Tensor = torch.linalg.pinv(directions)
        super().__init__(self._coefficients, self._combination, axis)

    def __repr__(self) -> str:
        return f"DirectionConcept({len(self.basis)} of {self.basis.shape[1]} dimensions, axis={self.feature_axis})"

    def _coefficients(self, features: Tensor) -> Tensor:
        if features.shape[-1] != self.basis.shape[1]:
            raise ValueError(f"the layer has {features.shape[-1]} features, the basis {self.basis.shape[1]}")
        return features @ self._inverse.to(features)

    def _combination(self, code: Tensor) -> Tensor:
        return code @ self.basis.to(code)

    @classmethod
    def fit(
        cls, values: Any, labels: Any = None, method: str = "pca", n_components: int = 10, axis: int = -1,
        random_state: int | None = 0,
    ) -> DirectionConcept:
        """Find directions in the activations of a layer.

        Parameters
        ----------
        values : array_like
            [N, ...], activations; the features on ``axis``, and all other axes are samples of the directions.
        labels : array_like of int or str, optional
            [N], for "cav" and "mean_difference".
        method : {"pca", "nmf", "cav", "mean_difference"}
            Principal components of centred values; non-negative matrix factorisation; the normal of a linear classifier
            that tells a label from the others (concept activation vectors, B. Kim et al., 2018); the mean of the values
            with a label, less that of the others. With two labels there is one direction, towards the second.
        n_components : int, default 10
            How many directions "pca" and "nmf" give.
        axis : int, default -1
            The axis of the features, counted with the batch axis.
        random_state : int, optional
            For "nmf" and "cav".

        Returns
        -------
        DirectionConcept
            With directions of length 1.

        Raises
        ------
        ValueError
            If labels are missing, not needed or of one kind only, or "nmf" is given negative values.
        """
        values = _as_array(values)
        rows = np.moveaxis(values, axis, -1)
        samples = np.broadcast_to(
            np.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 2)), rows.shape[:-1]
        ).reshape(-1)
        rows = rows.reshape(-1, rows.shape[-1])
        if method in ("cav", "mean_difference"):
            if labels is None:
                raise ValueError(f"{method!r} needs labels")
            labels = np.asarray(labels)
            if labels.shape != (len(values),):
                raise ValueError(f"labels are one for each of {len(values)} samples, not of the shape {labels.shape}")
            find = _normals if method == "cav" else _mean_differences
            directions = find(rows, labels[samples], random_state)
        elif method in ("pca", "nmf"):
            if labels is not None:
                raise ValueError(f"{method!r} takes no labels")
            directions = _components(rows, method, n_components, random_state)
        else:
            raise ValueError(f"method is 'pca', 'nmf', 'cav' or 'mean_difference', not {method!r}")
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise ValueError(f"{method!r} finds no direction: the values of the groups do not differ")
        return cls(directions / lengths, axis)


def _as_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double()  # numpy knows no bfloat16
    return np.asarray(values, dtype=np.float64)


def _components(rows: np.ndarray, method: str, n_components: int, random_state: int | None) -> np.ndarray:
    from sklearn.decomposition import NMF, PCA  # slow to import, and only needed here

    if not 1 <= n_components <= min(rows.shape):
        raise ValueError(f"n_components is 1 to {min(rows.shape)} for values [{len(rows)}, {rows.shape[1]}]")
    if method == "pca":
        return PCA(n_components, svd_solver="full").fit(rows).components_
    if rows.min() < 0:
        raise ValueError("'nmf' needs values that are not negative, such as activations after a ReLU")
    return NMF(n_components, init="nndsvda", max_iter=1000, random_state=random_state).fit(rows).components_


def _sides(labels: np.ndarray) -> list[np.ndarray]:
    """For each direction, which rows lie on its positive side."""
    kinds = np.unique(labels)
    if len(kinds) < 2:
        raise ValueError(f"labels are of two kinds at least, not only {kinds.tolist()}")
    return [labels == kind for kind in (kinds[1:] if len(kinds) == 2 else kinds)]


def _mean_differences(rows: np.ndarray, labels: np.ndarray, random_state: int | None) -> np.ndarray:
    return np.stack([rows[side].mean(0) - rows[~side].mean(0) for side in _sides(labels)])


def _normals(rows: np.ndarray, labels: np.ndarray, random_state: int | None) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    scale = rows.std() or 1.
    return np.stack([
        LogisticRegression(max_iter=1000, random_state=random_state).fit(rows / scale, side).coef_[0]
        for side in _sides(labels)
    ])
