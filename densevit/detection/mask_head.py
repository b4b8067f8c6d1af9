"""Masks of detected regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import wrappers
from mmdet.models.roi_heads.mask_heads import FCNMaskHead as MmdetFCNMaskHead
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..layers.linear import has_hooks
from ..registry import MODELS
from .mask_targets import mask_targets
from .masks import PastedMasks

__all__ = ['FCNMaskHead']

_REGIONS = 16  # at a time, for inference: their features stay in the cache from layer to layer


@MODELS.register_module()
class FCNMaskHead(MmdetFCNMaskHead):
    """mmdetection's ``FCNMaskHead``, faster on the CPU.

    Arguments and parameter names are mmdetection's. Where the labels are known (``densevit.StandardRoIHead`` and
    ``densevit.CascadeRoIHead`` tell them), only the mask of that class is computed. Predicted masks are
    :class:`~densevit.detection.masks.PastedMasks`. Bitmaps of the truth are cropped one by one, without a
    float copy of the whole image for each region.
    """

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mask logits.

        Args:
            x: features of regions, (R, C, h, w).
            labels: (R,), the class to compute; all by default.

        Returns:
            (R, K, 2 h, 2 w), or (R, 1, 2 h, 2 w) with labels.
        """
        if self.class_agnostic:
            labels = None
        if not self._is_usual or x.device.type != 'cpu' or len(x) == 0:
            masks = super().forward(x)
            return masks if labels is None else masks[torch.arange(len(masks), device=masks.device), labels][:, None]
        x = x.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            return self._logits(x, labels)
        labels = [None] * -(-len(x) // _REGIONS) if labels is None else labels.split(_REGIONS)
        return torch.cat([self._logits(*each) for each in zip(x.split(_REGIONS), labels)])

    @property
    def _is_usual(self) -> bool:
        """Whether every place becomes two by two ones, which do not overlap, and these become logits one by one."""
        upsample, last = self.upsample, self.conv_logits
        return (
            type(upsample) in (nn.ConvTranspose2d, wrappers.ConvTranspose2d)
            and upsample.kernel_size == upsample.stride == (2, 2)
            and upsample.padding == upsample.output_padding == (0, 0)
            and upsample.dilation == (1, 1)
            and upsample.groups == 1
            and type(last) in (nn.Conv2d, wrappers.Conv2d)
            and last.kernel_size == last.stride == (1, 1)
            and last.padding == (0, 0)
            and last.groups == 1
            and last.bias is not None
            and not (has_hooks(upsample) or has_hooks(last))
        )

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The transposed convolution as a matrix product from a place's channels to its four places' channels."""
        for conv in self.convs:
            x = conv(x)
        regions, _, height, width = x.shape
        weight = self.upsample.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C, C)
        bias = None if self.upsample.bias is None else self.upsample.bias.repeat(4)
        x = F.linear(x.permute(0, 2, 3, 1).flatten(1, 2), weight, bias).relu_()
        x = x.view(regions, height * width * 4, -1)
        last, last_bias = self.conv_logits.weight.flatten(1), self.conv_logits.bias
        if labels is None:
            x = F.linear(x, last, last_bias)
        else:
            x = torch.baddbmm(last_bias[labels][:, None, None], x, last[labels][:, :, None])
        x = x.view(regions, height, width, 2, 2, -1)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(regions, -1, 2 * height, 2 * width)

    def get_targets(
        self, sampling_results: Sequence, batch_gt_instances: Sequence[InstanceData], rcnn_train_cfg: dict
    ) -> Tensor:
        """The truth's masks in the positive regions, (R, h, w), of zeros and ones, as mmdetection's."""
        truths = [each.masks for each in batch_gt_instances]
        on_cpu = all(each.pos_priors.device.type == 'cpu' for each in sampling_results)
        if not on_cpu or not all(type(each) is BitmapMasks for each in truths):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        size = rcnn_train_cfg['mask_size']
        size = (size, size) if isinstance(size, int) else tuple(size)
        soft = rcnn_train_cfg.get('soft_mask_target', False)
        return torch.cat(
            [
                mask_targets(each.pos_priors, each.pos_assigned_gt_inds, truth.masks, size, binary=not soft)
                for each, truth in zip(sampling_results, truths)
            ]
        )

    def loss_and_target(
        self,
        mask_preds: Tensor,
        sampling_results: Sequence,
        batch_gt_instances: Sequence[InstanceData],
        rcnn_train_cfg: dict,
    ) -> dict:
        """Loss and targets, as mmdetection's; also of logits of the true class alone."""
        if self.class_agnostic or mask_preds.shape[1] > 1 or self.num_classes == 1 or len(mask_preds) == 0:
            return super().loss_and_target(mask_preds, sampling_results, batch_gt_instances, rcnn_train_cfg)
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        first = torch.zeros(len(mask_preds), dtype=torch.long, device=mask_preds.device)
        return dict(loss_mask=dict(loss_mask=self.loss_mask(mask_preds, targets, first)), mask_targets=targets)

    def _predict_by_feat_single(
        self,
        mask_preds: Tensor,
        bboxes: Tensor,
        labels: Tensor,
        img_meta: dict,
        rcnn_test_cfg: dict,
        rescale: bool = False,
        activate_map: bool = False,
    ) -> Tensor:
        """Masks of one image, (N, H, W) bool; boxes are scaled in place, as in mmdetection."""
        if rcnn_test_cfg['mask_thr_binary'] < 0:  # masks of grey values, for debugging
            if mask_preds.shape[1] == 1 and not self.class_agnostic:
                mask_preds = mask_preds.expand(-1, self.num_classes, -1, -1)
            return super()._predict_by_feat_single(
                mask_preds, bboxes, labels, img_meta, rcnn_test_cfg, rescale, activate_map
            )
        # with several stages mmdetection passes probabilities, as an array
        mask_preds = bboxes.new_tensor(mask_preds) if activate_map else mask_preds
        row = torch.arange(len(mask_preds), device=mask_preds.device)
        mask_preds = mask_preds[:, 0] if mask_preds.shape[1] == 1 else mask_preds[row, labels]
        probabilities = mask_preds if activate_map else mask_preds.sigmoid()
        height, width = img_meta['ori_shape'][:2]
        scale_x, scale_y = img_meta['scale_factor'][:2]
        if rescale:
            bboxes /= bboxes.new_tensor((scale_x, scale_y, scale_x, scale_y))
        else:
            scale_x, scale_y = bboxes.new_tensor((scale_x, scale_y)).tolist()
            height, width = round(height * scale_y), round(width * scale_x)
        # a copy of the boxes: whoever changes them does not mean the masks
        return PastedMasks(probabilities, bboxes.clone(), (height, width), rcnn_test_cfg['mask_thr_binary'])
