from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')

from mmdet.structures.mask import BitmapMasks, mask_target
from mmengine.config import ConfigDict

from densevit.detection.mask_targets import mask_targets


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('whole_pixels', [False, True])
def test_equals_mmdetection(soft, whole_pixels):
    """Also where boxes and masks have edges on pixels, so that bins are exactly one half."""
    rng = np.random.default_rng(0)
    ys, xs = np.mgrid[:61, :94]
    bitmaps = np.stack([(xs > rng.integers(60)) & (ys > rng.integers(40)) for _ in range(5)]).astype(np.uint8)
    boxes = torch.from_numpy(rng.uniform(-5, 60, (80, 4))).float()
    boxes[:, 2:] += boxes[:, :2] + 5
    boxes[0, 2] = boxes[0, 0]
    boxes = boxes.round() if whole_pixels else boxes
    owners = torch.from_numpy(rng.integers(5, size=80))
    expected = mask_target(
        [boxes.clone()], [owners], [BitmapMasks(bitmaps, 61, 94)], ConfigDict(mask_size=(9, 14), soft_mask_target=soft)
    )
    found = mask_targets(boxes, owners, bitmaps, (9, 14), binary=not soft)
    assert 0.2 < expected.mean() < 0.8
    if soft:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    else:
        assert torch.equal(found, expected)


def test_no_region():
    assert mask_targets(torch.zeros(0, 4), torch.zeros(0).long(), np.zeros((2, 5, 7), np.uint8), (3, 4)).shape == (
        0,
        3,
        4,
    )


def test_mixed_precision_changes_no_target():
    bitmaps = (np.arange(41 * 53).reshape(1, 41, 53) % 7 < 3).astype(np.uint8)
    boxes, owners = torch.tensor([[3.2, 1.7, 40.1, 33.3], [0.0, 0.0, 53.0, 41.0]]), torch.zeros(2).long()
    expected = mask_targets(boxes, owners, bitmaps, (9, 14), binary=False)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(mask_targets(boxes, owners, bitmaps, (9, 14), binary=False), expected)
