"""Convolutions as products of matrices, for CPUs.

oneDNN's float32 convolution of maps that are channels last in memory has rounding errors three to eight times those of
its convolution of (B, C, H, W) in memory, the more so the more numbers are summed (measured, 64 to 512 channels,
kernels of 2 to 8). Products of matrices have 1.1 to 1.6 times those.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .convert import to_nchw, to_nhwc
from .linear import is_plain
from .pieces import is_compiling_inference, is_transformed

__all__ = ['conv3x3', 'in_pieces', 'strided_conv']

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

    On CPUs: rows of the map and their neighbours to the left and right, (H * W, 3 * C), times a matrix (3 * C, O) for
    each of the three rows of the kernel. That takes about as long as oneDNN's convolution, and less for the gradients.

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


def strided_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv`` of a map whose pixels stand in few patches each: (B, C, H, W) -> (B, H', W', O).

    On CPUs, for maps that are channels last in memory: patches (H' * W', k * k * C) times a matrix (k * k * C, O). An
    image has too few channels to gain by that.

    Compiled for inference it is one product: in front of a convolution, torch 2.15 keeps maps with H innermost in
    memory, and every norm then works across it (measured for PVT-small at 512 x 512: norms 140 ms for 15 ms).
    """
    weight, bias = conv.weight, conv.bias
    if not _takes_patches(conv, x):
        return to_nhwc(conv(x))
    if is_compiling_inference():
        return F.linear(_patches(x, weight, conv.stride, conv.padding).flatten(3), to_nhwc(weight).flatten(1), bias)
    if torch.is_grad_enabled():
        return _StridedConv.apply(x, weight, bias, conv.stride, conv.padding)
    return _of_patches(x, weight, bias, conv.stride, conv.padding)


def _takes_patches(conv: nn.Conv2d, x: Tensor) -> bool:
    return (
        (in_pieces(x) or (is_compiling_inference() and x.device.type == 'cpu'))
        and is_plain(conv)
        and conv.weight.dtype == x.dtype
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == 'zeros'
        and not isinstance(conv.padding, str)
        and conv.in_channels > 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
    )


def _of_patches(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """(B, H', W', O): bands of rows, whose patches stay in the cache until they are multiplied."""
    windows = _patches(x, weight, stride, padding).flatten(0, 1)  # (B * H', W', k, k, C)
    matrix = to_nhwc(weight).flatten(1)  # (O, k * k * C)
    band = max(1, _PIXELS // windows.shape[1])
    products = [F.linear(some.flatten(2).flatten(0, 1), matrix, bias) for some in windows.split(band)]
    return torch.cat(products).view(len(x), -1, windows.shape[1], len(weight))


def _patches(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """What each output sees, a view: (B, C, H, W) -> (B, H', W', k, k, C)."""
    (rows, columns), kernel = padding, weight.shape[2:]
    x = to_nhwc(x)
    if rows or columns:
        x = F.pad(x, (0, 0, columns, columns, rows, rows))
    windows = x.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])  # (B, H', W', C, k, k)
    return windows.permute(0, 1, 2, 4, 5, 3)


class _StridedConv(torch.autograd.Function):
    """Stores the map, not the patches."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.stride, ctx.padding = None if bias is None else [len(bias)], stride, padding
        return _of_patches(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grads = torch.ops.aten.convolution_backward(
            to_nchw(grad), x, weight, ctx.sizes, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1,
            ctx.needs_input_grad[:3],
        )  # fmt: skip
        return *grads, None, None
