"""Between the layout inside a backbone, (B, H, W, C), and the layout of convolutions and heads, (B, C, H, W)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .pieces import is_transformed

__all__ = ['contiguous_nchw', 'to_nchw', 'to_nhwc']

# Of maps with as many numbers, torch copies a transposed matrix faster than a map of permuted axes, though in one
# thread: 2.7 against 1.2 ms for (128, 128, 96), 16 against 5 ms for (200, 304, 96), with two threads.
_LARGE = 2**20
_FEW_THREADS = 4


def to_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view: of a contiguous map it is torch's ``channels_last`` layout."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view: contiguous where ``x`` is ``channels_last``."""
    return x.permute(0, 2, 3, 1)


def contiguous_nchw(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a contiguous copy, whose gradient arrives as a contiguous (B, H, W, C).

    autograd would give it the copy's layout, and every layer before would then work across its memory.
    """
    if torch.is_grad_enabled() and x.requires_grad and not is_transformed():
        return _ContiguousNCHW.apply(x)
    return _transposed(x)


def _transposed(x: Tensor) -> Tensor:
    if is_transformed() or x.device.type != 'cpu' or torch.get_num_threads() > _FEW_THREADS:
        return to_nchw(x).contiguous()
    if not x.is_contiguous() or x.numel() < _LARGE * len(x):
        return to_nchw(x).contiguous()
    maps = torch.empty_like(to_nchw(x), memory_format=torch.contiguous_format)
    for there, here in zip(maps.flatten(2), x.flatten(1, 2), strict=True):
        there.copy_(here.t())
    return maps


class _ContiguousNCHW(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return to_nchw(x).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass  # nothing to keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return to_nhwc(grad).contiguous()
