from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as oracle

from densevit.detection.rle import compress_runs, encode_crops, runs_to_rle


@pytest.mark.parametrize('seed', range(60))
def test_crops_equal_pycocotools_of_the_whole_mask(seed):
    """Empty and full ones, without pixels, as high as the image, up to its last pixel."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    masks, boxes, parts = [], [], []
    for _ in range(rng.integers(0, 6)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(0, width - x + 1), rng.integers(0, height - y + 1)
        if rng.random() < 0.3:
            y, h = 0, height
        mask = np.zeros((height, width), np.uint8)
        mask[y : y + h, x : x + w] = rng.random((h, w)) < rng.choice([0, 0.1, 0.5, 0.95, 1])
        masks.append(mask)
        boxes.append((x, y, w, h))
        parts.append(np.pad(mask[y : y + h, x : x + w].T, ((0, 0), (0, 1))).flatten())
    found = encode_crops(np.concatenate([*parts, np.zeros(0, np.uint8)]), boxes, (height, width))
    expected = [oracle.encode(np.asfortranarray(mask)) for mask in masks]
    assert [each['counts'] for each in found] == [each['counts'] for each in expected]
    assert all(each['size'] == [height, width] for each in found)


def test_large_numbers():
    """Runs of more than five, ten and fifteen bits, and differences of both signs."""
    runs = [[100_000, 3, 40_000, 900, 7, 31, 16, 15, 999_999], [5], [0, 1 << 20]]
    expected = [oracle.frPyObjects({'size': [1, sum(each)], 'counts': each}, 1, sum(each))['counts'] for each in runs]
    assert compress_runs(np.concatenate(runs), np.array([9, 1, 2])) == expected


def test_changes():
    """A mask without a change, one from the first pixel, one to the last."""
    found = runs_to_rle(np.array([0, 3, 4, 12]), np.array([0, 2, 2]), (3, 4))
    decoded = oracle.decode(found).transpose(2, 1, 0).reshape(3, 12)
    assert decoded.tolist() == [[0] * 12, [1] * 3 + [0] * 9, [0] * 4 + [1] * 8]
    assert [each['counts'] for each in found] == [
        oracle.encode(np.asfortranarray(mask.reshape(4, 3).T))['counts'] for mask in decoded
    ]
