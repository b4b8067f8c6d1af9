"""Between the layout inside a backbone, (B, H, W, C), and the layout of convolutions and heads, (B, C, H, W)."""

from __future__ import annotations

from torch import Tensor

__all__ = ['to_nchw', 'to_nhwc']


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view: of a contiguous map it is torch's ``channels_last`` layout."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view: contiguous where ``x`` is ``channels_last``."""
    return x.permute(0, 2, 3, 1)
