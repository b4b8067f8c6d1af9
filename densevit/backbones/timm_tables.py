"""Tables of positions of timm's models, resampled for images of other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

__all__ = ['interpolate_distances', 'resampled_table', 'resized_table']


def resampled_table(model: nn.Module, size: Sequence[int], layout: str) -> Tensor:
    """The position table for an image of another size, by bicubic interpolation as timm does it for ViT.

    Args:
        model: of timm, with a table ``pos_embed`` for one size.
        size: height and width of the padded image, in pixels.
        layout: of the table: ``'NLC'``, tokens row by row, or ``'NCHW'``.

    Returns:
        (1, H * W, C) or (1, C, H, W): the table itself where it has that size.
    """
    table: Tensor = model.pos_embed
    if layout == 'NCHW':  # PiT
        patch, stride = model.patch_embed.conv.kernel_size[0], model.patch_embed.conv.stride[0]
        rows, columns = ((side - patch) // stride + 1 for side in size)
        if table.shape[2:] == (rows, columns):
            return table
        return _interpolate(table, (rows, columns))
    rows, columns = model.patch_embed.dynamic_feat_size(tuple(size))
    before = model.patch_embed.grid_size
    if before == (rows, columns):
        return table
    return resample_abs_pos_embed(table, [rows, columns], list(before), num_prefix_tokens=0)


def resized_table(model: nn.Module, table: Tensor, shape: Sequence[int]) -> Tensor | None:
    """A position table for another size of image in the ``shape`` that a model has; None where it is no such table."""
    if table.ndim == 4 and table.shape[1] == shape[1]:
        return _interpolate(table, tuple(shape[2:]))
    if table.ndim != 3 or table.shape[2] != shape[2]:
        return None
    grid = model.patch_embed.grid_size
    prefix = shape[1] - math.prod(grid)  # class tokens that the table counts
    tokens = table.shape[1] - prefix
    if math.isqrt(tokens) ** 2 != tokens:
        return None  # of an image that was no square, whose sides nobody knows
    return resample_abs_pos_embed(table, list(grid), num_prefix_tokens=prefix)


def _interpolate(grid: Tensor, size: tuple[int, int]) -> Tensor:
    precise = grid.to(torch.promote_types(grid.dtype, torch.float32))
    return F.interpolate(precise, size=size, mode='bicubic', antialias=True).to(grid.dtype)


def interpolate_distances(table: Tensor, length: int) -> Tensor:
    """A table of relative positions (distances, channels), linearly interpolated to ``length`` distances."""
    if len(table) == length:
        return table
    precise = table.to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(precise.T[None], size=length, mode='linear')[0].T.to(table.dtype)
