"""Where a segmentor fails: counted image by image, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

__all__ = ['AREAS', 'AREA_NAMES', 'GRID', 'ImageScore', 'SegmentationErrors', 'percent', 'rate_rows']

# Upper ends of the bins; the last one is open.
SHARES = (0.01, 0.05, 0.2)  # of the image's pixels
AREAS = (32**2, 96**2)  # pixels: COCO's small, medium and large
AREA_NAMES = ('small (below 32²)', 'medium (32² to 96²)', 'large (96² and more)')
DISTANCES = (2, 4, 8, 16, 32, 64)  # pixels
GRID = 8  # rows and columns


class ImageScore(NamedTuple):
    """Of one image, in percent; nan where nothing can be scored.

    Attributes:
        score: mean IoU over the classes in the image's truth.
        accuracy: pixels that are right.
        classes: in the truth, the one with most pixels first.
    """

    score: float
    accuracy: float
    classes: tuple[int, ...]


class SegmentationErrors:
    """Counts of pixels, by what may explain an error.

    Args:
        num_classes: C.
        ignore_index: label that is not scored.

    Attributes:
        counts: arrays of integers; those of several processes add up. ``confusion``: (C, C), truth by prediction.
            ``share``: per bin of :data:`SHARES` intersection and union of classes that have this share of an image.
            ``area``: per bin of :data:`AREAS` number of connected regions of a class, their pixels, the right ones.
            ``distance``: per bin of :data:`DISTANCES` pixels at this distance from another class's, the wrong ones.
            ``position``: (GRID, GRID, 2) pixels in this part of the image, the wrong ones.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = {
            'confusion': np.zeros((num_classes, num_classes), np.int64),
            'share': np.zeros((len(SHARES) + 1, 2), np.int64),
            'area': np.zeros((len(AREAS) + 1, 3), np.int64),
            'distance': np.zeros((len(DISTANCES) + 1, 2), np.int64),
            'position': np.zeros((GRID, GRID, 2), np.int64),
        }

    def add(self, pred: np.ndarray, label: np.ndarray) -> ImageScore:
        """Count an image.

        Args:
            pred: (H, W), classes.
            label: (H, W), classes and ``ignore_index``.
        """
        counted = (label != self.ignore_index) & (label < self.num_classes)
        if not counted.any():
            return ImageScore(float('nan'), float('nan'), ())
        wrong = counted & (pred != label)
        pairs = label[counted].astype(np.int64) * self.num_classes + pred[counted]
        confusion = np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, -1)
        hits, true, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        present = np.flatnonzero(true)
        union = (true + found - hits)[present]
        self.counts['confusion'] += confusion
        bins = np.digitize(true[present] / label.size, SHARES)
        np.add.at(self.counts['share'], bins, np.stack([hits[present], union], 1))
        self._count_regions(label, wrong, present)
        self._count_distances(label, counted, wrong)
        self._count_positions(counted, wrong)
        order = present[np.argsort(-true[present], kind='stable')]
        return ImageScore(
            100 * float((hits[present] / union).mean()), 100 * float(hits.sum() / true.sum()), tuple(order.tolist())
        )

    def _count_regions(self, label: np.ndarray, wrong: np.ndarray, present: np.ndarray) -> None:
        for index in present:
            mask = (label == index).astype(np.uint8)
            x, y, width, height = cv2.boundingRect(mask)
            part = np.s_[y : y + height, x : x + width]
            _, regions, stats, _ = cv2.connectedComponentsWithStats(mask[part], connectivity=8)
            areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64)
            missed = np.bincount(regions[wrong[part] & (mask[part] > 0)], minlength=len(areas) + 1)[1:]
            rows = np.stack([np.ones_like(areas), areas, areas - missed], 1)
            np.add.at(self.counts['area'], np.digitize(areas, AREAS), rows)

    def _count_distances(self, label: np.ndarray, counted: np.ndarray, wrong: np.ndarray) -> None:
        """By distance to the nearest pixel with a neighbour of another label, itself included."""
        inside = np.ones(label.shape, np.uint8)
        down, across = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
        inside[1:][down] = inside[:-1][down] = 0
        inside[:, 1:][across] = inside[:, :-1][across] = 0
        if inside.all():  # a single class: as far as it can be
            bins = np.full(label.shape, len(DISTANCES))
        else:
            bins = np.digitize(cv2.distanceTransform(inside, cv2.DIST_L2, 5), DISTANCES)
        for column, pixels in enumerate((counted, wrong)):
            self.counts['distance'][:, column] += np.bincount(bins[pixels], minlength=len(DISTANCES) + 1)

    def _count_positions(self, counted: np.ndarray, wrong: np.ndarray) -> None:
        height, width = counted.shape
        cell = (np.arange(height) * GRID // height)[:, None] * GRID + np.arange(width) * GRID // width
        for column, pixels in enumerate((counted, wrong)):
            found = np.bincount(cell[pixels], minlength=GRID**2)
            self.counts['position'][..., column] += found.reshape(GRID, GRID)

    def summary(self) -> dict[str, Any]:
        """For a report: tables of what was counted, rates in percent."""
        counts = self.counts
        shares = [f'{100 * low:g} to {100 * high:g} %' for low, high in zip((0, *SHARES), (*SHARES, 1))]
        distances = [f'{low} to {high} px' for low, high in zip((0, *DISTANCES), DISTANCES)]
        return {
            'confusion': counts['confusion'],
            'failures': [
                {
                    'title': "IoU by the class's share of the image",
                    'about': 'Classes of all images together that cover this part of their image.',
                    'value': 'IoU, %',
                    'count': 'pixels in truth or prediction',
                    'rows': rate_rows(shares, *counts['share'].T),
                },
                {
                    'title': 'Pixels found, by the area of their region',
                    'about': 'A region is a connected part of one class in the truth; areas in pixels.',
                    'value': 'found, %',
                    'count': 'pixels',
                    'rows': rate_rows(AREA_NAMES, counts['area'][:, 2], counts['area'][:, 1]),
                },
                {
                    'title': 'Wrong pixels by distance to a border between classes',
                    'about': 'A border is a pixel beside one of another label in the truth.',
                    'value': 'wrong, %',
                    'count': 'pixels',
                    'rows': rate_rows([*distances, f'{DISTANCES[-1]} px and more'], *counts['distance'].T[::-1]),
                },
            ],
            'position': {
                'title': 'Wrong pixels by place in the image, %',
                'values': percent(counts['position'][..., 1], counts['position'][..., 0]),
            },
        }


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A part of a whole in percent, element by element; nan where the whole is 0."""
    return 100 * np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def rate_rows(names: Sequence[str], part: np.ndarray, whole: np.ndarray) -> list[dict[str, Any]]:
    """Rows of a report's table: a name, a part in percent and how large the whole is."""
    values = percent(part, whole)
    return [
        {'name': name, 'value': value, 'count': count}
        for name, value, count in zip(names, values.tolist(), whole.tolist(), strict=True)
    ]
