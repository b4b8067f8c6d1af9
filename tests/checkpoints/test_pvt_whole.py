"""mmdetection's Mask R-CNN with its own PVT of either version, loaded into the same config with ours."""

from __future__ import annotations

import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from densevit.checkpoints import load_weights
from tests.backbones.contract import images
from tests.checkpoints.whole import assert_same_detections, build, filled, small_mask_rcnn, through_a_file

pytest.importorskip('mmdet')

CHANNELS = [8, 16, 24, 32]
SIDE = 96  # of the images that the position tables of v1 are made for
ARCH = dict(embed_dims=CHANNELS, depths=(1, 2, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2,) * 4)
SAME = dict(embed_dims=8, num_layers=ARCH['depths'], num_heads=ARCH['num_heads'], mlp_ratios=ARCH['mlp_ratios'])
# version: our backbone, theirs, the config, tensors of the backbone
MODELS = {
    'v1': (
        dict(type='densevit.PyramidVisionTransformer', arch=ARCH, img_size=SIDE),
        dict(type='PyramidVisionTransformer', **SAME, pretrain_img_size=SIDE),
        'mask_rcnn_pvt-tiny_coco',
        4 * (4 + 1) + 5 * 14 + 4 * 4,  # embeddings and tables; blocks; reductions
    ),
    'v2': (
        dict(type='densevit.PyramidVisionTransformerV2', arch=ARCH),
        dict(type='PyramidVisionTransformerV2', **SAME),
        'mask_rcnn_pvtv2-b0_coco',
        4 * (4 + 2) + 5 * (14 + 2) + 4 * 4,  # embeddings and norms; blocks with a convolution more; reductions
    ),
}
HEADS = 36
NOTE = 'embed_norm_eps is 1e-6 now, as mmdetection trains; write it into the config to keep it'


def config(version: str) -> Config:
    """Of a small Mask R-CNN, for any backbone."""
    cfg = small_mask_rcnn(MODELS[version][2], CHANNELS)
    cfg.model.test_cfg.rcnn.max_per_img = 400  # the first hundred are of one class
    return cfg


def detectors(version: str) -> tuple[nn.Module, nn.Module]:
    """With mmdetection's backbone and random weights, and with ours."""
    own, their, *_ = MODELS[version]
    gains = {r'.*(rpn|fc)_reg\.weight': 0.2, r'.*mask_head.*': 2}
    return filled(build(config(version), their), gains), build(config(version), own)


def official_eps(backbone: nn.Module) -> None:
    """mmdetection has eps 1e-6 in every norm, also in those two kinds where the official code leaves torch's 1e-5."""
    changed = 0
    for name, norm in backbone.named_modules():
        if re.search(r'^layers\.\d\.0\.norm$|attn\.norm$', name):
            assert norm.eps == 1e-6
            norm.eps = 1e-5
            changed += 1
    assert changed == 4 + 4  # patch embeddings, and reductions in the blocks of three stages


@pytest.mark.parametrize('version', MODELS)
def test_mask_rcnn_of_mmdetection(tmp_path, shared_data, version):
    theirs, ours = detectors(version)
    report = through_a_file(theirs, ours, tmp_path)
    count = MODELS[version][3] + HEADS
    label, completed = ('PVT', ', completed 1 with zeros (backbone.pos_embed4)') if version == 'v1' else ('PVT v2', '')
    assert str(report) == f'{label}, mm: loaded {count} of {count} tensors{completed}; {NOTE}'
    assert set(report.loaded) == set(ours.state_dict())

    expected = assert_same_detections(theirs, ours, shared_data)
    assert len(expected.labels.unique()) > 2


@pytest.mark.parametrize('version', MODELS)
def test_a_detector_of_mmdetection_takes_its_own_files(version):
    """As runs of this package's tools with its backbones need it: names stay, and nothing is completed."""
    source, model = detectors(version)[0], build(config(version), MODELS[version][1])
    report = load_weights(model, {'state_dict': source.state_dict()})
    assert report.origin == f'PVT{" v2" * (version == "v2")}, mm'
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == report.kept == report.completed == ()
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    report = load_weights(model.backbone, source.state_dict())
    assert set(report.loaded) == set(model.backbone.state_dict())
    assert len(report.skipped) == HEADS


@pytest.mark.parametrize('version', MODELS)
def test_mmdetections_eps_shows(version):
    """Where it is left as it is, as in a backbone alone, the maps are others, by more than rounding."""
    theirs, ours = (model.double().backbone for model in detectors(version))
    load_weights(ours, theirs.state_dict())
    x, differences = images(1, 3, 67, 101).double(), []  # with remainders: v1 drops, v2 pads, in both packages
    with torch.no_grad():
        for mend in (lambda: None, lambda: official_eps(theirs)):
            mend()
            pairs = zip(ours(x), theirs(x), strict=True)
            differences.append(max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs))
    assert 1e-7 < differences[0] < 1e-4
    assert differences[1] < 1e-12
