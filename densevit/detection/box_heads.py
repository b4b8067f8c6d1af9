"""Classes and refined boxes of regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead as MmdetConvFC
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead as MmdetShared2FC
from mmdet.models.roi_heads.bbox_heads import Shared4Conv1FCBBoxHead as MmdetShared4Conv1FC
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor

from ..layers.folding import Foldable
from ..registry import MODELS
from .nms import batched_nms

__all__ = ['ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead']


class _FewerBoxes(Foldable):
    """What the box heads here share: only boxes with a score above the threshold are computed."""

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Scores (R, K + 1) and box deltas (R, 4 K) of features (R, C, h, w)."""
        first = self.num_shared_convs == 0 and self.num_shared_fcs > 0 and not self.with_avg_pool
        if not first or not self.is_folded or not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        shared, weight = self.shared_fcs, self.derived(self._weight_by_place)
        x = F.linear(x.permute(0, 2, 3, 1).flatten(1), weight, shared[0].bias).relu_()
        for layer in shared[1:]:
            x = layer(x).relu_()
        branches = []
        for wanted, layers, last in (
            (self.with_cls, self.cls_fcs, 'fc_cls'),
            (self.with_reg, self.reg_fcs, 'fc_reg'),
        ):
            features = x
            for layer in layers:
                features = layer(features).relu_()
            branches.append(getattr(self, last)(features) if wanted else None)
        return branches[0], branches[1]

    def _weight_by_place(self) -> Tensor:
        """The first layer's weight for features that stand as (h, w, C) in memory."""
        layer = self.shared_fcs[0]
        weight = layer.weight.unflatten(1, (self.in_channels, *self.roi_feat_size))
        return weight.permute(0, 2, 3, 1).flatten(1)

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: dict | None = None,
    ) -> InstanceData:
        """Detections of one image, as mmdetection's."""
        if rcnn_test_cfg is None or bbox_pred is None or len(roi) == 0 or self.custom_activation:
            return super()._predict_by_feat_single(roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg)
        if isinstance(cls_score, list):
            cls_score = sum(cls_score) / float(len(cls_score))
        classes = cls_score.shape[1] - 1
        scores = F.softmax(cls_score, dim=-1)[:, :classes].flatten()
        found = (scores > rcnn_test_cfg['score_thr']).nonzero().flatten()
        scores, labels, owner = scores[found], found % classes, found // classes
        deltas = bbox_pred.unflatten(1, (-1, self.bbox_coder.encode_size))
        deltas = deltas[owner, labels if deltas.shape[1] > 1 else torch.zeros_like(labels)]
        boxes = self.bbox_coder.decode(roi[owner, 1:], deltas, max_shape=img_meta['img_shape'])
        if rescale and len(boxes):
            boxes = scale_boxes(boxes, [1 / each for each in img_meta['scale_factor']])
        boxes = get_box_tensor(boxes)
        if len(boxes) == 0:
            return InstanceData(bboxes=boxes.reshape(0, 4), scores=scores, labels=labels)
        kept, index = batched_nms(boxes, scores, labels, rcnn_test_cfg['nms'])
        most = rcnn_test_cfg['max_per_img']
        kept, index = (kept[:most], index[:most]) if most > 0 else (kept, index)
        return InstanceData(bboxes=kept[:, :4], scores=kept[:, 4], labels=labels[index])


@MODELS.register_module()
class ConvFCBBoxHead(_FewerBoxes, MmdetConvFC):
    """mmdetection's ``ConvFCBBoxHead``; only boxes with a score above the threshold are computed."""


@MODELS.register_module()
class Shared2FCBBoxHead(_FewerBoxes, MmdetShared2FC):
    """mmdetection's ``Shared2FCBBoxHead``; only boxes with a score above the threshold are computed."""


@MODELS.register_module()
class Shared4Conv1FCBBoxHead(_FewerBoxes, MmdetShared4Conv1FC):
    """mmdetection's ``Shared4Conv1FCBBoxHead``; only boxes with a score above the threshold are computed."""
