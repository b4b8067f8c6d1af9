"""Non-maximum suppression within groups."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmcv.ops import batched_nms as mmcv_batched_nms
from mmcv.ops import nms
from torch import Tensor

__all__ = ['batched_nms']


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Mapping) -> tuple[Tensor, Tensor]:
    """mmcv's ``batched_nms``; on the CPU one group after the other, as the cost grows with the square of their size.

    mmcv moves each group to a place of its own and suppresses among all boxes. The moved coordinates are used here as
    well, for the same rounding, so the result is the same.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        groups: (N,) int64, of which only members suppress each other: classes, or levels of a pyramid.
        cfg: of the suppression; other types than ``nms``, and other options than ``iou_threshold``, are left to mmcv.

    Returns:
        (K, 5), boxes and scores that are kept, best first, and (K,) their indices.
    """
    simple = set(cfg) == {'type', 'iou_threshold'} and cfg['type'] == 'nms'
    if boxes.device.type != 'cpu' or not simple or len(boxes) < 2:
        return mmcv_batched_nms(boxes, scores, groups, cfg)
    moved = boxes + (groups.to(boxes) * (boxes.max() + torch.tensor(1).to(boxes)))[:, None]
    groups, order = groups.sort(stable=True)
    counts = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    kept = []
    for members in order.split(counts):
        if len(members) > 1:
            members = members[nms(moved[members], scores[members], cfg['iou_threshold'])[1]]
        kept.append(members)
    keep = torch.cat(kept).sort().values
    found, best = scores[keep].sort(descending=True, stable=True)
    keep = keep[best]
    return torch.cat((boxes[keep], found[:, None]), dim=1), keep
