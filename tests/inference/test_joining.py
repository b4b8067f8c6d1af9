"""Detections of windows become those of the image."""

from __future__ import annotations

import numpy as np
import pytest
from faster_coco_eval import mask as coco_mask

from densevit.inference.joining import Found, join
from densevit.inference.prediction import decode_masks

SIZE, WINDOW = (100, 170), (100, 100)
LEFTS = (0, 70)  # two windows that share 30 columns


def found(objects, masks=True):
    """Objects of a window: (x1, y1, x2, y2, score, label); a mask fills its box."""
    rows = np.array(objects, np.float32).reshape(-1, 6)
    rles = []
    for x1, y1, x2, y2 in rows[:, :4].astype(int):
        mask = np.zeros(WINDOW, np.uint8, order='F')
        mask[y1:y2, x1:x2] = 1
        rles.append(coco_mask.encode(mask))
    return Found(rows[:, :4], rows[:, 4], rows[:, 5].astype(int), rles if masks else None)


def joined(left, right, masks=True):
    windows = [(found(each, masks), 0, start) for each, start in zip((left, right), LEFTS)]
    result = join(windows, WINDOW, SIZE)
    if masks:
        for rle, mask, box in zip(result.rles, decode_masks(result.rles), result.boxes.astype(int)):
            assert tuple(rle['size']) == SIZE == mask.shape
            x1, y1, x2, y2 = box
            assert mask[y1:y2, x1:x2].all() and mask.sum() == (y2 - y1) * (x2 - x1)
    return [(*box.astype(int).tolist(), round(float(score), 2)) for box, score in zip(result.boxes, result.scores)]


@pytest.mark.parametrize('masks', [True, False])
def test_places_and_order(masks):
    left, right = [(5, 5, 20, 30, 0.5, 0)], [(60, 50, 90, 95, 0.9, 0)]
    assert joined(left, right, masks) == [(130, 50, 160, 95, 0.9), (5, 5, 20, 30, 0.5)]


@pytest.mark.parametrize('masks', [True, False])
def test_an_object_that_both_windows_see(masks):
    left, right = [(75, 10, 90, 40, 0.8, 0)], [(6, 10, 21, 41, 0.9, 0)]
    assert joined(left, right, masks) == [(76, 10, 91, 41, 0.9)]


@pytest.mark.parametrize('masks', [True, False])
def test_a_cut_object_goes_though_its_score_is_higher(masks):
    left, right = [(80, 10, 100, 40, 0.95, 0)], [(10, 10, 60, 40, 0.6, 0)]
    assert joined(left, right, masks) == [(80, 10, 130, 40, 0.6)]


def test_other_classes_and_neighbours_stay():
    left, right = [(75, 10, 90, 40, 0.8, 0)], [(5, 10, 20, 40, 0.9, 1), (5, 41, 20, 60, 0.7, 0)]
    assert len(joined(left, right)) == 3


def test_within_a_window_nothing_is_removed():
    assert len(joined([(20, 10, 50, 40, 0.8, 0), (21, 10, 50, 41, 0.7, 0)], [])) == 2


def test_masks_decide_where_boxes_overlap():
    one, other = np.zeros(WINDOW, np.uint8, order='F'), np.zeros(WINDOW, np.uint8, order='F')
    for row in range(30):
        one[10 + row, 72 : 72 + row + 1] = 1
        other[10 + row, 2 + row + 1 : 32] = 1
    windows = []
    for mask, left, box in ((one, 0, (72, 10, 98, 40)), (other, 70, (3, 10, 32, 40))):
        boxes = np.array([box], np.float32)
        rles = [coco_mask.encode(mask)]
        windows.append((Found(boxes, np.array([0.9], np.float32), np.array([0]), rles), 0, left))
    assert len(join(windows, WINDOW, SIZE).scores) == 2
    without = [(Found(each.boxes, each.scores, each.labels, None), top, left) for each, top, left in windows]
    assert len(join(without, WINDOW, SIZE).scores) == 1


def test_nothing_found_and_empty_masks():
    result = join([(found([]), 0, left) for left in LEFTS], WINDOW, SIZE)
    assert result.boxes.shape == (0, 4) and result.rles == []
    empty = found([(5, 5, 5, 5, 0.5, 0)])
    (mask,) = decode_masks(join([(empty, 0, 0), (found([]), 0, 70)], WINDOW, SIZE).rles)
    assert mask.shape == SIZE and not mask.any()
