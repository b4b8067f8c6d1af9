"""Parameters and multiply-adds against counts by hand, and against published and measured ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from densevit import SwinTransformer
from densevit.analysis.complexity import complexity
from densevit.config.reading import load_config
from densevit.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def of_config(name: str, size: tuple[int, int], head: str | None = None):
    """Of a config's model, with a decode head of another type if one is given."""
    cfg = load_config(CONFIGS / f'{name}.py')
    if head:
        cfg.model.decode_head.type = head
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        return complexity(MM_MODELS.build(cfg.model), size)


def test_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
    parts = complexity(model, (6, 10))
    assert list(parts) == ['total']
    assert parts['total'] == (3 * 8 * 9 + 8 + 8 * 9 + 8 + 16, 60 * (8 * 27 + 8 * 9))


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8).eval(), nn.Dropout())
    model[0].bias.requires_grad_(False)
    before = [module.training for module in model.modules()]
    complexity(model, (6, 10))
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False, True, True]
    assert [module.training for module in model.modules()] == before
    assert model[1].running_mean.eq(0).all()


@pytest.mark.parametrize(
    ('arch', 'channels', 'backbone', 'neck', 'head'),
    [('', 384, 83.0, 14.5, 854.8), ('-b60', 768, 329.8, 58.0, 873.6), ('-l120', 1024, 1102.9, 103.1, 886.1)],
)
def test_upernet_patchconvnet(arch, channels, backbone, neck, head):
    """Facts: the trunk together with the classifier's own head, which a segmentor does not have."""
    pytest.importorskip('mmseg')
    parts = of_config(f'upernet_patchconvnet{arch}_ade20k', (512, 2048), 'UPerHead')
    tokens = 1 + 32 * 128
    # keys and values of all tokens; query, projection and MLP of one; its attention to all; 1000 classes
    classifier = (2 * tokens + 8) * channels**2 + 2 * tokens * channels + 1000 * channels
    found = [parts[name].macs / 1e9 for name in ('backbone', 'neck', 'decode_head')]
    assert found == pytest.approx([backbone - classifier / 1e9, neck, head], abs=0.06)  # printed to 0.1 G
    assert parts['auxiliary_head'].macs == 0 < parts['auxiliary_head'].params
    for index in (0, 1):
        assert parts['total'][index] == sum(part[index] for name, part in parts.items() if name != 'total')


@pytest.mark.parametrize('name', ['pvt-tiny', 'pvt-large', 'pvtv2-b0', 'pvtv2-b2-li', 'pvtv2-b5'])
def test_semantic_fpn(shared_facts, name):
    """Facts: the official modules; those of PVT v1 with its class token in the last stage, 0.01 G more."""
    pytest.importorskip('mmseg')
    counts = json.loads((shared_facts / 'manifests/_dense_counts.json').read_text())[name.replace('-', '_')]
    parts = of_config(f'semfpn_{name}_ade20k', (512, 512))
    tolerance = 0.02 if name.startswith('pvt-') else 0.005
    assert parts['backbone'].macs / 1e9 == pytest.approx(counts['backbone_gmacs_512'], abs=tolerance)
    assert parts['total'].macs / 1e9 == pytest.approx(counts['semfpn_gmacs_512'], abs=tolerance)


# The Swin repositories print whole G, and their counter adds norms, which ours does not: a little more than 0.5 G.
# Their 3230 G for Swin-L at 640 x 2560 is not among these: its trunk has 2.25 times the multiply-adds of Swin-B's,
# whose 1841 G agree, and with that it would be 2482 G.
PUBLISHED = {'upernet': 1.0, 'mask_rcnn': 1.0, 'cascade_mask_rcnn': 1.5}


@pytest.mark.parametrize(('name', 'published'), [
    ('upernet_swin_ade20k', 945), ('upernet_swin-s_ade20k', 1038), ('upernet_swin-b_ade20k', 1188),
    ('mask_rcnn_swin_coco', 267), ('mask_rcnn_swin-s_coco', 359),
    ('cascade_mask_rcnn_swin_coco', 745), ('cascade_mask_rcnn_swin-s_coco', 838),
    ('cascade_mask_rcnn_swin-b_coco', 982),
])  # fmt: skip
def test_swin(name, published):
    """Segmentors at 512 x 2048, detectors at 800 x 1280, as the Swin repositories count them.

    They project the padding of windows as well, and have mmsegmentation's head.
    """
    segments = name.startswith('upernet')
    pytest.importorskip('mmseg' if segments else 'mmdet')
    size = (512, 2048) if segments else (800, 1280)
    parts = of_config(name, size, 'UPerHead' if segments else None)
    heads = ['decode_head', 'auxiliary_head'] if segments else ['neck', 'rpn_head', 'roi_head']
    assert list(parts) == ['backbone', *heads, 'total']
    found = parts['total'].macs + projected_padding(name, size)
    assert found / 1e9 == pytest.approx(published, abs=PUBLISHED[name.partition('_swin')[0]])


def projected_padding(name: str, size: tuple[int, int]) -> int:
    """Multiply-adds of a Swin's projections to queries, keys, values and output for what pads the windows of 7."""
    arch = SwinTransformer.ARCHS[load_config(CONFIGS / f'{name}.py').model.backbone.arch]
    total = 0
    for stage, depth in enumerate(arch['depths']):
        sides = [side // 2 ** (2 + stage) for side in size]
        padded = [-(-side // 7) * 7 for side in sides]
        total += depth * (padded[0] * padded[1] - sides[0] * sides[1]) * 4 * (arch['embed_dims'] * 2**stage) ** 2
    return total


@pytest.mark.parametrize(('name', 'share'), [('upernet_swin_ade20k', 0.53), ('upernet_patchconvnet-b60_ade20k', 0.53)])
def test_our_head_has_about_half_the_multiply_adds(name, share):
    pytest.importorskip('mmseg')
    ours, plain = (of_config(name, (512, 512), head) for head in (None, 'UPerHead'))
    assert ours['decode_head'].params == plain['decode_head'].params
    assert ours['decode_head'].macs / plain['decode_head'].macs == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(('family', 'arch', 'side', 'gmacs'), [
    ('SwinTransformer', 'T', 224, 4.491), ('PyramidVisionTransformer', 'small', 224, 3.816),
    ('PyramidVisionTransformerV2', 'b2-li', 224, 3.889), ('CvT', '13', 224, 4.566), ('PatchConvNet', 'S60', 224, 3.979),
])  # fmt: skip
def test_classifiers(family, arch, side, gmacs):
    with torch.device('meta'):
        model = MODELS.build(dict(type='densevit.ImageClassifier', backbone=dict(type=f'densevit.{family}', arch=arch)))
    assert complexity(model, (side, side))['total'].macs / 1e9 == pytest.approx(gmacs, rel=2e-3)
