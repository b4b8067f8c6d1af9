"""Learned aggregation: one attention layer that turns a map into one vector, or into one vector per class.

Touvron et al., "Augmenting Convolutional networks with attention-based aggregation", section 3.1,
https://arxiv.org/abs/2112.13692. Official code: `facebookresearch/deit` (commit 7e160fe), `patchconvnet_models.py`
(Apache-2.0).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .attention import attention, attention_scores, check_attn_backend, merge_heads, split_heads
from .attention_layer import GlobalAttention
from .attention_record import Recordable
from .mlp import Mlp

__all__ = ['Aggregate', 'LearnedAggregation', 'PerClassLinear', 'QueryAttention']


class Aggregate(NamedTuple):
    """What :meth:`LearnedAggregation.forward` returns when the attention is asked for.

    ``scores``, before the softmax, and ``weights``, after it, are those that the forward pass used: (B, h, K, S). Each
    row of ``weights`` sums to one. With one query per image S = 1 + H * W and entry 0 is the query itself; with one
    query per class S = H * W. Positions run row by row, so ``weights[..., -H * W:].unflatten(-1, (H, W))`` is a map.
    """

    vectors: Tensor
    scores: Tensor
    weights: Tensor


class QueryAttention(Recordable):
    """Attention of a few queries over many tokens, with projections of queries, keys, values and the result.

    Args:
        embed_dims: C, channels.
        num_heads: heads, each of C / num_heads channels; 1 gives one weight per token.
        attn_backend: see :func:`densevit.layers.attention`.
    """

    def __init__(self, embed_dims: int, num_heads: int = 1, attn_backend: str = 'auto') -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims={embed_dims} is not a multiple of num_heads={num_heads}')
        self.num_heads = num_heads
        self.attn_backend = check_attn_backend(attn_backend)
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self, queries: Tensor, tokens: Tensor, need_scores: bool = False, *, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Queries (B, K, C) and tokens (B, S, C) -> (B, K, C), and the scores before the softmax (B, h, K, S).

        ``size`` is (H, W) of the map that the last tokens are, for a recording; else they are recorded as one row.
        """
        q, k, v = (split_heads(x, self.num_heads) for x in (self.q(queries), self.k(tokens), self.v(tokens)))
        if self.recorder is not None:
            size = size or (1, tokens.shape[1])
            self.recorder(GlobalAttention(q, k, query_size=None, key_size=size, kind='learned aggregation'))
        if need_scores:
            scores = attention_scores(q, k)
            mixed = scores.softmax(dim=-1) @ v
        else:
            scores, mixed = None, attention(q, k, v, backend=self.attn_backend)
        return self.proj(merge_heads(mixed)), scores


class LearnedAggregation(nn.Module):
    """Class queries attend to a map, then pass a feed-forward layer: the head part of PatchConvNet, for any map.

    The map itself is not changed. Two versions, as in the paper:

    * ``num_classes=None``: one query per image, and it attends to itself too, so the weights of the map sum to less
      than one.
    * ``num_classes=K``: one query per class (the models called *multi*), which attend to the map only. Vector k then
      says what the network saw of class k, and weight map k where.

    Args:
        embed_dims: C, channels of the map.
        num_classes: number of class queries, or None for a single query.
        num_heads: attention heads; the paper takes 1.
        mlp_ratio: hidden channels of the feed-forward layer as a multiple of C.
        layer_scale_init: first value of the residual branches' per-channel factors.
        attn_backend: see :func:`densevit.layers.attention`.

    Deviation from the official code: there the final norm runs over the class token and all patches, of which the
    patches are then thrown away; here it runs over the queries only.
    """

    def __init__(
        self,
        embed_dims: int,
        num_classes: int | None = None,
        *,
        num_heads: int = 1,
        mlp_ratio: float = 3.0,
        layer_scale_init: float = 1e-4,
        attn_backend: str = 'auto',
    ) -> None:
        super().__init__()
        if num_classes is not None and num_classes < 1:
            raise ValueError(f'num_classes={num_classes}: give at least one class, or None for a single query')
        self.num_classes = num_classes
        self.cls_token = nn.Parameter(torch.zeros(1, num_classes or 1, embed_dims))
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = QueryAttention(embed_dims, num_heads, attn_backend)
        self.layer_scale_init = layer_scale_init
        self.gamma_1 = nn.Parameter(torch.empty(embed_dims))
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio))
        self.gamma_2 = nn.Parameter(torch.empty(embed_dims))
        self.norm = nn.LayerNorm(embed_dims, eps=1e-6)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers and queries truncated normal with deviation 0.02, biases 0, as the official code."""
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for gamma in (self.gamma_1, self.gamma_2):
            nn.init.constant_(gamma, self.layer_scale_init)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, need_weights: bool = False) -> Tensor | Aggregate:
        """Aggregate a map.

        Args:
            x: map (B, C, H, W), any H and W.
            need_weights: return an :class:`Aggregate`, with the attention.

        Returns:
            (B, K, C), normalised; K is 1 for a single query.
        """
        patches = x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, L, C)
        queries = self.cls_token.expand(len(x), -1, -1)  # (B, K, C)
        if self.num_classes is None:
            tokens = self.norm1(torch.cat([queries, patches], dim=1))  # (B, 1 + L, C)
            asked = tokens[:, :1]
        else:
            tokens = self.norm1(patches)  # (B, L, C)
            asked = self.norm1(queries)
        mixed, scores = self.attn(asked, tokens, need_weights, size=(x.shape[2], x.shape[3]))
        queries = queries + self.gamma_1 * mixed
        queries = queries + self.gamma_2 * self.mlp(self.norm2(queries))
        vectors = self.norm(queries)
        return Aggregate(vectors, scores, scores.softmax(dim=-1)) if need_weights else vectors


class PerClassLinear(nn.Module):
    """One linear unit per class, which reads the vector of its class only: (B, K, C) -> (B, K)."""

    def __init__(self, embed_dims: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, embed_dims))
        self.bias = nn.Parameter(torch.empty(num_classes))
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors * self.weight).sum(dim=-1) + self.bias
