"""Scaled dot-product attention, softmax(q k^T * scale + bias) v, by a plain formula and by torch's fused kernels.

Source: Vaswani et al., "Attention Is All You Need", equation 1, https://arxiv.org/abs/1706.03762.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['ATTN_BACKENDS', 'attention', 'attention_scores', 'check_attn_backend', 'merge_heads', 'split_heads']

# 'auto' is 'sdpa'; 'reference' reads like the formula and is the oracle of every other backend.
ATTN_BACKENDS = ('auto', 'reference', 'sdpa')


def check_attn_backend(backend: str) -> str:
    """Return ``backend`` or raise a ValueError that lists the valid names."""
    if backend not in ATTN_BACKENDS:
        raise ValueError(f'attn_backend={backend!r} is unknown; valid are {", ".join(ATTN_BACKENDS)}')
    return backend


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(..., L, C) -> (..., h, L, d): head i has channels i * d to (i + 1) * d."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(x: Tensor) -> Tensor:
    """(..., h, L, d) -> (..., L, C), the inverse of :func:`split_heads`."""
    return x.transpose(-3, -2).flatten(-2)


def attention_scores(
    q: Tensor, k: Tensor, *, bias: Tensor | None = None, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """What the softmax of attention is applied to: q k^T * scale + bias, minus infinity where ``mask`` is False.

    Args:
        q: queries (B, h, L, d).
        k: keys (B, h, S, d).
        bias: added to the scores, broadcastable to (B, h, L, S).
        mask: boolean, broadcastable to (B, h, L, S): True where the query may look at the key; each query must be
            allowed at least one.
        scale: factor on q k^T, d ** -0.5 by default.

    Returns:
        (B, h, L, S).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Mix the values by attention.

    Args:
        q: queries (B, h, L, d).
        k: keys (B, h, S, d).
        v: values (B, h, S, d).
        bias: added to the scores, broadcastable to (B, h, L, S).
        mask: boolean, broadcastable to (B, h, L, S): True where the query may look at the key; each query must be
            allowed at least one.
        scale: factor on q k^T, d ** -0.5 by default.
        backend: one of :data:`ATTN_BACKENDS`.

    Returns:
        (B, h, L, d).

    Raises:
        ValueError: an unknown ``backend``, or a mask that is not boolean.
    """
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f'mask of {mask.dtype}: give a boolean one, True where a query may look at a key, or a bias')
    if check_attn_backend(backend) == 'reference':
        return attention_scores(q, k, bias=bias, mask=mask, scale=scale).softmax(dim=-1).to(v.dtype) @ v
    bias, mask = (None if each is None else torch.atleast_2d(each) for each in (bias, mask))
    if bias is not None:
        bias = bias.to(q.dtype)
        if mask is not None:
            bias = torch.where(mask, bias, -torch.inf)  # torch takes one of the two
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask if bias is None else bias, scale=scale)
