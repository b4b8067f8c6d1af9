"""Detections in overlapping windows of an image, joined to those of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import mask as coco_mask

from ..detection.rle import encode_crops

__all__ = ['Found', 'join']

_OVERLAP = 0.5  # from this on two detections of a class are one object
_EDGE = 0.01  # of a window's side: a box that ends so near to its edge was cut by it


@dataclass(frozen=True)
class Found:
    """N detections, best first: boxes (N, 4) as x1 y1 x2 y2, scores (N,), labels (N,), run-length codes or None."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    rles: list[dict[str, Any]] | None

    def moved(self, top: int, left: int, size: tuple[int, int]) -> Found:
        """The same in an image of ``size`` that has the window at (top, left)."""
        boxes = self.boxes + np.array([left, top, left, top], self.boxes.dtype)
        rles = None if self.rles is None else [_moved(rle, top, left, size) for rle in self.rles]
        return Found(boxes, self.scores, self.labels, rles)


def join(windows: Sequence[tuple[Found, int, int]], window: tuple[int, int], size: tuple[int, int]) -> Found:
    """Detections of windows as those of the image, each object once.

    An object in the overlap of two windows is found in both, whole or cut by the edge of one. Of two detections of a
    class from different windows that are one object the lesser goes: a cut one, then the one of lower score. Two whole
    ones are one object from an IoU of 0.5 on, others where they share half of the smaller one. It is measured on the
    masks where there are any, so that neighbours whose boxes overlap stay. Within a window the model has decided that.

    An object that is larger than the overlap may be whole in no window: then its parts stay, or the largest of them.
    Non-maximum suppression of slices after Akyon et al., https://arxiv.org/abs/2202.06934.

    Args:
        windows: detections in pixels of the window, its first row and first column.
        window: height and width of every window.
        size: height and width of the image.
    """
    cut = np.concatenate([_cut(found.boxes, top, left, window, size) for found, top, left in windows])
    owner = np.repeat(np.arange(len(windows)), [len(found.scores) for found, _, _ in windows])
    moved = [found.moved(top, left, size) for found, top, left in windows]
    boxes, scores, labels = (
        np.concatenate([getattr(each, name) for each in moved]) for name in ('boxes', 'scores', 'labels')
    )
    rles = None if moved[0].rles is None else [rle for each in moved for rle in each.rles]
    kept: list[int] = []
    for index in np.lexsort((-scores, cut)):
        others = [k for k in kept if labels[k] == labels[index] and owner[k] != owner[index]]
        others = [k for k in others if _touch(boxes[k], boxes[index])]
        if not others:
            kept.append(int(index))
            continue
        first, second = (([rles[k] for k in ks] if rles else _xywh(boxes[ks])) for ks in ([int(index)], others))
        iou = coco_mask.iou(first, second, [0] * len(others))[0]
        areas = [coco_mask.area(each) if rles else each[:, 2] * each[:, 3] for each in (first, second)]
        shared = iou * (areas[0] + areas[1]) / (1 + iou)
        of_smaller = shared / np.maximum(np.minimum(*np.broadcast_arrays(*areas)), 1e-9)
        if not (np.where(cut[index] | cut[others], of_smaller, iou) >= _OVERLAP).any():
            kept.append(int(index))
    order = sorted(kept, key=lambda k: -scores[k])
    return Found(boxes[order], scores[order], labels[order], None if rles is None else [rles[k] for k in order])


def _cut(boxes: np.ndarray, top: int, left: int, window: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Which boxes end at an edge of the window behind which the image goes on, (N,) bool."""
    height, width = window
    x1, y1, x2, y2 = boxes.T
    across, down = max(2.0, _EDGE * width), max(2.0, _EDGE * height)
    return (
        ((x1 <= across) & (left > 0))
        | ((y1 <= down) & (top > 0))
        | ((x2 >= width - across) & (left + width < size[1]))
        | ((y2 >= height - down) & (top + height < size[0]))
    )


def _touch(a: np.ndarray, b: np.ndarray) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1).astype(np.float64)


def _moved(rle: dict[str, Any], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    crop = coco_mask.decode(rle)[y : y + height, x : x + width]
    columns = np.pad(crop.T, ((0, 0), (0, 1))).ravel()
    return encode_crops(columns, [(left + x, top + y, width, height)], size)[0]
