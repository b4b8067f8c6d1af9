"""Semantic segmentation: mIoU from one exact confusion matrix per process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor

from ..errors import UserError
from ..registry import METRICS
from .tables import metrics_table

__all__ = ['IoUMetric', 'confusion_matrix', 'scores']


def confusion_matrix(pred: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels: element (i, j) is the number of pixels of class i that are predicted as class j.

    Args:
        pred: predicted classes, integers in [0, num_classes), any shape.
        label: true classes, of the same number of elements and range.

    Returns:
        int64, (num_classes, num_classes), on the device of ``pred``.
    """
    pairs = label.reshape(-1).long() * num_classes + pred.reshape(-1).long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(matrix: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    """mIoU, mAcc and aAcc, and IoU and Acc per class, all in percent, from a confusion matrix.

    A class that is neither in the ground truth nor in any prediction has no IoU (nan) and is left out of
    mIoU; one that is not in the ground truth has no Acc and is left out of mAcc. This is what
    mmsegmentation's IoUMetric does.
    """
    matrix = matrix.double()  # exact up to 2**53 pixels
    hits, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    iou = 100 * hits / (labelled + predicted - hits)
    acc = 100 * hits / labelled
    summary = {'aAcc': 100 * hits.sum() / labelled.sum(), 'mIoU': iou.nanmean(), 'mAcc': acc.nanmean()}
    return {name: float(value) for name, value in summary.items()}, {'IoU': iou, 'Acc': acc}


@METRICS.register_module()
class IoUMetric(BaseMetric):
    """mIoU, mAcc and aAcc in percent, in place of mmsegmentation's ``IoUMetric`` and with its names.

    Differences: pixels are counted in int64 (mmsegmentation adds float32 histograms, which stop counting at
    2**24), a process keeps one confusion matrix instead of four histograms per image, values are not rounded,
    and a label outside the classes is an error instead of being dropped silently.

    After an evaluation ``per_class`` holds, on the main process, {class name: {'IoU': ..., 'Acc': ...}}.

    Args:
        ignore_index: label value that is not scored.
        output_dir: folder for the predictions as PNG files, named like the images. Where the dataset has
            ``reduce_zero_label`` they are shifted back by one, as the ADE20K server expects.
        format_only: only write these files; ground truth is not needed then.
        collect_device: ``'cpu'`` or ``'gpu'``, the way by which processes exchange their counts.
        prefix: put before the metrics' names, followed by a slash.

    Raises:
        UserError: on a label that is neither a class nor ``ignore_index``, on a prediction outside the
            classes, on missing ground truth, and for ``format_only`` without ``output_dir``.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        *,
        output_dir: str | None = None,
        format_only: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if format_only and output_dir is None:
            raise UserError('IoUMetric(format_only=True) writes predictions only, so it needs output_dir.')
        self.ignore_index = ignore_index
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.format_only = format_only
        self.per_class: dict[str, dict[str, float]] = {}
        self._reset()

    def _reset(self) -> None:
        self._total: Tensor | int = 0
        self._last: Tensor | int = 0  # the newest image's counts, apart from the total: see evaluate()
        self._num_images = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch. ``data_samples`` are mmsegmentation's, as dictionaries."""
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data']
            if not self.format_only:
                self._total += self._last
                self._last = self._count(pred, sample)
                self._num_images += 1
            if self.output_dir is not None:
                self._save(pred, sample)

    def _count(self, pred: Tensor, sample: dict) -> Tensor:
        num_classes = len(self.dataset_meta['classes'])
        path = sample.get('img_path', 'an image without a path')
        if 'gt_sem_seg' not in sample:
            raise UserError(
                f'{path} comes without a label map, so IoU cannot be measured: put LoadAnnotations into the '
                'test pipeline, or use IoUMetric(format_only=True, output_dir=...) to write predictions only.'
            )
        label = sample['gt_sem_seg']['data'].to(pred.device)
        if label.shape[-2:] != pred.shape[-2:]:
            raise UserError(
                f'the label map of {path} is {tuple(label.shape[-2:])} high and wide, the prediction '
                f'{tuple(pred.shape[-2:])}: in the test pipeline LoadAnnotations must come after Resize.'
            )
        label, pred = label.reshape(-1), pred.reshape(-1)
        matrix = self._count_at_once(pred, label, num_classes)
        return self._count_counted(pred, label, num_classes, path) if matrix is None else matrix

    def _count_at_once(self, pred: Tensor, label: Tensor, num_classes: int) -> Tensor | None:
        """Count the ignored pixels as well, in a row of their own, and drop it: several times faster than a selection.

        None: there are other values than classes, or the ignored one would need too many rows.
        """
        height = max(num_classes, self.ignore_index + 1)
        if not len(label) or height > max(num_classes, 256):
            return None
        for values, limit in ((label, height), (pred, num_classes)):
            lowest, highest = values.aminmax()
            if lowest < 0 or highest >= limit:
                return None
        pairs = torch.add(pred.long(), label.long(), alpha=num_classes)
        rows = torch.bincount(pairs, minlength=height * num_classes).reshape(height, num_classes).cpu()
        if self.ignore_index >= 0:
            rows[self.ignore_index] = 0
        return None if rows[num_classes:].any() else rows[:num_classes]

    def _count_counted(self, pred: Tensor, label: Tensor, num_classes: int, path: str) -> Tensor:
        counted = label != self.ignore_index
        label, pred = label[counted], pred[counted]
        for values, what, remedy in (
            (label, 'the label map of', 'map it to a class or the ignored value, or check reduce_zero_label'),
            (pred, 'the prediction for', "set the head's num_classes to the number of classes"),
        ):
            wrong = values[(values < 0) | (values >= num_classes)]
            if wrong.numel():
                raise UserError(
                    f'{what} {path} contains the value {int(wrong[0])}, but there are {num_classes} classes '
                    f'(0 to {num_classes - 1}) and {self.ignore_index} is ignored: {remedy}.'
                )
        return confusion_matrix(pred, label, num_classes).cpu()

    def _save(self, pred: Tensor, sample: dict) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        # ADE20K numbers its classes from 1; with reduce_zero_label ours begin at 0.
        pixels = pred.squeeze(0).cpu().numpy() + int(bool(sample.get('reduce_zero_label', False)))
        Image.fromarray(pixels.astype(np.uint8)).save(self.output_dir / f'{Path(sample["img_path"]).stem}.png')

    def evaluate(self, size: int) -> dict:
        """Add up the counts of all processes and score them.

        Args:
            size: number of images in the dataset. A distributed sampler repeats images until all processes
                have equally many; the repeated one, at most one per process and its last, is left out, as
                mmengine does.
        """
        rank, world_size = get_dist_info()
        repeated = (self._num_images - 1) * world_size + rank >= size
        matrix = self._total if repeated else self._total + self._last
        self.results = [matrix] if torch.is_tensor(matrix) else [self._no_counts()]
        self._reset()
        return super().evaluate(world_size)

    def _no_counts(self) -> Tensor:
        num_classes = len(self.dataset_meta['classes'])
        return torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Score the processes' confusion matrices; on the main process only."""
        if self.format_only:
            print_log(f'predictions are saved in {self.output_dir}', logger='current')
            return {}
        summary, columns = scores(sum(results))
        self.per_class = {
            name: {measure: float(values[index]) for measure, values in columns.items()}
            for index, name in enumerate(self.dataset_meta['classes'])
        }
        print_log(f'IoU per class, in percent:\n{metrics_table(self.per_class, summary)}', logger='current')
        return summary
