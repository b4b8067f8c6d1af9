"""Whole detectors and segmentors of other packages beside ours: built small, saved, loaded, compared."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from densevit.checkpoints import LoadReport, load_weights
from densevit.config.reading import load_config
from tests.backbones.contract import fill

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NUM_CLASSES = 7


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


def corner(path: Path, height: int, width: int) -> Tensor:
    """The upper left of a real image, (3, H, W)."""
    pixels = cv2.imread(str(path))[:height, :width]
    assert pixels.shape == (height, width, 3)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def small_mask_rcnn(name: str, channels: list[int]) -> Config:
    """The config of a Mask R-CNN with little in its neck and heads, for a backbone with these channels."""
    cfg = load_config(CONFIGS / f'{name}.py')
    cfg.model.neck.update(in_channels=channels, out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    head = cfg.model.roi_head
    head.bbox_roi_extractor.out_channels = head.mask_roi_extractor.out_channels = 16
    head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=NUM_CLASSES)
    head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=NUM_CLASSES)
    return cfg


def assert_same_detections(theirs: nn.Module, ours: nn.Module, shared_data: Path) -> InstanceData:
    """Labels, boxes, scores and masks of both detectors on a corner of a photo, padded to 224 x 320; returns theirs."""
    from mmdet.structures import DetDataSample

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
    return expected
