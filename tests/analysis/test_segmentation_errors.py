"""Counts of wrong pixels, by hand and by slower ways."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densevit.analysis.segmentation_errors import AREAS, DISTANCES, SHARES, SegmentationErrors
from densevit.evaluation.iou import confusion_matrix, scores


def maps(seed: int, size: tuple[int, int] = (37, 53)) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and truth with 5 classes; class 4 is in no truth."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (5, 7)).repeat(-(-size[0] // 5), 0).repeat(-(-size[1] // 7), 1)[: size[0], : size[1]]
    pred = np.where(rng.random(size) < 0.2, rng.integers(0, 5, size), label)
    label[3:6, 10:20] = 255
    return pred, label


def test_the_confusion_is_that_of_the_metric():
    errors, total = SegmentationErrors(5), 0
    for seed in range(3):
        pred, label = maps(seed)
        errors.add(pred, label)
        kept = label != 255
        total += confusion_matrix(torch.from_numpy(pred[kept]), torch.from_numpy(label[kept]), 5)
    assert (errors.counts['confusion'] == total.numpy()).all()


def test_the_score_of_an_image():
    pred, label = maps(0)
    score = SegmentationErrors(5).add(pred, label)
    kept = label != 255
    summary, per_class = scores(confusion_matrix(torch.from_numpy(pred[kept]), torch.from_numpy(label[kept]), 5))
    present = np.unique(label[kept])
    assert score.score == pytest.approx(float(per_class['IoU'][present].mean()))
    assert score.accuracy == pytest.approx(summary['aAcc'])
    counts = [(label == index).sum() for index in score.classes]
    assert sorted(score.classes) == present.tolist() and counts == sorted(counts, reverse=True)


def test_regions_by_area():
    label = np.zeros((60, 70), np.int64)
    label[:4, :5] = 1  # 20 pixels
    label[10:50, 10:50] = 1  # 1600
    label[20, 20] = 2
    pred = label.copy()
    pred[:4, 0] = 0
    pred[20, 20] = 1
    errors = SegmentationErrors(3)
    errors.add(pred, label)
    small, medium, large = errors.counts['area'].tolist()
    assert AREAS == (1024, 9216)
    assert small == [2, 21, 16]
    assert medium == [2, 1599 + 4200 - 1620, 1599 + 4200 - 1620]
    assert large == [0, 0, 0]


def test_shares():
    label = np.zeros((50, 40), np.int64)
    label[0, :10] = 1  # 0.5 %
    errors = SegmentationErrors(2)
    errors.add(np.zeros_like(label), label)
    assert SHARES[0] == 0.01
    assert errors.counts['share'].tolist() == [[0, 10], [0, 0], [0, 0], [1990, 2000]]


def test_distances_to_a_border():
    label = np.zeros((9, 101), np.int64)
    label[:, 40:] = 1  # columns 39 and 40 are the border
    pred = label.copy()
    pred[:, 43] = 0  # at a distance of 3
    errors = SegmentationErrors(2)
    errors.add(pred, label)
    assert DISTANCES[:3] == (2, 4, 8)
    counted, wrong = errors.counts['distance'].T.tolist()
    assert counted[:3] == [4 * 9, 4 * 9, 8 * 9] and sum(counted) == label.size
    assert wrong == [0, 9, 0, 0, 0, 0, 0]


def test_an_image_of_one_class_has_no_border():
    errors = SegmentationErrors(2)
    errors.add(np.ones((5, 6), np.int64), np.zeros((5, 6), np.int64))
    assert errors.counts['distance'].tolist() == [[0, 0]] * len(DISTANCES) + [[30, 30]]


def test_places():
    label = np.zeros((17, 23), np.int64)
    pred = label.copy()
    pred[-1, 0] = 1
    errors = SegmentationErrors(2)
    errors.add(pred, label)
    counted, wrong = errors.counts['position'][..., 0], errors.counts['position'][..., 1]
    assert counted.sum() == label.size and (counted > 0).all()
    assert wrong[-1, 0] == wrong.sum() == 1


def test_an_image_without_truth_counts_nothing():
    errors = SegmentationErrors(3)
    score = errors.add(np.zeros((4, 5), np.int64), np.full((4, 5), 255))
    assert np.isnan(score.score) and score.classes == ()
    assert not any(counts.any() for counts in errors.counts.values())


def test_the_summary():
    errors = SegmentationErrors(5)
    errors.add(*maps(1))
    share, area, distance = errors.summary()['failures']
    assert [row['name'] for row in distance['rows']][::6] == ['0 to 2 px', '64 px and more']
    assert np.isnan(area['rows'][2]['value']) and area['rows'][2]['count'] == 0
    assert share['rows'][3]['count'] > 0 and 0 < share['rows'][3]['value'] < 100
    assert errors.summary()['position']['values'].shape == (8, 8)
