"""Learned position embeddings for maps of any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .convert import to_nchw, to_nhwc

__all__ = ['resample_position']


def resample_position(table: Tensor, grid: tuple[int, int], size: tuple[int, int], mode: str = 'bilinear') -> Tensor:
    """A table of position embeddings as a map of the size that an image needs.

    Args:
        table: (1, H0 * W0, C), row by row.
        grid: (H0, W0) that the table was learned for.
        size: (H, W) of the map that it is added to.
        mode: of ``torch.nn.functional.interpolate``; corners are not aligned, nothing is smoothed before.

    Returns:
        (1, H, W, C): the table itself where ``size`` is ``grid``.
    """
    position = table.unflatten(1, grid)  # (1, H0, W0, C)
    if tuple(size) == tuple(grid):
        return position
    return to_nhwc(F.interpolate(to_nchw(position), size=size, mode=mode, align_corners=False))
