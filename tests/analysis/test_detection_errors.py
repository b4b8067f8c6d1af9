"""What becomes of an image's objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou as theirs

from densevit.analysis.detection_errors import DetectionErrors, Objects, box_iou

NO_BOXES = np.zeros((0, 4))
SIZE = (100, 160)


def objects(*rows: tuple, scored: bool = False) -> Objects:
    """Rows of x1, y1, x2, y2, label and, for detections, score."""
    table = np.array(rows, float).reshape(-1, 6 if scored else 5)
    return Objects(table[:, :4], table[:, 4].astype(int), table[:, 5] if scored else None)


def test_what_is_found_missed_and_false():
    truth = objects((0, 0, 10, 10, 0), (50, 50, 90, 90, 1), (100, 0, 150, 90, 1))
    found = objects(
        (0, 0, 10, 9, 0, 0.9),  # right
        (0, 0, 10, 10, 0, 0.5),  # the same object once more
        (50, 50, 90, 88, 2, 0.8),  # another class
        (20, 20, 30, 30, 1, 0.4),  # nothing is there
        scored=True,
    )
    errors = DetectionErrors(3)
    matches = errors.add(found, truth, NO_BOXES, SIZE)
    assert matches.found.tolist() == [True, False, False]
    assert matches.false.tolist() == [False, True, True, True]
    assert matches.score == pytest.approx(200 / (2 + 3 + 2))
    expected = np.zeros((4, 4), int)
    expected[0, 0] = 1
    expected[1, 2] = 1  # of class 1, called 2
    expected[1, 3] = 1  # missed
    expected[3, 0] = expected[3, 1] = 1
    assert (errors.counts['confusion'] == expected).all()
    assert errors.counts['area'].tolist() == [[1, 1], [2, 0], [0, 0]]
    assert errors.counts['aspect'].tolist() == [[0, 0], [1, 0], [2, 1], [0, 0]]
    assert errors.counts['position'][..., 0].sum() == 3 and errors.counts['position'][0, 0].tolist() == [1, 1]


def test_the_better_score_chooses_first():
    truth = objects((0, 0, 10, 10, 0))
    found = objects((0, 0, 10, 10, 0, 0.4), (0, 0, 10, 8, 0, 0.6), scored=True)
    assert DetectionErrors(1).add(found, truth, NO_BOXES, SIZE).false.tolist() == [True, False]


def test_a_crowd_is_not_counted():
    found = objects((10, 10, 20, 20, 0, 0.9), (90, 90, 99, 99, 0, 0.9), scored=True)
    errors = DetectionErrors(1)
    matches = errors.add(found, objects(), np.array([[0, 0, 50, 50.0]]), SIZE)
    assert matches.false.tolist() == [False, True]
    assert errors.counts['confusion'].tolist() == [[0, 0], [1, 0]]


def test_nothing_there_and_nothing_found():
    matches = DetectionErrors(2).add(objects(scored=True), objects(), NO_BOXES, SIZE)
    assert np.isnan(matches.score) and len(matches.found) == len(matches.false) == 0


def test_areas_of_masks_beat_those_of_boxes():
    truth = objects((0, 0, 40, 40, 0))._replace(areas=np.array([500]))
    errors = DetectionErrors(1)
    errors.add(objects(scored=True), truth, NO_BOXES, SIZE)
    assert errors.counts['area'][:, 0].tolist() == [1, 0, 0]


def test_truth_as_detections_is_perfect():
    rng = np.random.default_rng(0)
    errors = DetectionErrors(4)
    for _ in range(5):
        corner, side = rng.uniform(0, 80, (7, 2)), rng.uniform(2, 60, (7, 2))
        truth = Objects(np.concatenate([corner, corner + side], 1), rng.integers(0, 4, 7))
        matches = errors.add(truth._replace(scores=rng.random(7)), truth, NO_BOXES, SIZE)
        assert matches.score == 100
    matrix = errors.counts['confusion']
    assert matrix.sum() == matrix.trace() == 35
    found = errors.summary()['failures'][0]
    assert all(row['value'] == 100 for row in found['rows'] if row['count'])


def test_iou():
    rng = np.random.default_rng(0)
    boxes, others = (np.sort(rng.uniform(0, 9, (count, 2, 2)), 1).reshape(-1, 4) for count in (6, 4))
    np.testing.assert_allclose(box_iou(boxes, others), theirs(torch.tensor(boxes), torch.tensor(others)).numpy())
    empty = np.array([[1, 1, 1, 1.0]])
    assert box_iou(empty, empty).tolist() == [[0.0]]
