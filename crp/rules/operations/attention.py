"""Attention in plain PyTorch, operation by operation, where PyTorch's own functions hide what they do."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:
    """What :func:`torch.nn.functional.scaled_dot_product_attention` gives.

    Parameters
    ----------
    query : torch.Tensor
        [..., L, E]
    key, value : torch.Tensor
        [..., S, E], [..., S, V]
    attn_mask : torch.Tensor, optional
        [..., L, S]: False where a query may not look, or added to the scores.
    dropout_p, is_causal, scale, enable_gqa
        As in PyTorch.

    Returns
    -------
    torch.Tensor
        [..., L, V]
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.mT
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    weights = functional.softmax(masked(scores, attn_mask), -1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        weights = weights.masked_fill(~attn_mask.any(-1, keepdim=True), 0.)  # queries that may look nowhere
    return functional.dropout(weights, dropout_p) @ value


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores with minus infinity where a boolean mask is False, or with another mask added."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def multi_head_attention_forward(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None, bias_v: Tensor | None,
    add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor, out_proj_bias: Tensor | None,
    training: bool = True, key_padding_mask: Tensor | None = None, need_weights: bool = True,
    attn_mask: Tensor | None = None, use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None, static_k: Tensor | None = None,
    static_v: Tensor | None = None, average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What :func:`torch.nn.functional.multi_head_attention_forward` gives: output [L, N, E] and weights [N, L, S].

    Parameters are those of PyTorch's function; tensors without the axis N get one of length 1 in between.
    """
    if query.ndim == 2:
        inputs = {id(x): x.unsqueeze(1) for x in (query, key, value)}  # one tensor stays one
        q, k, v = (inputs[id(x)] for x in (query, key, value))
        output, weights = multi_head_attention_forward(
            q, k, v, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias,
            bias_k, bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, training,
            key_padding_mask if key_padding_mask is None else key_padding_mask.unsqueeze(0), need_weights, attn_mask,
            use_separate_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, static_k, static_v,
            average_attn_weights, is_causal,
        )
        return output.squeeze(1), weights if weights is None else weights.squeeze(0)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    q, k, v = (x.transpose(0, 1) for x in _project(query, key, value, separate or in_proj_weight, in_proj_bias))
    if bias_k is not None and bias_v is not None:
        added = (bias.reshape(1, 1, -1).expand(len(k), -1, -1) for bias in (bias_k, bias_v))
        k, v = (torch.cat([x, bias], 1) for x, bias in zip((k, v), added))
    q, k, v = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    k, v = (
        x if static is None else static.unflatten(0, (-1, num_heads)) for x, static in ((k, static_k), (v, static_v))
    )
    if add_zero_attn:
        k, v = (functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.mT
    if attn_mask is not None:
        attn_mask = attn_mask.unflatten(0, (-1, num_heads)) if attn_mask.ndim == 3 else attn_mask
        scores = masked(scores, _allowed(attn_mask, scores.shape[-1]))
    if key_padding_mask is not None:
        scores = masked(scores, _allowed(key_padding_mask[:, None, None], scores.shape[-1]))
    weights = functional.dropout(functional.softmax(scores, -1), dropout_p, training)
    heads = (weights @ v).transpose(1, 2).flatten(2)
    output = functional.linear(heads, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not need_weights:
        return output, None
    return output, weights.mean(1) if average_attn_weights else weights


def _project(query: Tensor, key: Tensor, value: Tensor, weight: Any, bias: Tensor | None) -> Sequence[Tensor]:
    """Queries, keys and values; by one linear operation as far as they are of the same tensor."""
    if query is key is value and isinstance(weight, Tensor):
        return functional.linear(query, weight, bias).chunk(3, -1)
    weights = weight.chunk(3) if isinstance(weight, Tensor) else weight
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return [functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases)]


def _allowed(mask: Tensor, length: int) -> Tensor:
    """A mask of nn.MultiheadAttention, in which True forbids, as one that allows; for the keys that were added too."""
    added = length - mask.shape[-1]
    if mask.dtype != torch.bool:
        return functional.pad(mask, (0, added)) if added else mask
    return functional.pad(~mask, (0, added), value=True) if added else ~mask


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """What :func:`torch.nn.functional.glu` gives."""
    values, gates = input.chunk(2, dim)
    return values * gates.sigmoid()


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """What :func:`torch.nn.functional.cosine_similarity` gives."""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    return (functional.normalize(x1, dim=dim, eps=eps) * functional.normalize(x2, dim=dim, eps=eps)).sum(dim)
