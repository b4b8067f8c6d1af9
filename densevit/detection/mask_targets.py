"""What a mask head should say about a region: the truth's bitmap in it, resampled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..compat.ops import load_torchvision_ops
from ..layers.roi_align import axis_weights

__all__ = ['mask_targets']

_UNSURE = 1e-4  # farther from one half than any rounding goes


@torch.autocast('cpu', enabled=False)  # targets are as exact under mixed precision
def mask_targets(
    boxes: Tensor, owners: Tensor, bitmaps: np.ndarray, size: tuple[int, int], *, binary: bool = True
) -> Tensor:
    """RoIAlign of each region's bitmap, on the CPU.

    A bin is the average of samples on a grid, so a region's bins are V M U^T: V weighs the rows of the bitmap M and U
    its columns. Only the part of M under the region is read. Where a bin is so close to one half that the order of
    a sum might decide about it, the region is computed again by torchvision's kernel, as mmdetection computes all.

    Args:
        boxes: (R, 4), x1 y1 x2 y2 in pixels; what lies outside the image is cut off.
        owners: (R,), index of the region's bitmap.
        bitmaps: (N, H, W) uint8 of zeros and ones.
        size: height and width of a target.
        binary: 1 from one half on, 0 below.

    Returns:
        (R, h, w) float32, as mmdetection's whatever the dtype of the boxes.
    """
    targets = boxes.new_zeros(len(boxes), *size)
    if len(boxes) == 0:
        return targets.float()
    height, width = bitmaps.shape[1:]
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor((width, height, width, height)))
    left, column_weights = axis_weights(boxes[:, 0], boxes[:, 2], size[1], width)
    top, row_weights = axis_weights(boxes[:, 1], boxes[:, 3], size[0], height)
    for target, owner, x, y, us, vs in zip(targets, owners.tolist(), left, top, column_weights, row_weights):
        part = torch.from_numpy(bitmaps[owner, y : y + vs.shape[1], x : x + us.shape[1]]).to(boxes.dtype)
        torch.linalg.multi_dot((vs, part, us.t()), out=target)
    if not binary:
        return targets.float()
    align = load_torchvision_ops().roi_align
    unsure = ((targets - 0.5).abs() < _UNSURE).flatten(1).any(dim=1).nonzero().flatten()
    for index in unsure.tolist():
        bitmap = torch.from_numpy(bitmaps[owners[index]]).to(boxes.dtype)[None, None]
        roi = torch.cat((boxes.new_zeros(1), boxes[index]))[None]
        targets[index] = align(bitmap, roi, 1.0, *size, 0, True)[0, 0]
    return (targets >= 0.5).float()
