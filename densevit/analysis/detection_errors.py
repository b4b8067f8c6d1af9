"""Where a detector fails: counted image by image, in memory that does not grow with their number."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .segmentation_errors import AREA_NAMES, AREAS, GRID, percent, rate_rows

__all__ = ['DetectionErrors', 'Matches', 'Objects']

ASPECTS = (0.5, 1, 2)  # width / height; upper ends of the bins, the last one is open


class Objects(NamedTuple):
    """Boxes of an image: truth, or what was found.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels.
        labels: (N,) classes.
        scores: (N,), of detections.
        areas: (N,) of the objects in pixels, if they are not those of the boxes.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    areas: np.ndarray | None = None


class Matches(NamedTuple):
    """What became of an image's objects.

    Attributes:
        found: (N,) bool, of the truth.
        false: (M,) bool, of the detections: no object of the class is there. Those in a crowd are not false.
        score: F1 in percent, 200 TP / (2 TP + false + missed); nan where there is neither truth nor detection.
    """

    found: np.ndarray
    false: np.ndarray
    score: float


class DetectionErrors:
    """Counts of objects, by what may explain that they are missed.

    In the order of their scores, detections take the object of their class that they overlap most, if the IoU of the
    boxes is at least ``iou`` and nobody else has it. What is left over is matched once more, now across classes, for
    the confusion matrix.

    Args:
        num_classes: C.
        score: detections below it are left out.
        iou: least overlap.

    Attributes:
        counts: arrays of integers; those of several processes add up. ``confusion``: (C + 1, C + 1), truth by
            prediction, where the last row has detections of nothing and the last column missed objects. ``area``,
            ``aspect``, ``position``: objects in each bin, those found.
    """

    def __init__(self, num_classes: int, score: float = 0.3, iou: float = 0.5) -> None:
        self.num_classes = num_classes
        self.score = score
        self.iou = iou
        self.counts = {
            'confusion': np.zeros((num_classes + 1, num_classes + 1), np.int64),
            'area': np.zeros((len(AREAS) + 1, 2), np.int64),
            'aspect': np.zeros((len(ASPECTS) + 1, 2), np.int64),
            'position': np.zeros((GRID, GRID, 2), np.int64),
        }

    def add(self, found: Objects, truth: Objects, crowds: np.ndarray, size: tuple[int, int]) -> Matches:
        """Count an image.

        Args:
            found: detections of at least ``score``.
            truth: objects.
            crowds: (K, 4) boxes where detections are not counted.
            size: height and width.
        """
        order = np.argsort(-found.scores, kind='stable')
        overlaps = box_iou(found.boxes, truth.boxes)
        same = found.labels[:, None] == truth.labels
        partner = np.full(len(found.boxes), -1)
        self._match(order, np.where(same, overlaps, 0), partner)
        right = partner >= 0
        self._match(order, overlaps, partner)
        in_crowd = (partner < 0) & (_covered(found.boxes, crowds) >= self.iou)

        background = self.num_classes
        hit = np.zeros(len(truth.boxes), bool)
        hit[partner[right]] = True
        given = np.full(len(truth.boxes), background)
        given[partner[partner >= 0]] = found.labels[partner >= 0]
        np.add.at(self.counts['confusion'], (truth.labels, given), 1)
        alone = (partner < 0) & ~in_crowd
        np.add.at(self.counts['confusion'], (np.full(alone.sum(), background), found.labels[alone]), 1)
        self._count_objects(truth, hit, size)

        false = ~right & ~in_crowd
        tp, total = int(right.sum()), 2 * int(right.sum()) + int(false.sum()) + int((~hit).sum())
        return Matches(hit, false, 200 * tp / total if total else float('nan'))

    def _match(self, order: np.ndarray, overlaps: np.ndarray, partner: np.ndarray) -> None:
        """Fill ``partner``, the object of each detection, where it is -1."""
        free = np.ones(overlaps.shape[1], bool)
        free[partner[partner >= 0]] = False
        for index in order:
            if partner[index] >= 0 or not free.any():
                continue
            best = int(np.where(free, overlaps[index], -1).argmax())
            if overlaps[index, best] >= self.iou:
                partner[index] = best
                free[best] = False

    def _count_objects(self, truth: Objects, hit: np.ndarray, size: tuple[int, int]) -> None:
        width, height = (truth.boxes[:, 2:] - truth.boxes[:, :2]).clip(min=1e-6).T
        areas = width * height if truth.areas is None else truth.areas
        rows = np.stack([np.ones(len(hit), np.int64), hit.astype(np.int64)], 1)
        np.add.at(self.counts['area'], np.digitize(areas, AREAS), rows)
        np.add.at(self.counts['aspect'], np.digitize(width / height, ASPECTS), rows)
        x, y = ((truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2).T
        cells = [
            (center * GRID / side).astype(int).clip(0, GRID - 1) for center, side in zip((y, x), size, strict=True)
        ]
        np.add.at(self.counts['position'], tuple(cells), rows)

    def summary(self) -> dict[str, Any]:
        """For a report: tables of what was counted, rates in percent."""
        aspects = ['tall (h > 2 w)', 'upright', 'lying', 'wide (w > 2 h)']
        area, aspect, position = (self.counts[name] for name in ('area', 'aspect', 'position'))
        at = f'Objects found with a score of at least {self.score:g} and a box IoU of at least {self.iou:g}'
        tables = (
            (
                'Objects found, by their area',
                f'{at}; areas in pixels, of the mask where there is one.',
                AREA_NAMES,
                area,
            ),
            ('Objects found, by the shape of their box', f'{at}.', aspects, aspect),
        )
        return {
            'confusion': self.counts['confusion'],
            'failures': [
                {
                    'title': title,
                    'about': about,
                    'value': 'found, %',
                    'count': 'objects',
                    'rows': rate_rows(names, counts[:, 1], counts[:, 0]),
                }
                for title, about, names, counts in tables
            ],
            'position': {
                'title': 'Objects missed by place of their centre, %',
                'values': percent(position[..., 0] - position[..., 1], position[..., 0]),
            },
        }


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each pair: (N, 4), (M, 4) -> (N, M); 0 where both are empty."""
    common = _intersection(boxes, others)
    union = _area(boxes)[:, None] + _area(others) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _covered(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Largest part of each box that lies in one of the crowds, (N,)."""
    if not len(crowds):
        return np.zeros(len(boxes))
    return _intersection(boxes, crowds).max(1) / _area(boxes).clip(min=1e-6)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(1)


def _intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    upper = np.maximum(boxes[:, None, :2], others[None, :, :2])
    lower = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return (lower - upper).clip(min=0).prod(-1)
