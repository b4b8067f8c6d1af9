"""The second stage: boxes and masks of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead as MmdetCascadeRoIHead
from mmdet.models.roi_heads import StandardRoIHead as MmdetStandardRoIHead
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor

from ..registry import MODELS
from .mask_head import FCNMaskHead

__all__ = ['CascadeRoIHead', 'StandardRoIHead']


@MODELS.register_module()
class StandardRoIHead(MmdetStandardRoIHead):
    """mmdetection's ``StandardRoIHead``; a ``densevit.FCNMaskHead`` computes masks of the predicted class only.

    In training that is the true class of each positive region, of which alone the loss is.
    """

    def mask_loss(
        self, x: tuple[Tensor, ...], sampling_results: list, bbox_feats: Tensor, batch_gt_instances: list[InstanceData]
    ) -> dict:
        """Masks of the positive regions and their loss."""
        if self.share_roi_extractor or not isinstance(self.mask_head, FCNMaskHead):
            return super().mask_loss(x, sampling_results, bbox_feats, batch_gt_instances)
        rois = bbox2roi([each.pos_priors for each in sampling_results])
        labels = torch.cat([each.pos_gt_labels for each in sampling_results])
        results = self._masks(x, rois, labels)
        losses = self.mask_head.loss_and_target(
            mask_preds=results['mask_preds'],
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg,
        )
        results.update(loss_mask=losses['loss_mask'])
        return results

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Adds ``masks`` to the detections of each image."""
        rois = bbox2roi([each.bboxes for each in results_list])
        if len(rois) == 0 or not isinstance(self.mask_head, FCNMaskHead):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        masks = self._masks(x, rois, torch.cat([each.labels for each in results_list]))['mask_preds']
        return self.mask_head.predict_by_feat(
            mask_preds=masks.split([len(each) for each in results_list]),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
        )

    def _masks(self, x: Sequence[Tensor], rois: Tensor, labels: Tensor) -> dict[str, Any]:
        features = self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)
        if self.with_shared_head:
            features = self.shared_head(features)
        return dict(mask_preds=self.mask_head(features, labels), mask_feats=features)


@MODELS.register_module()
class CascadeRoIHead(MmdetCascadeRoIHead):
    """mmdetection's ``CascadeRoIHead``; ``densevit.FCNMaskHead`` computes masks of one class only, as above."""

    def mask_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list, batch_gt_instances: list[InstanceData]
    ) -> dict:
        """A stage's masks of the positive regions and their loss."""
        rois = bbox2roi([each.pos_priors for each in sampling_results])
        masks = self._masks(stage, x, rois, torch.cat([each.pos_gt_labels for each in sampling_results]))
        losses = self.mask_head[stage].loss_and_target(
            mask_preds=masks,
            sampling_results=sampling_results,
            batch_gt_instances=batch_gt_instances,
            rcnn_train_cfg=self.train_cfg[stage],
        )
        return dict(mask_preds=masks, **losses)

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Adds ``masks``, the average of all stages, to the detections of each image."""
        rois = bbox2roi([each.bboxes for each in results_list])
        if len(rois) == 0 or not all(isinstance(each, FCNMaskHead) for each in self.mask_head):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        labels = torch.cat([each.labels for each in results_list])
        stages = [self._masks(stage, x, rois, labels).sigmoid().detach() for stage in range(self.num_stages)]
        return self.mask_head[-1].predict_by_feat(
            mask_preds=torch.stack(stages).mean(dim=0).split([len(each) for each in results_list]),
            results_list=results_list,
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=self.test_cfg,
            rescale=rescale,
            activate_map=True,
        )

    def _masks(self, stage: int, x: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        extractor, head = self.mask_roi_extractor[stage], self.mask_head[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        return head(features, labels) if isinstance(head, FCNMaskHead) else head(features)
