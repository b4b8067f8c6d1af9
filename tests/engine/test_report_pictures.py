"""What the pictures of a report show, by their pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from densevit.analysis.detection_errors import DetectionErrors, Objects
from densevit.backbones.pvt import PyramidVisionTransformerV2
from densevit.engine.report_pictures import (
    FALSE,
    FOUND,
    MISSED,
    WRONG,
    draw_attention,
    draw_outcome,
    draw_wrong,
    label_thumbnails,
    recording,
    shrunk,
)

SIZE = (90, 131)


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def test_wrong_pixels_stand_out_and_ignored_ones_are_black():
    label = np.zeros(SIZE, np.int64)
    label[:, :40], label[:10] = 1, 255
    drawn = draw_wrong(photo(), np.zeros_like(label), label, 255)
    assert (drawn[10:, :40] == WRONG).all()
    assert (drawn[:10] == 0).all()
    right = drawn[10:, 40:].astype(int)
    assert (np.ptp(right, axis=-1) == 0).all() and right.max() <= 141


def test_thumbnails_are_small_and_of_the_image_s_shape():
    label = np.zeros(SIZE, np.int64)
    drawn = label_thumbnails(photo(), label, label, [(255, 0, 0)], 255, 50)
    assert {name: each.shape for name, each in drawn.items()} == dict.fromkeys(
        ('truth', 'prediction', 'errors'), (34, 50, 3)
    )
    assert list(label_thumbnails(photo(), label, None, [(255, 0, 0)], 255, 50)) == ['prediction']
    assert shrunk(photo(), 500).shape == (*SIZE, 3)


def test_what_became_of_objects():
    truth = Objects(np.array([[5, 5, 40, 40.0], [60, 10, 90, 40]]), np.array([0, 0]))
    found = Objects(np.array([[5, 5, 40, 40.0], [60, 50, 120, 85]]), np.array([0, 0]), np.array([0.9, 0.8]))
    matches = DetectionErrors(1).add(found, truth, np.zeros((0, 4)), SIZE)
    drawn = draw_outcome(np.zeros((*SIZE, 3), np.uint8), truth, found, matches, 1.0)
    assert tuple(drawn[5, 20]) == FOUND and not drawn[20, 20].any()
    assert tuple(drawn[10, 75]) == MISSED and (drawn[25, 75] == np.array(MISSED) // 2).all(), 'filled'
    assert tuple(drawn[50, 90]) == FALSE
    assert drawn[64:72, 86:94].any(), 'crossed out'
    assert not drawn[60, 70].any() or not drawn[60, 110].any()


def backbone() -> PyramidVisionTransformerV2:
    return PyramidVisionTransformerV2(
        dict(embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 2), num_heads=(1, 1, 1, 2), mlp_ratios=(1, 1, 1, 1))
    )


def segmentor(**test_cfg):
    return SimpleNamespace(backbone=backbone(), test_cfg=test_cfg)


@pytest.mark.parametrize(
    'model', [segmentor(mode='slide'), SimpleNamespace(), SimpleNamespace(backbone=torch.nn.Conv2d(3, 3, 1))]
)
def test_no_record_where_attention_is_not_that_of_the_image(model):
    with recording(model) as record:
        assert record is None
    assert draw_attention({}, record, photo(), ['a'], (0,)) == {}


def test_the_backbone_s_last_attention():
    model = segmentor(mode='whole')
    with recording(model) as record, torch.no_grad():
        model.backbone(torch.rand(1, 3, 96, 128))
    drawn = draw_attention({'img_shape': (93, 128)}, record, photo(), ['a'], (0,))
    (caption, picture), *none = drawn.items()
    assert caption.startswith('attention of stages.3.blocks.1, yellow: ') and caption.endswith('x the mean')
    assert not none
    assert picture.shape == (*SIZE, 3) and picture.std() > 5


def test_class_attention_is_that_of_the_first_class():
    class Attention:
        presence = torch.tensor([0.1, 0.2, 0.9])

        def upsampled(self, classes):
            maps = torch.zeros(3, *SIZE)
            maps[1, :, :20] = maps[2, :, -20:] = 1
            return maps[classes]

    sample = type('Sample', (dict,), {'class_attention': Attention()})(class_attention=True)
    image = np.full((*SIZE, 3), 200, np.uint8)
    left = draw_attention(sample, None, image, list('abc'), (1, 2))
    ((caption, drawn),) = left.items()
    assert caption == 'attention: b, yellow: 6.6 x the mean'  # 20 of 131 columns have all of it
    assert drawn[:, :10].mean() > 1.5 * drawn[:, -10:].mean()
    (caption,) = draw_attention(sample, None, image, list('abc'), ())
    assert caption.startswith('attention: c, '), 'the most present one'
