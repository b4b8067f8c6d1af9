"""Convolution of maps of several sizes, resized to one size and concatenated, without resizing or concatenating them.

Feature pyramids are fused by ``conv3x3(cat(x_0, resize(x_1), ..., resize(x_n)))``, bilinear. The convolution is a sum
over maps and over its nine taps, each tap a product with a matrix of channels; resizing is a product with a matrix of
pixels; the two commute. So a coarse map is multiplied with its nine matrices at its own size, and only then spread over
the fine map, shifted by the tap::

    out[y, x] = conv3x3(x_0)[y, x] + sum_l sum_dy,dx sum_i,j  A_l[y + dy, i]  B_l[x + dx, j]  (W_l[dy, dx] x_l[i, j])

with A_l (H, h_l) and B_l (W, w_l) the matrices of linear interpolation, zero outside the map as the convolution's
padding is. For a pyramid of strides 4, 8, 16, 32 and equal channels that is 57 instead of 155 multiply-adds in UperNet,
and neither the resized maps nor their concatenation is stored, nor are they for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .conv import conv3x3, in_pieces
from .convert import to_nchw, to_nhwc

__all__ = ['add_resized_', 'split_conv_weight', 'upsampled_conv3x3']

# A map with more pixels than this share of the first one's is resized and joined with it: spreading costs more there.
_JOIN_FROM = 0.75
# Pixels of a coarse map that are worked on at a time, and rows of the fine map that are: few enough that what is made
# of them is still in the cache for the next product.
_PIXELS, _ROWS = 512, 16


def split_conv_weight(weight: Tensor, channels: Sequence[int]) -> tuple[Tensor, ...]:
    """The weight (O, C, 3, 3) of a convolution as one part (O, C_l, 3, 3) per map.

    In memory the first is channels last, as convolutions want it, and the others are nine matrices (O, C_l).
    """
    first, *others = weight.split(list(channels), dim=1)
    matrices = (part.permute(2, 3, 0, 1).contiguous() for part in others)
    return first.contiguous(memory_format=torch.channels_last), *(part.permute(2, 3, 0, 1) for part in matrices)


def upsampled_conv3x3(
    maps: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    align_corners: bool = False,
    conv: Callable[[Tensor, Tensor, Tensor | None], Tensor] = conv3x3,
) -> Tensor:
    """``conv3x3`` of the concatenation of ``maps``, each resized (bilinear) to the size of the first.

    Equal to the plain way up to rounding, forward and backward, for maps of any sizes.

    Args:
        maps: (B, C_l, h_l, w_l) each; (H, W) is the size of the first.
        weights: (O, C_l, 3, 3) each, see :func:`split_conv_weight`.
        bias: (O,).
        align_corners: of the resizing, as in ``F.interpolate``.
        conv: computes the convolution of the first map.

    Returns:
        (B, O, H, W), channels last in memory.
    """
    size = maps[0].shape[-2:]
    joined, joined_weights = [maps[0]], [weights[0]]
    coarse: list[tuple[Tensor, Tensor]] = []
    for x, weight in zip(maps[1:], weights[1:], strict=True):
        if math.prod(x.shape[-2:]) < _JOIN_FROM * math.prod(size):
            coarse.append((x, weight))
        else:
            joined.append(F.interpolate(x, size, mode='bilinear', align_corners=align_corners))
            joined_weights.append(weight)
    x, weight = joined[0], joined_weights[0]
    if len(joined) > 1:
        x, weight = torch.cat(joined, dim=1), torch.cat(joined_weights, dim=1)
    out = conv(x.contiguous(memory_format=torch.channels_last), weight, bias)
    if not in_pieces(out):
        for x, weight in coarse:
            out = out + _conv_resized(x, weight, size, align_corners)
        return out
    out = out.contiguous(memory_format=torch.channels_last)
    if coarse and torch.is_grad_enabled():
        return _AddConvResized.apply(out, align_corners, *(tensor for pair in coarse for tensor in pair))
    for x, weight in coarse:
        _add_conv_resized_(to_nhwc(out), to_nhwc(x).contiguous(), weight, align_corners)
    return out


def add_resized_(out: Tensor, x: Tensor, *, align_corners: bool = False) -> Tensor:
    """``out += resize(x)``, bilinear, in place and piece by piece; without gradients.

    Args:
        out: (B, C, H, W), channels last in memory.
        x: (B, C, h, w).
        align_corners: as in ``F.interpolate``.

    Returns:
        ``out``.
    """
    size = out.shape[-2:]
    if not in_pieces(out):
        return out.add_(F.interpolate(x, size, mode='bilinear', align_corners=align_corners))
    out_BHWC, x_BhwC = to_nhwc(out), to_nhwc(x).contiguous()
    _, height, width, channels = out_BHWC.shape
    h, w = x_BhwC.shape[1:3]
    vertical = _interpolation(h, height, out, align_corners)
    horizontal = _interpolation(w, width, out, align_corners)
    part = out.new_empty(_ROWS, w * channels)
    for image, x_hwC in zip(out_BHWC, x_BhwC, strict=True):
        for top in range(0, height, _ROWS):
            rows = slice(top, min(top + _ROWS, height))
            n = rows.stop - rows.start
            torch.mm(vertical[rows], x_hwC.view(h, w * channels), out=part[:n])
            image[rows].baddbmm_(horizontal.expand(n, width, w), part[:n].view(n, w, channels))
    return out


def _interpolation(size: int, new_size: int, like: Tensor, align_corners: bool) -> Tensor:
    """The (new_size, size) matrix of linear interpolation: ``F.interpolate`` of the identity."""
    # float32 at least, as F.interpolate computes its coefficients.
    dtype = torch.promote_types(like.dtype, torch.float32)
    identity = torch.eye(size, dtype=dtype, device=like.device)
    matrix = F.interpolate(identity[None], new_size, mode='linear', align_corners=align_corners)[0].t()
    return matrix.to(like.dtype)


def _shifted_interpolation(size: int, new_size: int, like: Tensor, align_corners: bool) -> Tensor:
    """(new_size, 3, size): interpolation at the place before, the place itself and the place after; zero outside."""
    padded = F.pad(_interpolation(size, new_size, like, align_corners), (0, 0, 1, 1))
    return torch.stack([padded[shift : shift + new_size] for shift in range(3)], dim=1)


def _conv_resized(x: Tensor, weight: Tensor, size: torch.Size, align_corners: bool) -> Tensor:
    """``conv3x3(resize(x))`` in few and large operations: products of channels, then of rows, then of columns."""
    x_BhwC = to_nhwc(x)
    batch, h, w, _ = x_BhwC.shape
    height, width = size
    outputs = weight.shape[0]
    vertical = _shifted_interpolation(h, height, x, align_corners)
    horizontal = _shifted_interpolation(w, width, x, align_corners).transpose(1, 2).reshape(width, w * 3)
    # (dy, C, dx * O) -> taps (dy, B, h, w * dx * O)
    by_row = weight.permute(2, 1, 3, 0).reshape(3, 1, weight.shape[1], 3 * outputs)
    taps = torch.matmul(x_BhwC.reshape(1, batch, h * w, -1), by_row).reshape(3, batch, h, w * 3 * outputs)
    rows = sum(torch.matmul(vertical[:, shift], taps[shift]) for shift in range(3))  # (B, H, w * dx * O)
    return to_nchw(torch.matmul(horizontal, rows.reshape(batch, height, w * 3, outputs)))


def _bands(h: int, w: int, height: int, align_corners: bool) -> Iterator[tuple[slice, slice]]:
    """Bands of rows of a coarse map, each with the rows of the fine map that they reach (some more do no harm)."""
    band = max(1, min(h, _PIXELS // w))
    for start in range(0, h, band):
        stop = min(start + band, h)
        if align_corners:
            scale, offset = (height - 1) / max(h - 1, 1), 0.0
        else:
            scale, offset = height / h, (height / h - 1) / 2
        # Coarse row i reaches the places where |source - i| < 1, and the convolution one row further.
        first = 0 if start == 0 else max(0, math.floor((start - 1) * scale + offset) - 1)
        last = height if stop == h else min(height, math.ceil(stop * scale + offset) + 2)
        yield slice(start, stop), slice(first, last)


class _Spread:
    """How a coarse map, multiplied with its nine matrices, goes to the fine map: piece by piece, in the same memory."""

    def __init__(self, out_BHWO: Tensor, h: int, w: int, align_corners: bool) -> None:
        _, self.height, width, outputs = out_BHWO.shape
        self.h, self.w, self.align_corners = h, w, align_corners
        self.vertical = _shifted_interpolation(h, self.height, out_BHWO, align_corners)  # (H, 3, h)
        horizontal = _shifted_interpolation(w, width, out_BHWO, align_corners)
        self.horizontal = horizontal.transpose(1, 2).reshape(width, 3 * w)
        band = max(1, min(h, _PIXELS // w))
        self._taps = out_BHWO.new_empty(3, band, w, 3 * outputs)
        self._rows = out_BHWO.new_empty(_ROWS, w * 3, outputs)

    def taps(self, n: int) -> Tensor:
        """(dy, n * w, dx * O): memory for the products of ``n`` coarse rows."""
        return self._taps.view(-1)[: 3 * n * self.w * self._taps.shape[-1]].view(3, n * self.w, -1)

    def pieces(self) -> Iterator[tuple[slice, list[tuple[slice, Tensor, Tensor]]]]:
        """Bands of coarse rows; for each, pieces of m fine rows: their matrix (m, 3 * n) and memory (m, 3 * w, O)."""
        for band, reach in _bands(self.h, self.w, self.height, self.align_corners):
            matrix = self.vertical[:, :, band].reshape(self.height, -1)
            pieces = []
            for top in range(reach.start, reach.stop, _ROWS):
                rows = slice(top, min(top + _ROWS, reach.stop))
                pieces.append((rows, matrix[rows], self._rows[: rows.stop - rows.start]))
            yield band, pieces


def _add_conv_resized_(out_BHWO: Tensor, x_BhwC: Tensor, weight: Tensor, align_corners: bool) -> None:
    """``out += conv3x3(resize(x))``, piece by piece."""
    batch, h, w, channels = x_BhwC.shape
    spread = _Spread(out_BHWO, h, w, align_corners)
    matrices = weight.permute(2, 3, 0, 1).reshape(3, -1, channels).transpose(1, 2)  # (dy, C, dx * O)
    for band, pieces in spread.pieces():
        n = band.stop - band.start
        taps = spread.taps(n)
        for image in range(batch):
            pixels = x_BhwC[image, band].view(n * w, channels)
            for dy in range(3):
                torch.mm(pixels, matrices[dy], out=taps[dy])
            for rows, matrix, columns in pieces:
                torch.mm(matrix, taps.view(3 * n, -1), out=columns.view(len(columns), -1))
                out_BHWO[image, rows].baddbmm_(spread.horizontal.expand(len(columns), -1, -1), columns)


def _conv_resized_backward(
    grad_BHWO: Tensor, x_BhwC: Tensor, weight: Tensor, align_corners: bool, *, want_x: bool, want_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``conv3x3(resize(x))`` for x (B, h, w, C) and the weight, piece by piece."""
    batch, h, w, channels = x_BhwC.shape
    spread = _Spread(grad_BHWO, h, w, align_corners)
    matrices = weight.permute(2, 3, 0, 1).reshape(3, -1, channels)  # (dy, dx * O, C)
    grad_x = torch.zeros_like(x_BhwC) if want_x else None
    grad_matrices = torch.zeros_like(matrices) if want_weight else None
    for band, pieces in spread.pieces():
        n = band.stop - band.start
        grad_taps = spread.taps(n)
        for image in range(batch):
            pixels = x_BhwC[image, band].view(n * w, channels)
            grad_taps.zero_()
            for rows, matrix, columns in pieces:
                torch.bmm(spread.horizontal.t().expand(len(columns), -1, -1), grad_BHWO[image, rows], out=columns)
                grad_taps.view(3 * n, -1).addmm_(matrix.t(), columns.view(len(columns), -1))
            for dy in range(3):
                if want_x:
                    grad_x[image, band].view(n * w, channels).addmm_(grad_taps[dy], matrices[dy])
                if want_weight:
                    grad_matrices[dy].addmm_(grad_taps[dy].t(), pixels)
    grad_weight = grad_matrices.view(3, 3, -1, channels).permute(2, 3, 0, 1) if want_weight else None
    return grad_x, grad_weight


class _AddConvResized(torch.autograd.Function):
    """``out += sum of conv3x3(resize(x))``, in place; keeps the coarse maps and the weights, nothing else."""

    @staticmethod
    def forward(ctx, out: Tensor, align_corners: bool, *maps_and_weights: Tensor) -> Tensor:
        ctx.align_corners = align_corners
        ctx.mark_dirty(out)
        ctx.save_for_backward(*maps_and_weights)
        for x, weight in zip(maps_and_weights[::2], maps_and_weights[1::2], strict=True):
            _add_conv_resized_(to_nhwc(out), to_nhwc(x).contiguous(), weight, align_corners)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_BHWO = to_nhwc(grad).contiguous()
        grads: list[Tensor | None] = []
        wanted = ctx.needs_input_grad[2:]
        for place in range(0, len(wanted), 2):
            x, weight = ctx.saved_tensors[place : place + 2]
            want_x, want_weight = wanted[place : place + 2]
            if not (want_x or want_weight):
                grads += [None, None]
                continue
            grad_x, grad_weight = _conv_resized_backward(
                grad_BHWO, to_nhwc(x).contiguous(), weight, ctx.align_corners, want_x=want_x, want_weight=want_weight
            )
            grads += [to_nchw(grad_x) if want_x else None, grad_weight]
        return grad, None, *grads
