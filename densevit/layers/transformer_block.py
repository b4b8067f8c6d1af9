"""The residual block of a transformer."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .linear import has_hooks, is_plain
from .mlp import Mlp
from .pieces import at_a_time

__all__ = ['TransformerBlock', 'check_drop_path_rate', 'stochastic_depth_rates']


class TransformerBlock(nn.Module):
    """Two residual branches, each behind a LayerNorm: x + attn(norm1(x)), then x + mlp(norm2(x)).

    Source of the order (norm before, not after): Dosovitskiy et al., "An Image is Worth 16x16 Words", figure 1,
    https://arxiv.org/abs/2010.11929.

    Args:
        embed_dims: C, channels.
        attn: first branch; called with the normed tokens and whatever ``forward`` gets beside them.
        mlp: second branch.
        norm_eps: added to the variance in both norms.
        drop_path_rate: chance in [0, 1) that training skips a branch for an image.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, mlp: nn.Module, *, norm_eps: float = 1e-5, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, ..., C) -> (B, ..., C); ``context`` goes to the attention."""
        x = x + self.drop_path(self.attn(self.norm1(x), *context))
        return self.add_mlp(x, self.norm2, self.mlp)

    def add_mlp(self, x: Tensor, first: nn.Module, then: nn.Module) -> Tensor:
        """x + then(first(x)), where one of the two is the norm and the other the MLP: (B, ..., C) -> (B, ..., C).

        Each token for itself, so in inference some tokens at a time, which stay in the cache. ``x`` is a temporary,
        whose memory is used then.
        """
        tokens = x.view(-1, x.shape[-1]) if self._is_per_token(x) else None
        count = 0 if tokens is None else at_a_time(x, len(tokens), self.mlp.fc1.out_features)
        if tokens is None or count >= len(tokens):
            return x + self.drop_path(then(first(x)))
        for some in tokens.split(count):
            some += then(first(some))
        return x

    def _is_per_token(self, x: Tensor) -> bool:
        """Whether the second branch may be computed token by token: nothing else mixes or drops them, or listens."""
        if torch.is_grad_enabled() or self.training or type(self.mlp) is not Mlp or not x.is_contiguous():
            return False
        if x.device.type != 'cpu' or torch.is_autocast_enabled('cpu'):
            return False
        hooked = any(has_hooks(part) for part in (self.mlp, self.mlp.act, self.drop_path))
        plain = is_plain(self.norm2, self.mlp.fc1, self.mlp.fc2)
        return plain and not hooked


def check_drop_path_rate(drop_path_rate: float) -> float:
    """Return the rate or raise a ValueError: it must lie in [0, 1)."""
    if not 0 <= drop_path_rate < 1:
        raise ValueError(
            f'drop_path_rate={drop_path_rate} is outside [0, 1): it is the chance that a branch is skipped'
        )
    return drop_path_rate


def stochastic_depth_rates(drop_path_rate: float, depth: int) -> list[float]:
    """Drop path rates that rise linearly from 0 at the first of ``depth`` blocks to the given one at the last.

    Source: Huang et al., "Deep Networks with Stochastic Depth", section 3, https://arxiv.org/abs/1603.09382.

    Raises:
        ValueError: a rate outside [0, 1).
    """
    check_drop_path_rate(drop_path_rate)
    return [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
