"""The feed-forward part of a transformer block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

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
        return self.fc2(self.act(self.fc1(x)))
