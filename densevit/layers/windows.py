"""Attention inside windows: cutting a map into windows and back, the mask of shifted windows, the position bias.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", section 3.2,
https://arxiv.org/abs/2103.14030. Official code: https://github.com/microsoft/Swin-Transformer (commit f82860b, MIT);
the padding is that of its dense version (`SwinTransformer/Swin-Transformer-Semantic-Segmentation`, commit 87e6f90).

Everything here is computed from its arguments when it is needed: there is no table to store, to move to a device or to
go stale when the next image has another size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import attention

__all__ = [
    'cut_windows',
    'join_windows',
    'pad_to_multiple',
    'relative_position_bias',
    'shift_mask',
    'window_attention',
]


def _ceil_div(length: int, side: int) -> int:
    return (length + side - 1) // side


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros right and bottom, up to the next multiple: (B, H, W, C) -> (B, H', W', C)."""
    H, W = x.shape[1:3]
    # not -H % multiple: that H + (H' - H) is divisible a compiler knows, where H is left open
    right, bottom = _ceil_div(W, multiple) * multiple - W, _ceil_div(H, multiple) * multiple - H
    return F.pad(x, (0, 0, 0, right, 0, bottom))


def cut_windows(x: Tensor, side: int, shift: int = 0) -> Tensor:
    """Cut a map into windows, row by row: (B, H, W, C) -> (B, n, L, C) with L = side * side.

    Args:
        x: map; zero-padded right and bottom where H or W is no multiple of ``side``, so n is
            ceil(H / side) * ceil(W / side).
        side: side of a window, in tokens.
        shift: tokens by which the windows lie right and below of a plain grid. The padded map is rolled round, so the
            windows of the last row and column hold parts that do not touch; :func:`shift_mask` keeps them apart.
    """
    x = pad_to_multiple(x, side)
    if shift:
        x = x.roll((-shift, -shift), dims=(1, 2))
    B, H, W, C = x.shape
    x = x.reshape(B, H // side, side, W // side, side, C)
    return x.transpose(2, 3).reshape(B, (H // side) * (W // side), side * side, C)


def join_windows(windows: Tensor, size: tuple[int, int], side: int, shift: int = 0) -> Tensor:
    """The inverse of :func:`cut_windows`, for a map of ``size`` (H, W): (B, n, L, C) -> (B, H, W, C)."""
    H, W = size
    B, C, rows, columns = len(windows), windows.shape[-1], _ceil_div(H, side), _ceil_div(W, side)
    x = windows.reshape(B, rows, columns, side, side, C)
    x = x.transpose(2, 3).reshape(B, rows * side, columns * side, C)  # (B, H', W', C)
    if shift:
        x = x.roll((shift, shift), dims=(1, 2))
    return x[:, :H, :W]


def shift_mask(size: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """What to add to the scores of shifted windows: -100 between parts that the roll brought together, else 0.

    Padding is not masked: padded tokens take part, as in the official dense code. -100 is the official value; weights
    are trained with it, and infinity would change what a query with scores below -100 sees.

    Args:
        size: H and W of the map, before padding.
        side: side of a window, in tokens.
        shift: as given to :func:`cut_windows`.
        like: gives dtype and device.

    Returns:
        (n, L, L).
    """
    rows, columns = (
        # the last `shift` rows (columns) of the rolled map come from its other end
        torch.arange(padded, device=like.device) >= padded - shift
        for padded in (_ceil_div(length, side) * side for length in size)
    )
    parts = 2 * rows[:, None].long() + columns.long()  # (H', W'), which of the four parts a token belongs to
    parts = cut_windows(parts[None, :, :, None], side)[0, :, :, 0]  # (n, L)
    apart = parts[:, :, None] != parts[:, None, :]  # (n, L, L)
    return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, -100.0)


def relative_position_bias(table: Tensor) -> Tensor:
    """Look up the bias of every pair of tokens of a window in a table over their distances.

    Args:
        table: (2w - 1, 2w - 1, h); entry (w - 1 + i, w - 1 + j) is for a query i rows below and j columns right of
            its key.

    Returns:
        (h, L, L) with L = w * w: queries, then keys, both row by row.
    """
    side = (len(table) + 1) // 2
    # Entry (y, x, :, a, b) is table[y + a, x + b]. Counted from the end, a is w - 1 - row of the key: the distance.
    pairs = table.unfold(0, side, 1).unfold(1, side, 1)  # (w, w, h, w, w)
    return pairs.permute(2, 0, 1, 3, 4).flatten(3).flatten(1, 2).flip(-1)


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    backend: str = 'auto',
) -> Tensor:
    """Attention of each window's tokens among themselves.

    Args:
        q: queries (B, n, h, L, d).
        k: keys (B, n, h, L, d).
        v: values (B, n, h, L, d).
        bias: added to the scores of every window, (h, L, L).
        mask: added to the scores of every head, (n, L, L).
        scale: factor on q k^T, d ** -0.5 by default.
        backend: see :func:`densevit.layers.attention`.

    Returns:
        (B, n, h, L, d).
    """
    # Fused kernels take four dimensions, and read what is broadcast from where it is.
    bias = bias[None] if mask is None else bias + mask[:, None]  # (1, h, L, L) or (n, h, L, L)
    if mask is None or len(q) == 1:
        axis = 0  # windows count as images, (B * n, h, L, d): no copy
    else:
        axis, bias = 1, bias.flatten(0, 1)[None]  # as heads, (B, n * h, L, d): no copy of the bias for every image
    shape = q.shape[axis : axis + 2]
    q, k, v = (x.flatten(axis, axis + 1) for x in (q, k, v))
    return attention(q, k, v, bias=bias, scale=scale, backend=backend).unflatten(axis, shape)
