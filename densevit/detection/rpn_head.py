"""Region proposals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RPNHead as MmdetRPNHead
from mmdet.structures.bbox import cat_boxes, get_box_tensor, get_box_wh
from mmengine.structures import InstanceData
from torch import Tensor

from ..layers.linear import is_plain
from ..registry import MODELS
from .nms import batched_nms

__all__ = ['RPNHead', 'best_first']

_STRIP = 4 << 20  # numbers of a strip of the hidden map, 16 MB in float32: such blocks are reused, not fetched anew


@MODELS.register_module()
class RPNHead(MmdetRPNHead):
    """mmdetection's ``RPNHead``, faster on the CPU.

    Arguments and parameter names are mmdetection's. Scores and boxes are one matrix product. For inference the hidden
    map is computed a strip of rows at a time and never stands in memory as a whole.
    """

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, A, H, W) and box deltas (B, 4 A, H, W) of A anchors at each place of ``x`` (B, C, H, W)."""
        if x.device.type != 'cpu' or not is_plain(self.rpn_conv, self.rpn_cls, self.rpn_reg):
            return super().forward_single(x)
        weight = torch.cat((self.rpn_cls.weight, self.rpn_reg.weight)).flatten(1)
        bias = torch.cat((self.rpn_cls.bias, self.rpn_reg.bias))
        if torch.is_grad_enabled() or self.rpn_conv.padding != (1, 1):
            hidden = F.relu_(self.rpn_conv(x))
            out = F.linear(hidden.permute(0, 2, 3, 1), weight, bias)
        else:
            out = torch.stack([self._by_strips(each, weight, bias) for each in x.split(1)])
        scores, deltas = out.permute(0, 3, 1, 2).split((self.rpn_cls.out_channels, self.rpn_reg.out_channels), dim=1)
        return scores, deltas

    def _by_strips(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Scores and deltas, (H, W, 5 A), of one image's map (1, C, H, W); a strip is read with the rows around it."""
        height, width = x.shape[2:]
        rows = max(1, _STRIP // (width * self.feat_channels))
        conv, strips = self.rpn_conv, []
        for first in range(0, height, rows):
            last = min(first + rows, height)
            above, below = max(first - 1, 0), min(last + 1, height)
            inside = above < first and last < below  # the rows around it are all there
            hidden = F.conv2d(x[:, :, above:below], conv.weight, conv.bias, padding=(0 if inside else 1, 1))
            if not inside:
                hidden = hidden[:, :, first - above : last - above]
            strips.append(F.linear(hidden.relu_()[0].permute(1, 2, 0), weight, bias))
        return torch.cat(strips)

    def _predict_by_feat_single(
        self,
        cls_score_list: Sequence[Tensor],
        bbox_pred_list: Sequence[Tensor],
        score_factor_list: Sequence[Tensor],
        mlvl_priors: Sequence[Tensor],
        img_meta: dict,
        cfg: dict,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> InstanceData:
        """Proposals of one image, as mmdetection's; the best scores are selected before anything is sorted."""
        cfg = self.test_cfg if cfg is None else cfg
        if not self.use_sigmoid_cls:
            return super()._predict_by_feat_single(
                cls_score_list, bbox_pred_list, score_factor_list, mlvl_priors, img_meta, cfg, rescale, with_nms
            )
        number = cfg.get('nms_pre', -1)
        all_scores, all_deltas, all_priors = [], [], []
        for score, delta, priors in zip(cls_score_list, bbox_pred_list, mlvl_priors):
            scores = score.permute(1, 2, 0).flatten().sigmoid()
            deltas = delta.permute(1, 2, 0)
            anchors = len(scores) // (deltas.shape[0] * deltas.shape[1])
            deltas = deltas.unflatten(2, (anchors, self.bbox_coder.encode_size))
            if 0 < number < len(scores):
                best = best_first(scores, number)
                place, anchor = best // anchors, best % anchors
                scores, priors = scores[best], priors[best]
                deltas = deltas[place // deltas.shape[1], place % deltas.shape[1], anchor]
            all_scores.append(scores)
            all_deltas.append(deltas.reshape(-1, self.bbox_coder.encode_size))
            all_priors.append(priors)
        boxes = self.bbox_coder.decode(cat_boxes(all_priors), torch.cat(all_deltas), max_shape=img_meta['img_shape'])
        levels = [scores.new_full((len(scores),), level, dtype=torch.long) for level, scores in enumerate(all_scores)]
        results = InstanceData(bboxes=boxes, scores=torch.cat(all_scores), level_ids=torch.cat(levels))
        return self._bbox_post_process(results, cfg, rescale, with_nms, img_meta)

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: dict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict | None = None,
    ) -> InstanceData:
        """Suppress overlapping boxes of a level and keep the best, as mmdetection's."""
        if rescale or not with_nms or len(results) == 0:
            return super()._bbox_post_process(results, cfg, rescale, with_nms, img_meta)
        boxes, scores, levels = get_box_tensor(results.bboxes), results.scores, results.level_ids
        if cfg.get('min_bbox_size', -1) >= 0:
            width, height = get_box_wh(results.bboxes)
            large = (width > cfg['min_bbox_size']) & (height > cfg['min_bbox_size'])
            boxes, scores, levels = boxes[large], scores[large], levels[large]
        if len(boxes):
            boxes, scores = batched_nms(boxes, scores, levels, cfg['nms'])[0][: cfg['max_per_img']].split((4, 1), dim=1)
            scores = scores[:, 0]
        return InstanceData(bboxes=boxes, scores=scores, labels=torch.zeros_like(scores, dtype=torch.long))


def best_first(scores: Tensor, number: int) -> Tensor:
    """Indices of the ``number`` highest of ``scores`` (N,), best first, equal ones in their order.

    What ``scores.sort(descending=True, stable=True)`` gives first, without sorting all.
    """
    least = scores.topk(number, sorted=False).values.min()
    candidates = (scores >= least).nonzero().flatten()
    return candidates[scores[candidates].sort(descending=True, stable=True).indices[:number]]
