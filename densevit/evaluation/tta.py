"""Test-time augmentation of detectors that predict masks."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip, bbox_overlaps
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..registry import MODELS

__all__ = ['DetTTAModel']

# The axes of (H, W) that a flip of this direction reverses.
_FLIPPED = {'horizontal': (-1,), 'vertical': (-2,), 'diagonal': (-2, -1)}


@MODELS.register_module()
class DetTTAModel(BaseTTAModel):
    """Merges the detections in several views of an image, masks included, which mmdetection's class refuses.

    Boxes come back to the original image (``predict`` has undone the scale, flips are undone here) and go through
    non-maximum suppression per class. A detection that is kept speaks for its cluster: the detections of its class
    whose box has its largest IoU with this one, and at least the threshold of the suppression. The mask is where
    more than half of the cluster agrees, weighted by score.

    Args:
        module: the detector.
        nms: configuration of the suppression, e.g. ``dict(type='nms', iou_threshold=0.5)``; by default the
            detector's own, of ``test_cfg``.
        max_per_img: detections kept per image; by default as many as the detector keeps.
        data_preprocessor: replaces the detector's.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        *,
        nms: dict | None = None,
        max_per_img: int | None = None,
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        own: Any = getattr(self.module, 'test_cfg', None) or {}
        own = own.get('rcnn') or own  # one-stage detectors have no parts in it
        self.nms = dict(nms or own.get('nms') or dict(type='nms', iou_threshold=0.5))
        self.max_per_img = max_per_img if max_per_img is not None else own.get('max_per_img', 100)

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        """Merge the views of each image; the sample of its first view receives the result."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: list[DetDataSample]) -> DetDataSample:
        merged = views[0]
        found = [view.pred_instances for view in views]
        boxes = torch.cat([_upright_boxes(view) for view in views])
        scores = torch.cat([each.scores for each in found])
        labels = torch.cat([each.labels for each in found])
        kept_boxes, kept = torch.cat((boxes, scores[:, None]), 1), torch.arange(0, device=boxes.device)
        if len(boxes):  # mmcv takes the maximum of all coordinates
            kept_boxes, kept = batched_nms(boxes, scores, labels, dict(self.nms))
            kept_boxes, kept = kept_boxes[: self.max_per_img], kept[: self.max_per_img]
        result = InstanceData(bboxes=kept_boxes[:, :4], scores=kept_boxes[:, 4], labels=labels[kept])
        if all('masks' in each for each in found):
            cluster = self._clusters(boxes, labels, kept)
            result.masks = _vote(views, scores, cluster, len(kept))
        merged.pred_instances = result
        return merged

    def _clusters(self, boxes: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """For each of N detections the position in ``kept`` of the one that speaks for it, or -1; (N,)."""
        if len(kept) == 0:
            return labels.new_full((len(labels),), -1)
        overlaps = bbox_overlaps(boxes, boxes[kept])
        overlaps[labels[:, None] != labels[kept]] = -1
        best, cluster = overlaps.max(dim=1)
        threshold = self.nms.get('iou_threshold', self.nms.get('iou_thr', 0.5))
        cluster[best < threshold] = -1
        cluster[kept] = torch.arange(len(kept), device=cluster.device)  # also where a box is empty: its IoU is 0
        return cluster


def _upright_boxes(view: DetDataSample) -> Tensor:
    boxes = view.pred_instances.bboxes
    if not view.metainfo.get('flip'):
        return boxes
    return bbox_flip(boxes, view.ori_shape, direction=view.flip_direction)


def _vote(views: list[DetDataSample], scores: Tensor, cluster: Tensor, count: int) -> Tensor:
    """The masks of ``count`` clusters, (count, H, W) bool; one is summed at a time, as floats of all are large."""
    masks = [
        (mask, _FLIPPED[view.flip_direction] if view.metainfo.get('flip') else ())
        for view in views
        for mask in view.pred_instances.masks
    ]
    height, width = views[0].ori_shape[:2]
    voted = torch.zeros((count, height, width), dtype=torch.bool, device=scores.device)
    for index in range(count):
        members = torch.nonzero(cluster == index).flatten().tolist()
        if len(members) == 1:  # whatever its score, which may be 0
            mask, flipped = masks[members[0]]
            voted[index] = mask.flip(flipped) if flipped else mask
            continue
        votes = torch.zeros((height, width), device=scores.device)
        for member in members:
            mask, flipped = masks[member]
            votes += scores[member] * (mask.flip(flipped) if flipped else mask)
        voted[index] = votes > 0.5 * scores[members].sum()
    return voted
