"""Attention inside windows: where the tokens of a map lie in its windows, the masks of shifted ones, the position bias.

Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", section 3.2,
https://arxiv.org/abs/2103.14030. Official code: https://github.com/microsoft/Swin-Transformer (commit f82860b, MIT);
the padding is that of its dense version (`SwinTransformer/Swin-Transformer-Semantic-Segmentation`, commit 87e6f90).

There, a map is padded, rolled and cut, and joined, rolled back and cropped: a copy each. Here the windows are one
gather of the map, and the map one gather of the windows. Everything is computed from its arguments when it is needed:
there is no table in the model to store, to move to a device or to go stale when the next image has another size. What
was computed last on a CPU is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .attention import attention, merge_heads
from .pieces import is_transformed

__all__ = ['WindowLayout', 'pad_to_multiple', 'relative_position_bias', 'window_attention', 'window_layout']


def _ceil_div(length: int, side: int) -> int:
    return (length + side - 1) // side


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros right and bottom, up to the next multiple: (B, H, W, C) -> (B, H', W', C)."""
    H, W = x.shape[1:3]
    # not -H % multiple: that H + (H' - H) is divisible a compiler knows, where H is left open
    right, bottom = _ceil_div(W, multiple) * multiple - W, _ceil_div(H, multiple) * multiple - H
    if not torch.compiler.is_compiling() and right == bottom == 0:
        return x  # F.pad would copy it
    return F.pad(x, (0, 0, 0, right, 0, bottom))


class WindowLayout(NamedTuple):
    """Where each token of B maps lies when the maps are cut into windows, see :func:`window_layout`."""

    side: int  # of a window, in tokens; L = side * side
    shift: int
    source: Tensor  # (N * L): which token of the maps, of B * H * W, stands in each place; any one in that of padding
    place: Tensor  # (B * H * W): the place of each token
    padding: Tensor  # the places of padding
    counts: tuple[int, ...]  # how many of the N windows have no mask, the first, the second, ... of the masks
    masks: tuple[Tensor | None, ...]  # (L, L), to be added to the scores

    def cut(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Maps to windows: (B, H, W, C) -> (N, L, C).

        Args:
            tokens: the maps.
            padding: (C,), the value of padded tokens.
        """
        flat, padding = tokens.flatten(0, 2), padding.to(tokens.dtype)
        windows = _Cut.apply(flat, padding, *self[2:5]) if _records(flat) else _cut(flat, padding, *self[2:5])
        return windows.unflatten(0, (-1, self.side * self.side))

    def join(self, windows: Tensor, size: tuple[int, int, int]) -> Tensor:
        """The inverse: (N, L, C) -> (B, H, W, C), where ``size`` is B, H, W. What stands in padded places is lost."""
        flat = windows.flatten(0, 1)
        tokens = _Join.apply(flat, *self[2:5]) if _records(flat) else flat.index_select(0, self.place)
        return tokens.unflatten(0, size)

    def parts(self, count: int) -> Iterator[tuple[slice, WindowLayout]]:
        """At most so many windows at a time, for :func:`window_attention`, with their place among all of them."""
        start = 0
        for total, mask in zip(self.counts, self.masks, strict=True):
            end = start + total
            while start < end:
                some = slice(start, min(start + count, end))
                yield some, self._replace(counts=(some.stop - start,), masks=(mask,))
                start = some.stop


def window_layout(size: tuple[int, int, int], side: int, shift: int, like: Tensor) -> WindowLayout:
    """Lay windows over B maps, zero-padded right and bottom where H or W is no multiple of their side.

    Shifted windows lie that many tokens right and below of a plain grid. Those of the last row and column are filled
    from the other end of the padded map, as if it were rolled round. So they hold parts that do not touch, and a mask
    adds -100 to the scores between these. Padding is not masked: padded tokens take part, as in the official dense
    code. -100 is the official value; weights are trained with it, and infinity would change what a query with scores
    below -100 sees.

    The windows without mask stand first, then those of the last column, of the last row, and of the corner: in each of
    these groups all have the same mask. Inside a group they run image by image and row by row.

    Args:
        size: B, H and W of the maps, before padding.
        side: side of a window, in tokens.
        shift: tokens by which the windows are shifted, less than ``side``.
        like: gives the device, and the dtype of the masks.
    """
    keep = like.device.type == 'cpu' and not (is_transformed() or is_in_torch_dispatch_mode())
    return (_kept_layout if keep else _layout)(size, side, shift, like.device, like.dtype)


@lru_cache(maxsize=16)  # two for each of four stages, in two sizes of images
def _kept_layout(
    size: tuple[int, int, int], side: int, shift: int, device: torch.device, dtype: torch.dtype
) -> WindowLayout:
    with torch.inference_mode(False):  # autograd may store it later
        return _layout(size, side, shift, device, dtype)


def _layout(
    size: tuple[int, int, int], side: int, shift: int, device: torch.device, dtype: torch.dtype
) -> WindowLayout:
    B, H, W = size
    rows, columns = _ceil_div(H, side), _ceil_div(W, side)
    padded = torch.arange(B * rows * side * columns * side, device=device)
    padded = padded.view(B, rows * side, columns * side)  # the tokens, numbered
    grid = padded.roll((-shift, -shift), dims=(1, 2)) if shift else padded
    grid = grid.view(B, rows, side, columns, side).transpose(2, 3)  # (B, rows, columns, side, side)
    if shift:
        split_rows, split_columns = (rows - 1, 1), (columns - 1, 1)
        groups = [group for half in grid.split(split_rows, dim=1) for group in half.split(split_columns, dim=2)]
        masks = (None, *_masks(side, shift, device, dtype))
    else:
        groups, masks = [grid], (None,)
    counts = tuple(B * group.shape[1] * group.shape[2] for group in groups)
    order = torch.cat([group.flatten() for group in groups])  # of the padded tokens
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device)).view_as(padded)
    y, x = (torch.arange(length * side, device=device) for length in (rows, columns))
    token = torch.arange(B, device=device)[:, None, None] * (H * W)
    token = token + y.clamp(max=H - 1)[:, None] * W + x.clamp(max=W - 1)  # (B, H', W'), the nearest in the map
    return WindowLayout(
        side,
        shift,
        token.flatten()[order],
        place[:, :H, :W].flatten(),
        torch.cat([place[:, :H, W:].flatten(), place[:, H:].flatten()]),
        counts,
        masks,
    )


def _masks(side: int, shift: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of shifted windows in the last column, the last row, and the corner: three of (L, L)."""
    wrapped = torch.arange(side, device=device) >= side - shift  # what comes from the other end
    row, column = wrapped.repeat_interleave(side), wrapped.repeat(side)  # (L), of every token
    apart_rows, apart_columns = row[:, None] != row, column[:, None] != column
    return tuple(
        torch.zeros_like(apart, dtype=dtype).masked_fill(apart, -100.0)
        for apart in (apart_columns, apart_rows, apart_rows | apart_columns)
    )


def _records(x: Tensor) -> bool:
    """Whether autograd records, and nobody else wants to see every operation."""
    return torch.is_grad_enabled() and not is_transformed()


def _cut(flat: Tensor, value: Tensor, source: Tensor, place: Tensor, padding: Tensor) -> Tensor:
    windows = flat.index_select(0, source)
    if len(padding):
        windows = windows.index_copy_(0, padding, value.expand(len(padding), -1))
    return windows


class _Cut(torch.autograd.Function):
    """A gather whose gradient is a gather as well, as every token stands in one place."""

    @staticmethod
    def forward(ctx, flat: Tensor, value: Tensor, source: Tensor, place: Tensor, padding: Tensor) -> Tensor:
        ctx.indices = place, padding
        return _cut(flat, value, source, place, padding)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        place, padding = ctx.indices
        return grad.index_select(0, place), grad.index_select(0, padding).sum(0), None, None, None


class _Join(torch.autograd.Function):
    """As :class:`_Cut`, from the other side."""

    @staticmethod
    def forward(ctx, flat: Tensor, source: Tensor, place: Tensor, padding: Tensor) -> Tensor:
        ctx.indices = source, padding
        return flat.index_select(0, place)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        source, padding = ctx.indices
        return grad.index_select(0, source).index_fill_(0, padding, 0), None, None, None


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
    qkv: Tensor, layout: WindowLayout, *, bias: Tensor, scale: float | None = None, backend: str = 'auto'
) -> Tensor:
    """Attention of each window's tokens among themselves.

    Args:
        qkv: queries, keys and values (N, L, 3, h, d).
        layout: of the windows.
        bias: added to the scores of every window, (h, L, L).
        scale: factor on q k^T, d ** -0.5 by default.
        backend: see :func:`densevit.layers.attention`.

    Returns:
        (N, L, C).
    """
    if qkv.device.type == 'cpu' and backend != 'reference' and _records(qkv):
        return _WindowAttention.apply(qkv, bias, layout, scale, backend)
    return _window_attention(qkv, layout, bias, scale, backend)


def _window_attention(qkv: Tensor, layout: WindowLayout, bias: Tensor, scale: float | None, backend: str) -> Tensor:
    mixed = []
    for part, mask in zip(qkv.split(layout.counts), layout.masks, strict=True):
        q, k, v = part.permute(2, 0, 3, 1, 4)  # (N', h, L, d)
        masked = bias if mask is None else bias + mask
        mixed.append(merge_heads(attention(q, k, v, bias=masked[None], scale=scale, backend=backend)))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)


SCORES_AT_A_TIME = 2**19  # 2 MiB in float32, so that those of the backward pass stay in the cache


class _WindowAttention(torch.autograd.Function):
    """Stores queries, keys and values alone; the scores are computed again, some windows at a time.

    With P = softmax(S), S = scale q k^T + bias and dP = dO v^T, the gradient of S is P * (dP - sum(P * dP)) row by row,
    and that of the bias its sum over the windows. torch's fused kernel for the CPU has no gradient of a bias.
    """

    @staticmethod
    def forward(ctx, qkv: Tensor, bias: Tensor, layout: WindowLayout, scale: float | None, backend: str) -> Tensor:
        ctx.save_for_backward(qkv, bias)
        ctx.layout, ctx.scale = layout, qkv.shape[-1] ** -0.5 if scale is None else scale
        return _window_attention(qkv, layout, bias.detach(), scale, backend)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, bias = ctx.saved_tensors
        N, L, _, h, d = qkv.shape
        grad_qkv, grad_bias = torch.empty_like(qkv), torch.zeros_like(bias)
        grad = grad.to(qkv.dtype)
        step = max(1, SCORES_AT_A_TIME // (h * L * L))
        start = 0
        with torch.autocast(qkv.device.type, enabled=False):
            for count, mask in zip(ctx.layout.counts, ctx.layout.masks, strict=True):
                masked = (bias if mask is None else bias + mask).to(qkv.dtype)
                for first in range(start, start + count, step):
                    some = slice(first, min(first + step, start + count))
                    q, k, v = (x.flatten(0, 1) for x in qkv[some].permute(2, 0, 3, 1, 4).contiguous())  # (N' h, L, d)
                    grad_out = grad[some].unflatten(-1, (h, d)).transpose(1, 2).flatten(0, 1)
                    grads = q.new_empty(3, *q.shape)
                    q = q * ctx.scale
                    scores = torch.bmm(q, k.transpose(1, 2))
                    scores.unflatten(0, (-1, h)).add_(masked)
                    weights = torch.softmax(scores, dim=-1)
                    torch.bmm(weights.transpose(1, 2), grad_out, out=grads[2])
                    grad_weights = torch.bmm(grad_out, v.transpose(1, 2), out=scores)
                    grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                    grad_bias += grad_scores.unflatten(0, (-1, h)).sum(0)
                    torch.bmm(grad_scores, k, out=grads[0]).mul_(ctx.scale)
                    torch.bmm(grad_scores.transpose(1, 2), q, out=grads[1])
                    grad_qkv[some] = grads.unflatten(1, (-1, h)).permute(1, 3, 0, 2, 4)
                start += count
        return grad_qkv, grad_bias, None, None, None
