"""RoIAlign on the CPU as sums of weighted rows, which torch vectorises and spreads over the cores.

Mask R-CNN, He et al. 2017, https://arxiv.org/abs/1703.06870, section 3. The kernels of torchvision and mmcv are scalar
loops on one core there. The arithmetic of coordinates is torchvision's ``ops/cpu/roi_align_kernel.cpp``, operation for
operation (https://github.com/pytorch/vision).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ['pyramid_roi_align', 'roi_align']

_CHUNK = 1 << 19  # taps at a time: indices, weights and results stay small enough to be reused by the allocator


def roi_align(
    maps: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Average of bilinear samples in each bin of each region of interest.

    A sample at (y, x) is a weighted sum of four pixels, with weights that are products of one for the row and one for
    the column; the samples of a bin form a grid. So a bin is sum_ij v_i u_j map[r_i, c_j], where v and r depend on
    the bin's row alone and u and c on its column; samples that share a pixel are one term. These sums are taken by
    ``embedding_bag`` over the pixels as rows of C numbers. The gradient is the same with bins and pixels exchanged.

    On CUDA torchvision's kernel computes it. Float16 and bfloat16 are computed in float32. What is not finite gives
    zero.

    Args:
        maps: (B, C, H, W); on the CPU best in channels_last, otherwise it is copied to that.
        rois: (R, 5), index of the image in the batch, then x1 y1 x2 y2 in pixels of the image; no gradient.
        output_size: bins in a column and in a row.
        spatial_scale: pixels of the image times this are pixels of the map.
        sampling_ratio: samples per bin and axis; 0 takes as many as a bin has pixels, rounded up.
        aligned: shift by half a pixel, so that pixel centres are at integer coordinates; without, a region is at least
            one pixel wide and high.

    Returns:
        (R, C, h, w), on the CPU in channels_last.

    Raises:
        ValueError: ``rois`` is not (R, 5).
    """
    levels = rois.new_zeros(len(rois), dtype=torch.long)
    return pyramid_roi_align([maps], rois, levels, output_size, [spatial_scale], sampling_ratio, aligned)


def pyramid_roi_align(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    spatial_scales: Sequence[float],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """:func:`roi_align` where each region reads one of several maps.

    Args:
        maps: each (B, C, H_l, W_l).
        rois: (R, 5).
        levels: (R,), index of the region's map.
        output_size: bins in a column and in a row.
        spatial_scales: of each map.
        sampling_ratio, aligned: as there.
    """
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f'rois is {tuple(rois.shape)}; expected (R, 5): index of the image, x1, y1, x2, y2.')
    dtype = torch.promote_types(maps[0].dtype, torch.float32)
    wide, rois = [each.to(dtype) for each in maps], rois.to(dtype)
    if maps[0].device.type == 'cpu':
        sampling = (tuple(spatial_scales), int(sampling_ratio), bool(aligned))
        out = _RoIAlign.apply(rois, levels, tuple(output_size), sampling, *wide)
        return out.to(maps[0].dtype)
    from ..compat.ops import load_torchvision_ops

    kernel, out = load_torchvision_ops().roi_align, None
    for index, (each, scale) in enumerate(zip(wide, spatial_scales)):
        chosen = (levels == index).nonzero().flatten()
        part = kernel(each, rois[chosen], scale, *output_size, sampling_ratio, aligned)
        out = part.new_zeros(len(rois), *part.shape[1:]) if out is None else out
        out = out.index_copy(0, chosen, part)
    return out.to(maps[0].dtype)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rois: Tensor,
        levels: Tensor,
        output_size: tuple[int, int],
        sampling: tuple[tuple[float, ...], int, bool],
        *maps: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(rois, levels)
        ctx.arguments = output_size, sampling, [tuple(each.shape) for each in maps]
        channels = maps[0].shape[1]
        out = maps[0].new_empty(len(rois), *output_size, channels)
        empty = torch.ones(len(rois), dtype=torch.bool)
        for index, each in enumerate(maps):
            pixels = each.permute(0, 2, 3, 1).reshape(-1, channels)
            for taps in _level_taps(rois, levels, index, output_size, sampling, each.shape):
                bins = F.embedding_bag(
                    taps.pixels.flatten(),
                    pixels,
                    torch.arange(0, taps.pixels.numel() + 1, taps.pixels.shape[2]),
                    mode='sum',
                    per_sample_weights=taps.weights.flatten(),
                    include_last_offset=True,
                )
                out[taps.rois] = bins.view(-1, *output_size, channels)
                empty[taps.rois] = False
        out[empty] = 0
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        rois, levels = ctx.saved_tensors
        output_size, sampling, shapes = ctx.arguments
        channels, area = grad.shape[1], math.prod(output_size)
        grad = grad.permute(0, 2, 3, 1).reshape(-1, channels)  # one row per bin
        bins = torch.arange(len(grad)).view(len(rois), area, 1)
        grads: list[Tensor | None] = []
        for index, (batch, _, rows, columns) in enumerate(shapes):
            if not ctx.needs_input_grad[4 + index]:
                grads.append(None)
                continue
            total: Tensor | None = None
            for parts in _batches(_level_taps(rois, levels, index, output_size, sampling, shapes[index])):
                pixels, order = torch.cat([taps.pixels.flatten() for taps in parts]).sort()
                weights = torch.cat([taps.weights.flatten() for taps in parts])[order]
                source = torch.cat([bins[taps.rois].expand_as(taps.pixels).flatten() for taps in parts])[order]
                number = torch.bincount(pixels, minlength=batch * rows * columns)
                part = F.embedding_bag(
                    source,
                    grad,
                    F.pad(number.cumsum(0), (1, 0)),
                    mode='sum',
                    per_sample_weights=weights,
                    include_last_offset=True,
                )
                total = part if total is None else total.add_(part)
            # a map that no region reads gets None, as one that is not used: zeros would be as large as the map
            grads.append(None if total is None else total.view(batch, rows, columns, channels).permute(0, 3, 1, 2))
        return None, None, None, None, *grads


class _Taps(NamedTuple):
    """Which pixels make the bins of n regions: each of the h * w bins is a weighted sum of t pixels."""

    rois: Tensor  # (n,) which of the regions
    pixels: Tensor  # (n, h * w, t) index of a pixel in the batch of maps
    weights: Tensor  # (n, h * w, t)


def _batches(taps: Iterator[_Taps]) -> Iterator[list[_Taps]]:
    """Taps of many regions at once, as the sum over bins writes the whole map, but not without bound."""
    batch: list[_Taps] = []
    for each in taps:
        batch.append(each)
        if sum(one.pixels.numel() for one in batch) > 8 * _CHUNK:
            yield batch
            batch = []
    if batch:
        yield batch


def _level_taps(
    rois: Tensor,
    levels: Tensor,
    index: int,
    output_size: tuple[int, int],
    sampling: tuple[tuple[float, ...], int, bool],
    shape: tuple[int, ...],
) -> Iterator[_Taps]:
    """The taps of the regions that read map ``index``, of shape (B, C, H, W)."""
    chosen = (levels == index).nonzero().flatten()
    scales, ratio, aligned = sampling
    for taps in _taps(rois[chosen], (shape[0], *shape[2:]), output_size, (scales[index], ratio, aligned)):
        yield taps._replace(rois=chosen[taps.rois])


def _taps(
    rois: Tensor,
    shape: tuple[int, int, int],
    output_size: tuple[int, int],
    sampling: tuple[float, int, bool],
) -> Iterator[_Taps]:
    """The taps of all regions that have any, some regions at a time: those with the same number of samples."""
    _, rows, columns = shape
    height, width = output_size
    scale, ratio, aligned = sampling
    shift = 0.5 if aligned else 0.0
    start = rois[:, 1:3] * scale - shift  # x, y
    size = rois[:, 3:5] * scale - shift - start
    if not aligned:
        size = size.clamp(min=1.0)
    bin_size = size / size.new_tensor((width, height))
    grid = torch.full_like(size, ratio) if ratio > 0 else bin_size.ceil()
    # A region without a sample is zero. So is one outside, which may ask for samples without number; of what is not
    # finite torchvision makes arbitrary numbers.
    used = ((grid >= 1) & torch.isfinite(start + size)).all(dim=1)
    if ratio <= 0:
        used &= ((start <= size.new_tensor((columns, rows))) & (start + size >= -1)).all(dim=1)
    chosen = used.nonzero().flatten()
    if len(chosen) == 0:
        return
    grid = grid[chosen].long()
    most_x, most_y = grid.amax(dim=0).tolist()
    key, by_grid = (grid[:, 1] * (most_x + 1) + grid[:, 0]).sort(stable=True)
    chosen, grid = chosen[by_grid], grid[by_grid]
    start, bin_size, image = start[chosen], bin_size[chosen], rois[chosen, 0].long()

    column, column_weight = _axis_taps(start[:, 0], bin_size[:, 0], grid[:, 0], width, most_x, columns, ratio <= 0)
    row, row_weight = _axis_taps(start[:, 1], bin_size[:, 1], grid[:, 1], height, most_y, rows, ratio <= 0)
    row_weight = row_weight / (grid[:, 0] * grid[:, 1])[:, None, None]
    row = (row + (image * rows)[:, None, None]) * columns
    kinds, counts = torch.unique_consecutive(key, return_counts=True)
    first = 0
    for kind, count in zip(kinds.tolist(), counts.tolist()):
        grid_y, grid_x = divmod(kind, most_x + 1)
        t_y, t_x = (grid_y + 1, grid_x + 1) if ratio <= 0 else (2 * grid_y, 2 * grid_x)
        step = max(1, _CHUNK // (height * width * t_y * t_x))
        for low in range(first, first + count, step):
            some = slice(low, min(low + step, first + count))
            pixels = row[some, :, None, :t_y, None] + column[some, None, :, None, :t_x]
            weights = row_weight[some, :, None, :t_y, None] * column_weight[some, None, :, None, :t_x]
            flat = (pixels.shape[0], height * width, t_y * t_x)
            yield _Taps(chosen[some], pixels.view(flat), weights.view(flat))
        first += count


def _axis_taps(
    start: Tensor, bin_size: Tensor, grid: Tensor, bins: int, most: int, length: int, dense: bool
) -> tuple[Tensor, Tensor]:
    """Pixels and weights along one axis, (n, bins, t) each, of the samples in each bin, not yet averaged.

    Args:
        start, bin_size: (n,), in pixels.
        grid: (n,), samples per bin.
        bins: per region.
        most: maximum of ``grid``; taps of samples that a region does not have weigh 0 and stand last.
        length: pixels of the map.
        dense: samples are at most a pixel apart, so g of them touch g + 1 pixels in a row, of which each is named once;
            otherwise there are two for every sample.
    """
    number = torch.arange(most, dtype=start.dtype)
    inside = (number + 0.5) * bin_size[:, None] / grid[:, None]  # (n, most)
    at = start[:, None] + torch.arange(bins, dtype=start.dtype) * bin_size[:, None]
    at = at[:, :, None] + inside[:, None]  # (n, bins, most)
    absent = (at < -1) | (at > length) | (number >= grid[:, None])[:, None]
    at = at.clamp(0, length - 1)
    low = at.floor()
    part = (at - low).masked_fill(absent, 0)  # towards the next pixel; 0 at the last one
    low_weight = (1 - part).masked_fill(absent, 0)
    low = low.long()
    if not dense:
        pairs = torch.stack((low, (low + 1).clamp(max=length - 1)), -1), torch.stack((low_weight, part), -1)
        return pairs[0].flatten(2), pairs[1].flatten(2)
    # by rounding a sample may fall on the pixel after its last one, exactly: the weight of the one after that is 0
    position = torch.minimum(low - low[..., :1], grid[:, None, None]).clamp(min=0)
    weights = at.new_zeros(*at.shape[:2], most + 1)
    weights.scatter_add_(-1, position, low_weight)
    weights.scatter_add_(-1, torch.minimum(position + 1, grid[:, None, None]), part)
    return (low[..., :1] + torch.arange(most + 1)).clamp(max=length - 1), weights


def axis_weights(begin: Tensor, end: Tensor, bins: int, length: int) -> tuple[list[int], list[Tensor]]:
    """RoIAlign along one axis as matrices: the bins of a region are V M U^T, with V of its rows and U of its columns.

    Sampled as by :func:`roi_align` with ``sampling_ratio=0`` and ``aligned=True``.

    Args:
        begin, end: (R,), of the regions, in pixels of the map.
        bins: per region.
        length: pixels of the map.

    Returns:
        Of each region, its first pixel and the matrix (bins, pixels).
    """
    start = begin - 0.5
    bin_size = (end - 0.5 - start) / bins
    grid = bin_size.ceil().clamp(min=1).long()
    places, weights = _axis_taps(start, bin_size, grid, bins, int(grid.max()) if len(grid) else 1, length, True)
    weights = weights / grid[:, None, None]
    weights[bin_size <= 0] = 0
    first = places.flatten(1).amin(dim=1)
    matrices = []
    for place, weight, low, high in zip(places, weights, first.tolist(), places.flatten(1).amax(dim=1).tolist()):
        matrices.append(weight.new_zeros(bins, high + 1 - low).scatter_add_(1, place - low, weight))
    return first.tolist(), matrices
