"""Detection and instance segmentation: COCO AP of boxes and masks."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as mask_ops
from mmdet.evaluation.metrics import CocoMetric as MmdetCocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..errors import UserError
from ..registry import METRICS
from .tables import metrics_table

__all__ = ['CocoMetric', 'coco_evaluate']

# Name, IoU threshold (None: the mean over all) and area range, in the order of COCO's first six statistics.
_ITEMS = (
    ('mAP', None, 'all'),
    ('mAP_50', 0.5, 'all'),
    ('mAP_75', 0.75, 'all'),
    ('mAP_s', None, 'small'),
    ('mAP_m', None, 'medium'),
    ('mAP_l', None, 'large'),
)


def coco_evaluate(
    truth: COCO,
    detections: list[dict],
    iou_type: str,
    *,
    cat_ids: Sequence[int] | None = None,
    img_ids: Sequence[int] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
) -> COCOeval_faster:
    """Match detections with the truth and summarize: ``.stats`` holds COCO's 12 numbers.

    Args:
        truth: the annotations.
        detections: COCO results; changed in place. May be empty, which scores 0.
        iou_type: ``'bbox'`` or ``'segm'``.
        cat_ids: categories to score; all by default.
        img_ids: images to score; all by default.
        max_dets: caps on the detections counted per image and category; the last one holds for AP.
    """
    run = COCOeval_faster(truth, _as_annotations(truth, detections, iou_type), iou_type)
    run.params.maxDets = list(max_dets)
    if cat_ids is not None:
        run.params.catIds = list(cat_ids)
    if img_ids is not None:
        run.params.imgIds = list(img_ids)
    run.run()
    return run


def _as_annotations(truth: COCO, detections: list[dict], iou_type: str) -> COCO:
    """Detections with the ids and areas that matching wants; ``COCO.loadRes`` also derives outlines and boxes.

    Raises:
        ValueError: a detection is of an image that the truth does not have.
    """
    unknown = {detection['image_id'] for detection in detections} - truth.imgs.keys()
    if unknown:
        raise ValueError(f'detections are of image {min(unknown)!r}, which is not among the annotated ones.')
    if iou_type == 'segm':
        masks = [detection['segmentation'] for detection in detections]
        areas = mask_ops.area(masks).tolist() if masks else []
    else:
        areas = [detection['bbox'][2] * detection['bbox'][3] for detection in detections]
    for index, (detection, area) in enumerate(zip(detections, areas)):
        detection.update(id=index + 1, area=area, iscrowd=0)
    found = COCO()
    found.dataset = {**truth.dataset, 'annotations': detections}
    found.createIndex()
    return found


def _per_category(run: COCOeval_faster) -> dict[int, dict[str, float]]:
    """AP of each category id; nan where the truth has no such instance."""
    precision = run.eval['precision']  # (IoU thresholds, recalls, categories, areas, caps), -1: nothing to find
    rows: dict[int, dict[str, float]] = {}
    for index, cat_id in enumerate(run.params.catIds):
        row = {}
        for name, threshold, area in _ITEMS:
            chosen = slice(None) if threshold is None else np.isclose(run.params.iouThrs, threshold)
            values = precision[chosen, :, index, run.params.areaRngLbl.index(area), -1]
            values = values[values > -1]
            row[name] = float(values.mean()) if values.size else float('nan')
        rows[int(cat_id)] = row
    return rows


def _curves(run: COCOeval_faster) -> dict[int, list[float]]:
    """Precision at IoU 0.5 of each category id that the truth has, for the recalls 0, 0.01, ..., 1."""
    threshold = int(np.argmin(np.abs(run.params.iouThrs - 0.5)))
    precision = run.eval['precision'][threshold, :, :, run.params.areaRngLbl.index('all'), -1]
    curves = {int(cat_id): precision[:, index] for index, cat_id in enumerate(run.params.catIds)}
    return {cat_id: curve.tolist() for cat_id, curve in curves.items() if curve[0] > -1}


@METRICS.register_module()
class CocoMetric(MmdetCocoMetric):
    """Box and mask AP with mmdetection's names (``coco/bbox_mAP``, ``coco/segm_mAP_50``, ...), as fractions.

    Data samples are read by mmdetection's ``CocoMetric``; the matching is faster-coco-eval's, which gives the
    numbers of pycocotools and is several times faster. A value of -1 is COCO's word for "the truth has no
    such instance"; having found nothing is 0.

    Differences: values are not rounded; all values count the best 100 detections per image and category
    (mmdetection counts 100 for mAP and 1000 for the others); images that were not processed, as when the
    dataset is cut short, are not scored; a run without a single detection scores 0, where mmdetection reports
    nothing.

    After an evaluation ``per_class`` holds, on the main process, {class name: {'bbox_mAP': ...,
    'segm_mAP_50': ...}}, nan where the truth has no such instance; and ``curves`` {'bbox': {class name: precision at
    IoU 0.5 for the recalls 0, 0.01, ..., 1}}.

    Args:
        ann_file: annotations in COCO's format. Without it they are taken from the data samples'
            ``instances``, where the area of an instance is that of its box.
        metric: ``'bbox'``, ``'segm'`` or a list of them.
        proposal_nums: caps on the detections counted per image and category; the last one holds for AP.
            Scenes with more than 100 objects of a class need a higher one.
        outfile_prefix: also write the results as COCO result files, ``<prefix>.bbox.json`` and
            ``<prefix>.segm.json``.
        format_only: only write these files.
        backend_args: how to read ``ann_file`` (mmengine's file client).
        collect_device: ``'cpu'`` or ``'gpu'``, the way by which processes exchange their results.
        prefix: put before the metrics' names, followed by a slash.

    Raises:
        UserError: on an unknown metric, on classes that ``ann_file`` does not have, for masks of a model that
            has none, and for ``format_only`` without ``outfile_prefix``.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        *,
        proposal_nums: Sequence[int] = (1, 10, 100),
        outfile_prefix: str | None = None,
        format_only: bool = False,
        backend_args: dict | None = None,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        metrics = [metric] if isinstance(metric, str) else list(metric)
        unknown = [name for name in metrics if name not in ('bbox', 'segm')]
        if unknown:
            raise UserError(f"CocoMetric has no metric {unknown[0]!r}: choose 'bbox', 'segm' or both.")
        if format_only and outfile_prefix is None:
            raise UserError('CocoMetric(format_only=True) writes result files only, so it needs outfile_prefix.')
        super().__init__(
            metric=metrics,
            proposal_nums=proposal_nums,
            outfile_prefix=outfile_prefix,
            format_only=format_only,
            backend_args=backend_args,
            collect_device=collect_device,
            prefix=prefix,
        )
        self.per_class: dict[str, dict[str, float]] = {}
        self.curves: dict[str, dict[str, list[float]]] = {}
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=backend_args) as path:
                self._coco_api = COCO(path)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Take the predictions of a batch; masks that know a shorter way to their run lengths than by pixels go it."""
        samples = []
        for sample in data_samples:
            pred = sample['pred_instances']
            if hasattr(pred.get('masks'), 'encode'):
                sample = {**sample, 'pred_instances': {**pred, 'masks': pred['masks'].encode()}}
            samples.append(sample)
        super().process(data_batch, samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score the results that :meth:`process` has collected; on the main process only."""
        if not results:
            return {}
        truths, preds = zip(*results)
        truth = self._coco_api if self._coco_api is not None else self._truth_of(truths)
        classes = tuple(self.dataset_meta['classes'])
        # In the order of the file, not of `classes`: mmdetection's dataset numbers the labels so.
        self.cat_ids = truth.getCatIds(catNms=classes)
        if len(self.cat_ids) != len(classes):
            names = [category['name'] for category in truth.dataset['categories']]
            raise UserError(
                f'the dataset has {len(classes)} classes, of which the annotation file has '
                f'{len(self.cat_ids)}: expected {", ".join(classes)}; the file has {", ".join(names)}.'
            )
        if 'segm' in self.metrics and any('masks' not in pred for pred in preds):
            raise UserError("the model predicts no masks, so 'segm' cannot be measured: use metric='bbox'.")
        if self.outfile_prefix is not None:
            self.results2json(preds, self.outfile_prefix)
            print_log(f'results are saved as {self.outfile_prefix}.*.json', logger='current')
            if self.format_only:
                return {}

        img_ids = [item['img_id'] for item in truths]
        num_images = len(truth.getImgIds())
        if len(img_ids) < num_images:
            print_log(f'scored {len(img_ids)} of the {num_images} images that are annotated', logger='current')

        values: dict[str, float] = OrderedDict()
        names = {cat_id: truth.loadCats(cat_id)[0]['name'] for cat_id in self.cat_ids}
        rows: dict[str, dict[str, float]] = {name: {} for name in names.values()}
        for metric in self.metrics:
            run = coco_evaluate(
                truth,
                self._detections(preds, masks=metric == 'segm'),
                metric,
                cat_ids=self.cat_ids,
                img_ids=img_ids,
                max_dets=self.proposal_nums,
            )
            values.update({f'{metric}_{item[0]}': float(value) for item, value in zip(_ITEMS, run.stats)})
            for cat_id, row in _per_category(run).items():
                rows[names[cat_id]].update({f'{metric}_{name}': value for name, value in row.items()})
            self.curves[metric] = {names[cat_id]: curve for cat_id, curve in _curves(run).items()}
        self.per_class = rows
        print_log(f'AP per class:\n{metrics_table(rows, values, digits=3)}', logger='current')
        return values

    def _truth_of(self, truths: Sequence[dict]) -> COCO:
        """The annotations that came with the data samples; mmdetection converts them through a file."""
        with tempfile.TemporaryDirectory() as folder:
            return COCO(self.gt_to_coco_json(truths, f'{folder}/truth'))

    def _detections(self, preds: Sequence[dict], *, masks: bool) -> list[dict[str, Any]]:
        """COCO results, one dictionary per detection; a mask may have a score of its own."""
        detections = []
        for pred in preds:
            scores = pred.get('mask_scores', pred['scores']) if masks else pred['scores']
            for index, label in enumerate(pred['labels']):
                detection = {
                    'image_id': pred['img_id'],
                    'category_id': self.cat_ids[label],
                    'score': float(scores[index]),
                    'bbox': self.xyxy2xywh(pred['bboxes'][index]),
                }
                if masks:
                    detection['segmentation'] = pred['masks'][index]
                detections.append(detection)
        return detections
