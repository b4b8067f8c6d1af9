"""Activations of temporaries: in their own memory where no gradient can be asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['QuickGELU', 'gelu_']


def gelu_(x: Tensor) -> Tensor:
    """Exact GELU, x * Phi(x), of a tensor that nobody else needs: without gradients it is overwritten.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415.
    """
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU in section 2 of https://arxiv.org/abs/1606.08415.

    Computed as silu(1.702 x) / 1.702: its gradient needs one stored tensor instead of two. The input must be a
    temporary: without gradients it is overwritten.
    """

    SLOPE = 1.702

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.silu(self.SLOPE * x) / self.SLOPE
        return F.silu(x.mul_(self.SLOPE), inplace=True).div_(self.SLOPE)
