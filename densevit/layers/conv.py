"""3 x 3 convolution as three products of matrices, for CPUs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .convert import to_nchw, to_nhwc
from .pieces import is_transformed

__all__ = ['conv3x3', 'in_pieces']

# Pixels that are worked on at a time: enough rows for full speed of the products.
_PIXELS = 2048


def in_pieces(x: Tensor) -> bool:
    """Whether to compute piece by piece in memory that is used again.

    That is for CPUs, whose caches hold a piece and where fresh memory costs more than arithmetic. A GPU, a compiler,
    ``torch.func`` and autocast get a few large operations instead.
    """
    return (
        x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not (is_transformed() or torch.is_autocast_enabled('cpu'))
    )


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=1)`` of maps that are channels last in memory.

    On CPUs oneDNN's float32 convolution of such maps has rounding errors six to eight times those of its convolution of
    (B, C, H, W) in memory (measured, 256 and 512 channels). Products of matrices have 1.1 to 1.6 times those, in about
    the same time, and in less time for the gradients: rows of the map and their neighbours to the left and right,
    (H * W, 3 * C), times a matrix (3 * C, O) for each of the three rows of the kernel.

    Args:
        x: (B, C, H, W).
        weight: (O, C, 3, 3), without a copy when channels last in memory.
        bias: (O,).

    Returns:
        (B, O, H, W), channels last in memory.
    """
    if not in_pieces(x):
        return F.conv2d(x, weight, bias, padding=1)
    if torch.is_grad_enabled():
        return _Conv3x3.apply(x, weight, bias)
    return _convolve(to_nhwc(x).contiguous(), _matrices(weight), bias)


def _matrices(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) to (dy, dx * C, O)."""
    weight = to_nhwc(weight).contiguous()  # (O, dy, dx, C)
    return weight.flatten(2).permute(1, 2, 0)


def _neighbours(x_HWC: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Bands of n rows, each with (n + 2, W, dx * C): the rows and one around, every pixel beside its two neighbours."""
    height, width, channels = x_HWC.shape
    band = max(1, min(height, _PIXELS // width))
    columns = x_HWC.new_zeros(band + 2, width, 3, channels)  # left of the first and right of the last stays zero
    for top in range(0, height, band):
        rows = slice(top, min(top + band, height))
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, height)
        inside = x_HWC[first:last]
        place = columns[first - rows.start + 1 : last - rows.start + 1]
        if first == rows.start:
            columns[0] = 0
        if last == rows.stop:
            columns[rows.stop - rows.start + 1] = 0
        place[:, 1:, 0] = inside[:, :-1]
        place[:, :, 1] = inside
        place[:, :-1, 2] = inside[:, 1:]
        yield rows, columns[: rows.stop - rows.start + 2].flatten(2)


def _convolve(x_BHWC: Tensor, matrices: Tensor, bias: Tensor | None) -> Tensor:
    """(B, O, H, W), channels last in memory, from matrices (dy, dx * C, O)."""
    batch, height, width, _ = x_BHWC.shape
    outputs = matrices.shape[2]
    shape = (batch, outputs, height, width)
    result = torch.empty(shape, dtype=x_BHWC.dtype, device=x_BHWC.device, memory_format=torch.channels_last)
    for image, out_HWO in zip(x_BHWC, to_nhwc(result), strict=True):
        for rows, columns in _neighbours(image):
            out, n = out_HWO[rows].view(-1, outputs), len(columns) - 2
            if bias is None:
                torch.mm(columns[:n].flatten(0, 1), matrices[0], out=out)
            else:
                torch.addmm(bias, columns[:n].flatten(0, 1), matrices[0], out=out)
            for dy in (1, 2):
                out.addmm_(columns[dy : dy + n].flatten(0, 1), matrices[dy])
    return result


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(to_nhwc(x).contiguous(), _matrices(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_BHWO = to_nhwc(grad).contiguous()
        outputs, channels = weight.shape[:2]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:  # a convolution with the kernel turned round
            turned = weight.permute(2, 3, 0, 1).flip(0, 1).reshape(3, 3 * outputs, channels)
            grad_x = _convolve(grad_BHWO, turned, None)
        if ctx.needs_input_grad[1]:
            grad_weight = weight.new_zeros(outputs, 3, 3 * channels)
            for image, grad_HWO in zip(to_nhwc(x).contiguous(), grad_BHWO, strict=True):
                for rows, columns in _neighbours(image):
                    pixels, n = grad_HWO[rows].view(-1, outputs), len(columns) - 2
                    for dy in range(3):
                        grad_weight[:, dy].addmm_(pixels.t(), columns[dy : dy + n].flatten(0, 1))
            grad_weight = to_nchw(grad_weight.view(outputs, 3, 3, channels))
        if ctx.needs_input_grad[2]:
            grad_bias = grad_BHWO.sum((0, 1, 2))
        return grad_x, grad_weight, grad_bias
