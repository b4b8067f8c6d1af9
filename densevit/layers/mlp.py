"""The feed-forward part of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import is_plain, linear_gelu
from .pieces import at_a_time
from .recompute import layer_of

__all__ = ['Mlp']


class Mlp(nn.Module):
    """Linear, activation, linear on the last dimension: (..., C) -> (..., C).

    Args:
        embed_dims: C, channels in and out.
        hidden_dims: channels between the two layers.
        activation: makes the module between them, exact GELU by default.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, activation: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = activation()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        if not (type(self.act) is nn.GELU and self.act.approximate == 'none'):
            return self.fc2(self.act(self.fc1(x)))
        if torch.is_grad_enabled():
            return layer_of(self.fc2, F.gelu, self.fc1(x))
        tokens = x.reshape(-1, x.shape[-1])
        count = at_a_time(x, len(tokens), self.fc1.out_features)
        if count >= len(tokens) or not is_plain(self.fc1, self.fc2):
            return self.fc2(linear_gelu(self.fc1, x))
        out = torch.cat([self.fc2(linear_gelu(self.fc1, some)) for some in tokens.split(count)])
        return out.view(x.shape)
