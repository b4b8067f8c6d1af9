"""Do attention maps lie on what they are said to show? Pointing game and energy in the mask, per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from ..errors import UserError
from ..heads.patches import interpolation, overlap
from ..registry import METRICS
from .tables import metrics_table

__all__ = ['PointingGame', 'class_masks', 'energy_in_mask', 'points_at']

_MEASURES = ('pointing', 'centre', 'energy', 'area')


@METRICS.register_module()
class PointingGame(BaseMetric):
    """Whether the class attention of :class:`densevit.ClassAttentionHead` lies on its classes.

    For every image and every class in it:

    * ``pointing``: does the maximum of the class's map, interpolated to the size of the image, lie on the class?
      (Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop", https://arxiv.org/abs/1608.00507.)
    * ``centre``: does the centre of the image? The baseline of the pointing game.
    * ``energy``: the share of the map that lies on the class, of what lies on labelled pixels; each patch counts with
      the part of its area that the class covers (Wang et al. 2020, Score-CAM, https://arxiv.org/abs/1910.01279,
      energy-based pointing game).
    * ``area``: the share of the labelled pixels that the class has, which is the energy of a map that is the same
      everywhere.

    The values are means over the images with the class and then over the classes, all 0 to 1. The ground truth is the
    label map, or the union of the instances of a class: of their masks, or of their boxes where there are no masks. A
    class that some ignored instance (a crowd) has is left out in that image.

    After an evaluation ``per_class`` holds, on the main process, {class name: {'pointing': ..., 'centre': ...,
    'energy': ..., 'area': ..., 'images': ...}}, nan for classes without images.

    Args:
        tolerance: a point counts as on the class within this many pixels of it; Zhang et al. take 15.
        ignore_index: value of a label map that is no class.
        collect_device: ``'cpu'`` or ``'gpu'``, the way by which processes exchange their results.
        prefix: put before the names, followed by a slash; ``'attention'`` by default.

    Raises:
        UserError: the model has no class attention, or a sample comes without ground truth.
    """

    default_prefix = 'attention'

    def __init__(
        self,
        tolerance: float = 0,
        *,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if tolerance < 0:
            raise UserError(f'PointingGame(tolerance={tolerance}): give a distance in pixels, 0 or more.')
        self.tolerance = tolerance
        self.ignore_index = ignore_index
        self.per_class: dict[str, dict[str, float]] = {}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Score a batch; ``data_samples`` are mmsegmentation's or mmdetection's, as dictionaries."""
        for sample in data_samples:
            path = sample.get('img_path', 'an image without a path')
            if 'class_attention' not in sample:
                raise UserError(
                    'PointingGame reads class attention, which this model does not predict: '
                    "write model.class_attention=dict(type='densevit.ClassAttentionHead')."
                )
            found = class_masks(sample, len(self.dataset_meta['classes']), self.ignore_index)
            if found is None:
                raise UserError(f'{path} comes without ground truth: put LoadAnnotations into the test pipeline.')
            masks, labelled = found
            attention = sample['class_attention']
            size = tuple(labelled.shape)
            rows, columns = (
                attention[name].double().cpu() * (size[axis] / attention['ori_shape'][axis])
                for axis, name in enumerate(('rows', 'columns'))
            )
            down, across = interpolation(rows, size[0]), interpolation(columns, size[1])
            maps, scores = attention['maps'].double().cpu(), {}
            for label, mask in masks.items():
                peak = int((down @ maps[label] @ across.T).argmax())
                scores[label] = (
                    points_at(divmod(peak, size[1]), mask, self.tolerance),
                    points_at((size[0] // 2, size[1] // 2), mask, self.tolerance),
                    energy_in_mask(maps[label], mask, labelled, rows, columns),
                    int(mask.sum()) / int(labelled.sum()),
                )
            self.results.append(scores)

    def compute_metrics(self, results: list[dict[int, tuple]]) -> dict[str, float]:
        """Average; on the main process only."""
        self.per_class = {}
        for label, name in enumerate(self.dataset_meta['classes']):
            found = [each[label] for each in results if label in each]
            means = np.mean(found, axis=0) if found else np.full(len(_MEASURES), np.nan)
            self.per_class[name] = {**dict(zip(_MEASURES, means.tolist())), 'images': len(found)}
        scored = [row for row in self.per_class.values() if row['images']]
        summary = {name: float(np.mean([row[name] for row in scored])) if scored else np.nan for name in _MEASURES}
        print_log(f'class attention:\n{metrics_table(self.per_class, summary, digits=3)}', logger='current')
        return summary


def points_at(point: tuple[int, int], mask: Tensor, tolerance: float = 0) -> bool:
    """Whether a point (row, column) lies on a mask (H, W), or at most ``tolerance`` pixels from a pixel of it."""
    if tolerance < 1:
        return bool(mask[point])
    on_row, on_column = mask.nonzero(as_tuple=True)
    distances = (on_row - point[0]) ** 2 + (on_column - point[1]) ** 2
    return bool((distances <= tolerance**2).any())


def energy_in_mask(weights: Tensor, mask: Tensor, labelled: Tensor, rows: Tensor, columns: Tensor) -> float:
    """The share of a map's weight that lies on a mask, of what lies on labelled pixels.

    Args:
        weights: map (h, w); a patch's weight is spread evenly over it.
        mask, labelled: bool, (H, W).
        rows, columns: edges of the patches in pixels of the mask, (h + 1,) and (w + 1,).
    """
    down, across = overlap(rows, mask.shape[0]), overlap(columns, mask.shape[1])
    density = weights / (rows.diff()[:, None] * columns.diff())
    per_pixel = down.T @ density @ across
    return float(per_pixel[mask].sum() / per_pixel[labelled].sum().clamp(min=torch.finfo(torch.float64).tiny))


def class_masks(sample: dict, num_classes: int, ignore_index: int = 255) -> tuple[dict[int, Tensor], Tensor] | None:
    """Where each class of an image is, {class: bool (H, W)}, and where anything is labelled.

    None: the sample has no ground truth.
    """
    if 'data' in sample.get('gt_sem_seg', ()):
        labels = sample['gt_sem_seg']['data'][0].cpu()
        present = [int(each) for each in labels.unique() if each != ignore_index and 0 <= each < num_classes]
        return {label: labels == label for label in present}, labels != ignore_index
    instances = sample.get('gt_instances', {})
    if 'labels' not in instances:
        return None
    labels = instances['labels'].cpu()
    if 'masks' in instances:
        each_mask = torch.from_numpy(instances['masks'].to_ndarray()).bool()
        size = each_mask.shape[1:]
    else:
        size = tuple(sample['ori_shape'][:2])
        each_mask = _box_masks(instances['bboxes'], size)
    open_classes = set(sample.get('ignored_instances', {}).get('labels', torch.zeros(0)).tolist())
    masks = {int(label): each_mask[labels == label].any(0) for label in labels.unique()}
    return (
        {label: mask for label, mask in masks.items() if label not in open_classes and mask.any()},
        torch.ones(size, dtype=torch.bool),
    )


def _box_masks(boxes: Any, size: tuple[int, int]) -> Tensor:
    """Pixels whose centre is in a box, (N, H, W)."""
    left, top, right, bottom = getattr(boxes, 'tensor', boxes).cpu()[:, :, None].unbind(1)
    y, x = (torch.arange(pixels) + 0.5 for pixels in size)
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
