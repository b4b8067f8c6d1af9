"""The heads' loss against mmsegmentation's, with the same weights."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.structures import PixelData
from mmseg.models import decode_heads
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from densevit.segmentation import lean_loss
from densevit.segmentation.heads import FCNHead, FPNHead
from densevit.segmentation.lean_loss import LeanLoss


class UPerHead(LeanLoss, decode_heads.UPerHead):
    """A third head with the same loss."""


COMMON = dict(channels=8, num_classes=7, dropout_ratio=0, align_corners=False, norm_cfg=dict(type='BN'))
HEADS = {
    'FCNHead': (FCNHead, dict(in_channels=6, in_index=1, num_convs=1)),
    'FPNHead': (FPNHead, dict(in_channels=[6, 6], in_index=[0, 1], feature_strides=[4, 8])),
    'UPerHead': (UPerHead, dict(in_channels=[6, 6], in_index=[0, 1], pool_scales=(1, 2))),
}


def pair(name='FCNHead', **options):
    kind, own = HEADS[name]
    ours = kind(**copy.deepcopy(COMMON | own | options))
    theirs = getattr(decode_heads, name)(**copy.deepcopy(COMMON | own | options))
    theirs.load_state_dict(ours.state_dict())
    return theirs.double(), ours.double()


def batch(highest=7):
    maps = [torch.randn(2, 6, *size, dtype=torch.float64) for size in ((14, 19), (7, 10))]
    label = torch.randint(0, highest, (2, 1, 55, 74))
    label[torch.rand(label.shape) < 0.2] = 255
    return maps, [SegDataSample(gt_sem_seg=PixelData(data=each)) for each in label]


def check_equal(theirs, ours, maps, samples):
    results = []
    for head in (theirs, ours):
        inputs = [each.clone().requires_grad_() for each in maps]
        losses = head.loss(inputs, samples, {})
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        gradients = {name: each.grad for name, each in head.named_parameters()}
        results.append((losses, gradients, [each.grad for each in inputs]))
    expected, found = results
    assert list(found[0]) == list(expected[0])
    torch.testing.assert_close(found[0]['acc_seg'], expected[0]['acc_seg'], rtol=1e-6, atol=0)
    for losses, _, _ in results:
        losses.pop('acc_seg')
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture
def resized(monkeypatch):
    """Notes the calls of the loss by rectangles."""
    calls = []
    function = lean_loss.resized_cross_entropy
    monkeypatch.setattr(
        lean_loss, 'resized_cross_entropy', lambda *args, **options: calls.append(1) or function(*args, **options)
    )
    return calls


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('name', HEADS)
def test_equals_mmsegmentations(name, align_corners, resized):
    check_equal(*pair(name, align_corners=align_corners), *batch())
    assert resized


CE = dict(type='CrossEntropyLoss')
LOSSES = {
    'weight': dict(CE, loss_weight=0.4),
    'classes': dict(CE, class_weight=[0.1, 1, 2, 0, 0.5, 1, 3]),
    'not ignored': dict(CE, avg_non_ignore=True),
    'name': dict(CE, loss_name='loss_main'),
    'two': [dict(CE, loss_weight=0.4), dict(CE, loss_name='loss_other', avg_non_ignore=True)],
    'two of a name': [dict(CE, loss_weight=0.4), dict(CE, avg_non_ignore=True)],
}


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_options_of_the_loss(loss, resized):
    check_equal(*pair(loss_decode=loss), *batch())
    assert len(resized) == (len(loss) if isinstance(loss, list) else 1)


@pytest.mark.parametrize(
    'options',
    [
        dict(loss_decode=dict(CE, use_sigmoid=True)),
        dict(loss_decode=[CE, dict(type='DiceLoss')]),
        dict(loss_decode=dict(type='TverskyLoss')),
        dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100)),
    ],
    ids=['sigmoid', 'dice', 'tversky', 'sampler'],
)
def test_other_losses_are_mmsegmentations(options, resized):
    check_equal(*pair(**options), *batch())
    assert not resized


def test_binary_is_mmsegmentations(resized):
    options = dict(num_classes=2, out_channels=1, threshold=0.5, loss_decode=dict(CE, use_sigmoid=True))
    theirs, ours = pair(**options)
    maps, samples = batch(2)
    results = [head.loss(maps, samples, {})['loss_ce'] for head in (theirs, ours)]
    assert torch.equal(*results) and not resized


def test_class_weights_beside_avg_non_ignore():
    loss = dict(CE, class_weight=[0.1, 1, 2, 0, 0.5, 1, 3])
    maps, samples = batch()
    theirs, _ = pair(loss_decode=loss)
    _, ours = pair(loss_decode=dict(loss, avg_non_ignore=True))
    ours.load_state_dict(theirs.state_dict())
    results = [head.loss(maps, samples, {})['loss_ce'] for head in (theirs, ours)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=0)


def test_autocast():
    theirs, ours = (head.float() for head in pair())
    maps, samples = batch()
    maps = [each.float() for each in maps]
    with torch.autocast('cpu', torch.bfloat16):
        expected, found = (head.loss(maps, samples, {}) for head in (theirs, ours))
    assert found['loss_ce'].dtype == torch.float32
    torch.testing.assert_close(found['loss_ce'], expected['loss_ce'], rtol=0.01, atol=0)
    found['loss_ce'].backward()
    assert all(each.grad.isfinite().all() and each.grad.any() for each in (ours.conv_seg.weight, ours.conv_seg.bias))


def test_all_pixels_ignored():
    maps, _ = batch()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 55, 74), 255))) for _ in range(2)]
    for loss in (CE, dict(CE, avg_non_ignore=True)):
        for head in pair(loss_decode=loss):
            assert head.loss(maps, samples, {})['loss_ce'] == 0


@pytest.mark.parametrize('name', ['FCNHead', 'FPNHead'])
def test_is_registered_with_mmsegmentations_parameters(name):
    assert MODELS.get(f'densevit.{name}') is HEADS[name][0]
    theirs, ours = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
