"""Training heads without logits as large as the labels."""

from __future__ import annotations

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..layers.resized_cross_entropy import resized_cross_entropy

__all__ = ['LeanLoss']

# mmsegmentation divides by counts plus this, as they may be 0.
_EPS = torch.finfo(torch.float32).eps


class LeanLoss(BaseDecodeHead):
    """A head's loss and accuracy, computed rectangle by rectangle; to be the first base of a head of mmsegmentation.

    It is used where ``loss_decode`` is cross entropy of a softmax, its mean over the pixels, without a sampler: see
    :func:`~densevit.layers.resized_cross_entropy.resized_cross_entropy`. Other losses take mmsegmentation's way.
    Where ``class_weight`` is given, ``avg_non_ignore`` changes nothing (mmsegmentation stops there): the mean is
    over the weights of the pixels that are not ignored anyway.
    """

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """The losses by name, and ``acc_seg``: the percentage of correct pixels.

        Args:
            seg_logits: (B, C, h, w).
            batch_data_samples: with ``gt_sem_seg``, (1, H, W) each.
        """
        losses = list(self.loss_decode) if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]
        if not (seg_logits.shape[1] > 1 and self.sampler is None and all(_is_plain(each) for each in losses)):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        label = self._stack_batch_gt(batch_data_samples).squeeze(1)
        counted = (label != self.ignore_index).sum()
        found: dict[str, Tensor] = {}
        for loss in losses:
            class_weight = None if loss.class_weight is None else seg_logits.new_tensor(loss.class_weight)
            pixels = resized_cross_entropy(
                seg_logits,
                label,
                ignore_index=self.ignore_index,
                class_weight=class_weight,
                align_corners=self.align_corners,
            )
            over = pixels.weight if loss.avg_non_ignore or class_weight is not None else label.numel()
            value = loss.loss_weight * pixels.total / (over + _EPS)
            found[loss.loss_name] = found[loss.loss_name] + value if loss.loss_name in found else value
        found['acc_seg'] = ((pixels.correct + _EPS) * (100 / (counted + _EPS))).reshape(1)
        return found


def _is_plain(loss: nn.Module) -> bool:
    return type(loss) is CrossEntropyLoss and not loss.use_sigmoid and not loss.use_mask and loss.reduction == 'mean'
