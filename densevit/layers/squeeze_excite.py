"""Squeeze-and-excitation: weigh the channels of a map by what the whole map holds."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['SqueezeExcite']


class SqueezeExcite(nn.Module):
    """Multiply every channel by a gate in (0, 1) that is computed from the mean of all channels over the map.

    Source: Hu et al., "Squeeze-and-Excitation Networks", section 3, https://arxiv.org/abs/1709.01507. timm's module
    of that name has the same arithmetic on (B, C, H, W); on (B, H, W, C) the two 1 x 1 convolutions are linear layers.
    The mean is taken over the whole input, so a crop and the full image give different gates.

    Args:
        channels: C, channels of the map.
        reduction_ratio: hidden channels as a fraction of C (rounded).
    """

    def __init__(self, channels: int, reduction_ratio: float = 0.25) -> None:
        super().__init__()
        hidden = max(1, round(channels * reduction_ratio))
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def gate(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, 1, 1, C)."""
        gate = self.expand(F.relu(self.reduce(x.mean(dim=(1, 2)))))  # (B, C)
        return gate.sigmoid()[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x * self.gate(x)
