"""3 x 3 convolution by Winograd's minimal filtering, for inference on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv import in_pieces
from .convert import to_nchw, to_nhwc

__all__ = ['transform_weight', 'winograd_conv3x3']

# Numbers in the transformed input that are worked on at a time, 4 MiB in float32: enough rows for full speed of the
# matrix products, and still in the cache when they come.
_PIECE = 1 << 20


def transform_weight(weight: Tensor) -> Tensor:
    """G w G^T of a convolution's weight (O, C, 3, 3), as the matrices of the sixteen products: (16, C, O)."""
    g = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum('ai,bj,ocij->abco', g, g, weight).flatten(0, 1).contiguous()


def winograd_conv3x3(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transformed: Tensor | None = None
) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` with 16 / 36 of its multiplications.

    F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
    https://arxiv.org/abs/1509.09308, section 4.1. A tile of 2 x 2 outputs depends on 4 x 4 inputs d overlapping by two
    with the neighbours'::

        Y = A^T [(G w G^T) * (B^T d B)] A,   * element by element, summed over the input channels

        B^T = 1  0 -1  0     G =  1    0    0     A^T = 1  1  1  0
              0  1  1  0         1/2  1/2  1/2          0  1 -1 -1
              0 -1  1  0         1/2 -1/2  1/2
              0  1  0 -1          0    0    1

    The sum over channels makes each of the 16 elements a product of matrices, (tiles, C) x (C, O). The transforms are
    additions of whole rows of the map, made strip by strip of tile rows in memory that is used again.

    In float32 the largest rounding error is about twice that of the direct sum. Where a gradient can be asked for, on
    other devices, and in other dtypes than float32 and float64 the ordinary convolution is computed instead.

    Args:
        x: (B, C, H, W), fast when channels last in memory.
        weight: (O, C, 3, 3).
        bias: (O,).
        transformed: what :func:`transform_weight` makes of ``weight``, where the caller has it already.

    Returns:
        (B, O, H, W), channels last in memory.
    """
    if torch.is_grad_enabled() or not in_pieces(x):
        return F.conv2d(x, weight, bias, padding=1)
    if transformed is None:
        transformed = transform_weight(weight)
    x_BHWC = to_nhwc(x).contiguous()
    batch, height, width, channels = x_BHWC.shape
    outputs = transformed.shape[2]
    out_BHWO = x.new_empty(batch, height, width, outputs)
    tile_rows, tiles = (height + 1) // 2, (width + 1) // 2  # down, and across one row of tiles
    strip = min(tile_rows, max(1, _PIECE // (16 * max(channels, outputs) * tiles)))

    by_row = x.new_zeros(4, strip, 2 * tiles + 2, channels)  # B^T d; the columns outside the map stay zero
    tile_input = x.new_empty(16 * strip * tiles * channels)  # B^T d B
    tile_output = x.new_empty(16 * strip * tiles * outputs)  # before A
    for image, out_HWO in zip(x_BHWC, out_BHWO, strict=True):
        for first in range(0, tile_rows, strip):
            n = min(strip, tile_rows - first)
            rows = _rows(image, 2 * first - 1, 2 * (first + n) + 1)
            _transform_input([rows[k : k + 2 * n - 1 : 2] for k in range(4)], by_row[:, :n, 1 : width + 1])
            inputs = tile_input[: 16 * n * tiles * channels].view(4, 4, n, tiles, channels)
            columns = [by_row[:, :n, k : k + 2 * tiles - 1 : 2] for k in range(4)]
            _transform_input(columns, inputs.transpose(0, 1))
            products = tile_output[: 16 * n * tiles * outputs].view(4, 4, n, tiles, outputs)
            torch.bmm(inputs.view(16, n * tiles, channels), transformed, out=products.view(16, n * tiles, outputs))
            if bias is not None:
                products[1, 1] += bias  # A^T spreads this element over all four outputs
            _transform_output(products, out_HWO[2 * first : 2 * (first + n)])
    return to_nchw(out_BHWO)


def _rows(image: Tensor, start: int, stop: int) -> Tensor:
    """Rows ``start`` to ``stop`` of a map (H, W, C), zero outside of it."""
    height = len(image)
    if start >= 0 and stop <= height:
        return image[start:stop]
    inside = image[max(start, 0) : min(stop, height)]
    return F.pad(inside, (0, 0, 0, 0, max(-start, 0), max(stop - height, 0)))


def _transform_input(d: list[Tensor], out: Tensor) -> None:
    """B^T along one direction: four neighbours to four."""
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def _transform_output(products: Tensor, out: Tensor) -> None:
    """A^T along both directions, (4, 4, n, tiles, O) to (rows, W, O); overwrites ``products``."""
    products[0] += products[1]
    products[0] += products[2]
    products[1] -= products[2]
    products[1] -= products[3]
    by_row = products[:2]
    by_row[:, 0] += by_row[:, 1]
    by_row[:, 1] -= by_row[:, 2]
    for parity in range(2):
        rows = out[parity::2]
        odd = out.shape[1] // 2  # an odd width has no last odd column
        columns = by_row[parity, :, : len(rows)]
        torch.add(columns[0], columns[2], out=rows[:, 0::2])
        torch.sub(columns[1, :, :odd], columns[3, :, :odd], out=rows[:, 1::2])
