"""What a test report needs to see while a model is tested."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.hooks import Hook

from ..analysis.detection_errors import DetectionErrors, Matches, Objects
from ..analysis.pictures import Color, class_colors
from ..analysis.segmentation_errors import SegmentationErrors
from ..pages.thumbnails import Picture, picture
from ..registry import HOOKS
from .report_pictures import draw_boxes, draw_outcome, label_thumbnails, shrunk, to_array

__all__ = ['ImageRow', 'ReportHook', 'objects_of', 'pixels_of']

THUMBNAIL = 160  # pixels of the longer side
SCORE = 0.3  # detections below it are neither counted nor drawn, but for AP


@dataclass(frozen=True)
class ImageRow:
    """What the report says of an image.

    Attributes:
        index: in the dataset.
        name: of the file.
        score: in percent; nan without truth.
        text: the score and what else is known, in words.
        classes: in the truth, the most important first.
        pictures: thumbnails.
    """

    index: int
    name: str
    score: float
    text: str
    classes: tuple[int, ...]
    pictures: tuple[Picture, ...]


@dataclass
class _Speed:
    """Seconds in which images were predicted and scored, without the first batch, which warms up."""

    images: int = 0
    seconds: float = 0.0
    begin: float = field(default=0.0, repr=False)


@HOOKS.register_module()
class ReportHook(Hook):
    """Counts errors and makes thumbnails, image by image; :func:`densevit.engine.report.write_report` takes them.

    Memory does not grow with the images but by their thumbnails, some 10 kB each. After the test the main process has
    the counts and rows of all processes.
    """

    priority = 'VERY_HIGH'  # before others spend time on the batch

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.rows: list[ImageRow] = []
        self.errors: SegmentationErrors | DetectionErrors | None = None
        self.names: list[str] = []
        self.palette: list[Color] = []
        self.speed = _Speed()
        self._order: Iterator[int] = iter(())
        self._taken = 0

    def before_test_epoch(self, runner: Any) -> None:
        """Begin anew."""
        self._reset()
        loader = runner.test_loop.dataloader
        meta = loader.dataset.metainfo
        self.names = [str(name) for name in meta.get('classes') or ()]
        self.palette = class_colors(meta.get('palette'), len(self.names))
        self._order = iter(loader.sampler)

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        self.speed.begin = time.perf_counter()

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Look at a batch."""
        samples = list(outputs or ())
        if batch_idx > 0:
            self.speed.images += len(samples)
            self.speed.seconds += time.perf_counter() - self.speed.begin
        rank, world_size = get_dist_info()
        for sample in samples:
            index, position = next(self._order), self._taken * world_size + rank
            self._taken += 1
            # a distributed sampler repeats images until all processes have equally many
            if position < len(runner.test_loop.dataloader.dataset):
                self.rows.append(self._look(index, sample, runner))

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Bring the processes' counts and rows together."""
        rank, world_size = get_dist_info()
        if world_size > 1:
            counts = None if self.errors is None else self.errors.counts
            parts = all_gather_object((self.rows, counts, self.speed.images, self.speed.seconds))
            if rank == 0:
                self.rows = [row for rows, *_ in parts for row in rows]
                for _, others, *_ in parts[1:]:
                    for name, array in (others or {}).items():
                        self.errors.counts[name] += array
                self.speed.images = sum(part[2] for part in parts)
                self.speed.seconds = max(part[3] for part in parts)
        self.rows.sort(key=lambda row: row.index)

    def _look(self, index: int, sample: Any, runner: Any) -> ImageRow:
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        name = sample.img_path.replace('\\', '/').rpartition('/')[2]
        if 'pred_sem_seg' in sample:
            score, text, classes, drawn = self._look_at_labels(sample, image, runner)
        else:
            score, text, classes, drawn = self._look_at_objects(sample, image)
        pictures = tuple(
            picture(each, caption, THUMBNAIL, quality=35 if caption == 'errors' else 50)
            for caption, each in drawn.items()
        )
        return ImageRow(index, name, score, text, classes, pictures)

    def _look_at_labels(self, sample: Any, image: np.ndarray, runner: Any) -> tuple:
        if self.errors is None:
            ignored = [getattr(metric, 'ignore_index', None) for metric in runner.test_evaluator.metrics]
            self.errors = SegmentationErrors(len(self.names), next((each for each in ignored if each is not None), 255))
        pred, label = pixels_of(sample)
        ignore_index = self.errors.ignore_index
        drawn = label_thumbnails(image, pred, label, self.palette, ignore_index, THUMBNAIL)
        if label is None:
            found, counts = np.unique(pred, return_counts=True)
            return float('nan'), '', tuple(found[np.argsort(-counts)].tolist()), drawn
        result = self.errors.add(pred, label)
        text = '' if np.isnan(result.score) else f'mIoU {result.score:.1f}, {result.accuracy:.1f} % right'
        return result.score, text, result.classes, drawn

    def _look_at_objects(self, sample: Any, image: np.ndarray) -> tuple:
        if self.errors is None:
            self.errors = DetectionErrors(len(self.names), SCORE)
        truth, found, crowds = objects_of(sample)
        photo = shrunk(image, THUMBNAIL)
        scale = photo.shape[1] / image.shape[1]
        prediction = draw_boxes(photo, found, self.palette, scale)
        if truth is None:
            return float('nan'), f'{len(found.boxes)} found', _most(found), {'prediction': prediction}
        matches: Matches = self.errors.add(found, truth, crowds, image.shape[:2])
        drawn = {
            'truth': draw_boxes(photo, truth, self.palette, scale),
            'prediction': prediction,
            'errors': draw_outcome(photo, truth, found, matches, scale),
        }
        text = (
            f'F1 {matches.score:.1f}: {int(matches.found.sum())} of {len(truth.boxes)} found, '
            f'{int(matches.false.sum())} false'
            if not np.isnan(matches.score)
            else 'nothing there, nothing found'
        )
        return matches.score, text, _most(truth), drawn


def pixels_of(sample: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Prediction and truth of a data sample, (H, W); None where no truth is known."""
    pred = to_array(sample.pred_sem_seg.data)[0]
    label = to_array(sample.gt_sem_seg.data)[0] if 'data' in sample.get('gt_sem_seg', ()) else None
    return pred, label if label is not None and label.shape == pred.shape else None


def objects_of(sample: Any) -> tuple[Objects | None, Objects, np.ndarray]:
    """Truth, detections of at least :data:`SCORE`, and the boxes of crowds; None where no truth is known."""
    found = sample.pred_instances
    found = found[found.scores >= SCORE]
    detections = Objects(to_array(found.bboxes), to_array(found.labels), to_array(found.scores))
    truth = sample.get('gt_instances', ())
    if 'bboxes' not in truth:
        return None, detections, np.zeros((0, 4))
    areas = np.asarray(truth.masks.areas) if 'masks' in truth and hasattr(truth.masks, 'areas') else None
    crowds = sample.get('ignored_instances', ())
    return (
        Objects(to_array(truth.bboxes), to_array(truth.labels), areas=areas),
        detections,
        to_array(crowds.bboxes) if 'bboxes' in crowds else np.zeros((0, 4)),
    )


def _most(objects: Objects) -> tuple[int, ...]:
    """The classes, that of most objects first."""
    found, counts = np.unique(objects.labels, return_counts=True)
    return tuple(found[np.argsort(-counts, kind='stable')].tolist())
