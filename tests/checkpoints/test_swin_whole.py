"""Whole models of mmsegmentation and mmdetection with their own Swin, loaded into the same config with ours."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from densevit.checkpoints import LoadReport, load_weights
from densevit.engine.config import load_config
from tests.backbones.contract import fill
from tests.checkpoints.swin_peers import ARCH, BLOCKS, NORMS, TRUNK

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
CHANNELS = [8, 16, 32, 64]
NUM_CLASSES = 7
OURS = dict(type='densevit.SwinTransformer', arch=ARCH, window_size=7)
THEIRS = dict(
    type='SwinTransformer', embed_dims=8, depths=ARCH['depths'], num_heads=ARCH['num_heads'], window_size=7
)  # fmt: skip


def build(cfg: Config, backbone: dict) -> nn.Module:
    """The config's model with this backbone, in eval mode."""
    config = copy.deepcopy(cfg.model)  # mmdetection's detectors write into it
    config['backbone'] = ConfigDict(backbone)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(config)
    model.eval()
    return model


def filled(model: nn.Module, gains: dict[str, float]) -> nn.Module:
    """Random weights, and statistics unlike a fresh BatchNorm's.

    Args:
        model: what to fill.
        gains: by pattern, factors on weights, so that what the heads say depends on the place, and boxes are no lines.
    """
    for name, buffer in fill(model).named_buffers():
        noise = torch.rand(buffer.shape, generator=torch.Generator().manual_seed(len(name)))
        if name.endswith('running_var'):
            buffer.copy_(noise + 0.5)
        elif name.endswith('running_mean'):
            buffer.copy_(0.2 * (noise - 0.5))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for pattern, gain in gains.items():
                if re.fullmatch(pattern, name) and parameter.ndim > 1:
                    parameter.mul_(gain)
    return model


def through_a_file(theirs: nn.Module, ours: nn.Module, folder: Path) -> LoadReport:
    torch.save(dict(state_dict=theirs.state_dict(), meta=dict(epoch=1)), folder / 'epoch_1.pth')
    return load_weights(ours, folder / 'epoch_1.pth')


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


def corner(path: Path, height: int, width: int) -> Tensor:
    """The upper left of a real image, (3, H, W)."""
    pixels = cv2.imread(str(path))[:height, :width]
    assert pixels.shape == (height, width, 3)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


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
    from mmdet.structures import DetDataSample

    cfg = load_config(CONFIGS / 'mask_rcnn_swin_coco.py')
    cfg.model.neck.update(in_channels=CHANNELS, out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    head = cfg.model.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
    head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES)
    head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=NUM_CLASSES)
    gains = {r'.*(rpn|fc)_reg\.weight': 0.2, r'.*fc_cls\.weight': 3, r'.*mask_head.*': 2}
    theirs, ours = filled(build(cfg, THEIRS), gains), build(cfg, OURS)
    assert_all_used(through_a_file(theirs, ours, tmp_path), ours, theirs, heads=36)

    picture = corner(shared_data / 'coco_ccby/train/000000000030.jpg', 211, 307)
    size, results = tuple(picture.shape[1:]), []
    for model in (theirs, ours):
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_id=1))
        with torch.no_grad():
            results.append(model.test_step(dict(inputs=[picture], data_samples=[sample]))[0].pred_instances)
    expected, found = results
    assert len(expected) > 50
    assert len(expected.labels.unique()) > 1
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=0, atol=1e-3)  # pixels
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    assert expected.masks.shape == (len(expected), *size)
    assert 0.01 < expected.masks.float().mean() < 0.9
    # a pixel whose probability is one half may fall to either side
    assert (found.masks != expected.masks).float().mean() < 1e-6
