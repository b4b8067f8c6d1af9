"""Whole models of mmsegmentation and mmdetection with their own Swin, loaded into the same config with ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from densevit.checkpoints import LoadReport
from densevit.config.reading import load_config
from tests.checkpoints.swin_peers import ARCH, BLOCKS, NORMS, TRUNK
from tests.checkpoints.whole import (
    CONFIGS,
    NUM_CLASSES,
    assert_same_detections,
    build,
    corner,
    filled,
    small_mask_rcnn,
    through_a_file,
)

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CHANNELS = [8, 16, 32, 64]
OURS = dict(type='densevit.SwinTransformer', arch=ARCH, window_size=7)
THEIRS = dict(
    type='SwinTransformer', embed_dims=8, depths=ARCH['depths'], num_heads=ARCH['num_heads'], window_size=7
)  # fmt: skip


def assert_all_used(report: LoadReport, ours: nn.Module, theirs: nn.Module, heads: int) -> None:
    """Every tensor of either model, but for the tables that theirs computes, ``heads`` of them beside the backbone."""
    assert report.origin == 'Swin, mm'
    assert set(report.loaded) == set(ours.state_dict())
    assert len(report.loaded) == TRUNK[1] + NORMS + heads
    assert len(report.skipped) == BLOCKS
    assert all(name.endswith('relative_position_index') for name in report.skipped)
    assert len(theirs.state_dict()) == len(report.loaded) + len(report.skipped)
    assert report.kept == report.renewed == report.resized == report.completed == ()
    assert str(report) == (
        f'Swin, mm: loaded {len(report.loaded)} of {len(report.loaded)} tensors, skipped {BLOCKS} (backbone.stages.* '
        f'{BLOCKS})'
    )


def test_upernet_of_mmsegmentation(tmp_path, shared_data):
    from mmseg.structures import SegDataSample

    cfg = load_config(CONFIGS / 'upernet_swin_ade20k.py')
    cfg.model.decode_head.update(in_channels=CHANNELS, channels=16, num_classes=NUM_CLASSES)
    cfg.model.auxiliary_head.update(in_channels=CHANNELS[2], channels=16, num_classes=NUM_CLASSES)
    theirs, ours = filled(build(cfg, THEIRS), {'(?!backbone).*': 1.5}), build(cfg, OURS)
    assert_all_used(through_a_file(theirs, ours, tmp_path), ours, theirs, heads=82)

    picture = corner(shared_data / 'ade20k_samples/images/validation/ADE_val_00000001.jpg', 203, 277)
    size, results = tuple(picture.shape[1:]), []
    for model in (theirs, ours):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        with torch.no_grad():
            results.append(model.test_step(dict(inputs=[picture], data_samples=[sample]))[0])
    expected, found = results
    assert expected.seg_logits.data.shape == (NUM_CLASSES, *size)
    assert expected.seg_logits.data.std() > 0.5
    assert len(expected.pred_sem_seg.data.unique()) > 2
    torch.testing.assert_close(found.seg_logits.data, expected.seg_logits.data, rtol=0, atol=1e-4)
    assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)


def test_mask_rcnn_of_mmdetection(tmp_path, shared_data):
    cfg = small_mask_rcnn('mask_rcnn_swin_coco', CHANNELS)
    gains = {r'.*(rpn|fc)_reg\.weight': 0.2, r'.*fc_cls\.weight': 3, r'.*mask_head.*': 2}
    theirs, ours = filled(build(cfg, THEIRS), gains), build(cfg, OURS)
    assert_all_used(through_a_file(theirs, ours, tmp_path), ours, theirs, heads=36)

    assert_same_detections(theirs, ours, shared_data)
