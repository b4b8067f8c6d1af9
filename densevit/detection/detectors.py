"""Mask R-CNN, Cascade R-CNN and RetinaNet."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import CascadeRCNN as MmdetCascadeRCNN
from mmdet.models.detectors import MaskRCNN as MmdetMaskRCNN
from mmdet.models.detectors import RetinaNet as MmdetRetinaNet
from mmdet.structures import DetDataSample
from torch import Tensor

from ..heads.attached import WithClassAttention
from ..registry import MODELS

__all__ = ['CascadeRCNN', 'MaskRCNN', 'RetinaNet']

# The parts of mmdetection that have a twin of the same name here.
_TWINS = frozenset(
    {
        'CascadeRoIHead',
        'ConvFCBBoxHead',
        'FCNMaskHead',
        'FPN',
        'RPNHead',
        'Shared2FCBBoxHead',
        'Shared4Conv1FCBBoxHead',
        'SingleRoIExtractor',
        'StandardRoIHead',
    }
)


def with_twins(cfg: Any) -> Any:
    """A config in which every part that has a faster twin here is that one; the argument is not changed."""
    if isinstance(cfg, dict):
        cfg = type(cfg)({key: with_twins(value) for key, value in cfg.items()})
        name = cfg.get('type')
        if isinstance(name, str) and name.removeprefix('mmdet.') in _TWINS:
            cfg['type'] = f'densevit.{name.removeprefix("mmdet.")}'
        return cfg
    return [with_twins(each) for each in cfg] if isinstance(cfg, (list, tuple)) else cfg


class _TwoStage(WithClassAttention):
    """What both detectors do otherwise than mmdetection's ``TwoStageDetector``."""

    def __init__(
        self,
        backbone: dict,
        neck: dict | list | None = None,
        rpn_head: dict | None = None,
        roi_head: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
        *,
        class_attention: dict | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=with_twins(neck),
            rpn_head=with_twins(rpn_head),
            roi_head=with_twins(roi_head),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self._build_class_attention(class_attention)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict:
        """Losses of a batch."""
        maps = self.extract_feat(batch_inputs)
        losses, proposals = self._proposals_to_train(maps, batch_data_samples)
        losses.update(self.roi_head.loss(maps, proposals, batch_data_samples))
        return {**losses, **self._presence_loss(maps, batch_inputs, batch_data_samples)}

    def _proposals_to_train(self, maps: Any, batch_data_samples: list[DetDataSample]) -> tuple[dict, list[Any]]:
        """Losses of the RPN, and proposals; those of the samples where there is no RPN."""
        if not self.with_rpn:
            return {}, [sample.proposals for sample in batch_data_samples]
        # the proposals know no classes; mmdetection copies the samples for that, with all their masks
        classless = []
        for sample in batch_data_samples:
            other = sample.new()
            other.gt_instances = sample.gt_instances.new()
            other.gt_instances.labels = torch.zeros_like(sample.gt_instances.labels)
            classless.append(other)
        proposal_cfg = self.train_cfg.get('rpn_proposal', self.test_cfg.rpn)
        losses, proposals = self.rpn_head.loss_and_predict(maps, classless, proposal_cfg=proposal_cfg)
        losses = {name if 'rpn' in name or 'loss' not in name else f'rpn_{name}': each for name, each in losses.items()}
        return losses, proposals

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of a batch, in ``pred_instances`` of the samples."""
        if self.class_attention is None:
            return super().predict(batch_inputs, batch_data_samples, rescale)
        maps = self.extract_feat(batch_inputs)
        if batch_data_samples[0].get('proposals', None) is None:
            proposals = self.rpn_head.predict(maps, batch_data_samples, rescale=False)
        else:
            proposals = [sample.proposals for sample in batch_data_samples]
        found = self.roi_head.predict(maps, proposals, batch_data_samples, rescale=rescale)
        self._add_class_attention(maps.last, batch_data_samples, batch_inputs.shape[2:])
        return self.add_pred_to_datasample(batch_data_samples, found)


@MODELS.register_module()
class MaskRCNN(_TwoStage, MmdetMaskRCNN):
    """mmdetection's ``MaskRCNN`` with the same config, parameter names and numbers, faster on the CPU.

    Of the neck and the heads, parts of these types become the densevit ones of the same name: ``FPN``, ``RPNHead``,
    ``StandardRoIHead``, ``CascadeRoIHead``, ``SingleRoIExtractor``, ``Shared2FCBBoxHead``, ``Shared4Conv1FCBBoxHead``,
    ``ConvFCBBoxHead`` and ``FCNMaskHead``. Any other part stays. Predicted masks are
    :class:`~densevit.detection.masks.PastedMasks`: a bool tensor (N, H, W) to whoever uses it as one.

    ``class_attention``, a config of :class:`densevit.ClassAttentionHead`, adds that head; predicted samples then have a
    ``class_attention`` of their own.
    """


@MODELS.register_module()
class CascadeRCNN(_TwoStage, MmdetCascadeRCNN):
    """mmdetection's ``CascadeRCNN`` in the way of :class:`MaskRCNN`."""


@MODELS.register_module()
class RetinaNet(WithClassAttention, MmdetRetinaNet):
    """mmdetection's ``RetinaNet`` with the same config, parameter names and numbers, and a neck as :class:`MaskRCNN`'s.

    ``class_attention`` is that of :class:`MaskRCNN`.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | list,
        bbox_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
        *,
        class_attention: dict | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=with_twins(neck),
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self._build_class_attention(class_attention)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict:
        """Losses of a batch."""
        maps = self.extract_feat(batch_inputs)
        losses = self.bbox_head.loss(maps, batch_data_samples)
        return {**losses, **self._presence_loss(maps, batch_inputs, batch_data_samples)}

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of a batch, in ``pred_instances`` of the samples."""
        maps = self.extract_feat(batch_inputs)
        found = self.bbox_head.predict(maps, batch_data_samples, rescale=rescale)
        if self.class_attention is not None:
            self._add_class_attention(maps.last, batch_data_samples, batch_inputs.shape[2:])
        return self.add_pred_to_datasample(batch_data_samples, found)
