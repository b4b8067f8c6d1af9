"""The adapters build other packages' models that compute the same as ours."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import nn

from densevit import fold
from densevit.benchmark import peers
from densevit.benchmark.measure import compare
from densevit.benchmark.models import Spec, Work, build, fold_peer, parse_spec
from densevit.benchmark.peers import PACKAGES, gradient_names, peers_of
from densevit.errors import UserError
from tests.benchmark.tiny import ARCH, SIZE, SWIN, detector, segmentor

PVT = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
CVT = dict(embed_dims=(8, 16, 24), depths=(1, 2, 3), num_heads=(1, 2, 3))
EVEN = dict(ARCH, depths=(2, 1, 1, 1))
CASES = {
    'swin mm': (f'SwinTransformer:{ARCH}', (67, 93), {'mmseg': 1, 'mmdet': 1}),
    # windows fill every map, as timm has it, and all maps are larger than a window, as the others have it
    'swin': (f'SwinTransformer:{ARCH},window_size=2', (128, 192), {'timm': 2, 'transformers': 1, 'torchvision': 1}),
    'swin v2': (
        f'SwinTransformerV2:{ARCH},window_size=2',
        (128, 192),
        {'timm': 1, 'transformers': 1, 'torchvision': 1},
    ),
    'pvt': (f'PyramidVisionTransformer:{PVT},img_size=(64, 64)', (64, 64), {'mmdet': 1, 'transformers': 1}),
    'pvt v2': (f'PyramidVisionTransformerV2:{PVT}', (64, 96), {'mmdet': 1, 'timm': 1, 'transformers': 1}),
    'cvt': (f'CvT:{CVT}', (64, 96), {'transformers': 2}),
    'patchconvnet': ("PatchConvNet:{'embed_dims': 16, 'depth': 3},out_indices=(0, 2)", (67, 53), {'plain': 1}),
}


@pytest.mark.parametrize('name', CASES)
def test_backbones_compute_the_same(name):
    text, size, packages = CASES[name]
    spec = parse_spec(text)
    model = build(spec)
    work = Work(spec, size, dtype='float64')
    found = {package: peers_of(package, spec, model, size) for package in packages}
    assert {package: len(variants) for package, variants in found.items()} == packages
    ours = work.outputs(fold(work.prepared(model)))
    for variants in found.values():
        for peer in variants:
            theirs = work.outputs(fold_peer(work.prepared(peer.model)))
            assert len(theirs) == len(ours) - peer.partial
            difference = compare({key: ours[key] for key in theirs}, theirs)
            assert difference.within('float64') != bool(peer.differs), f'{peer.label}: {difference}'


def test_timm_is_there_with_and_without_fused_attention():
    first, second = peers_of('timm', *_built(f'densevit.SwinTransformer:{ARCH},window_size=2'), (96, 128))
    flags = [
        {module.fused_attn for module in peer.model.modules() if hasattr(module, 'fused_attn')}
        for peer in (first, second)
    ]
    assert flags == [{False}, {True}]


def test_transformers_runs_its_fused_attention():
    (peer,) = peers_of('transformers', *_built(f'densevit.SwinTransformer:{ARCH},window_size=2'), (96, 128))
    assert peer.model.peer.config._attn_implementation == 'sdpa' and 'sdpa' in peer.label


def test_known_reasons_are_told():
    for cls in ('SwinTransformer', 'SwinTransformerV2'):
        for peer in peers_of('timm', *_built(f'densevit.{cls}:{ARCH},window_size=3'), SIZE):
            assert 'shifts before it pads' in peer.differs
    (peer,) = peers_of('torchvision', *_built(f'densevit.SwinTransformer:{ARCH},window_size=7'), SIZE)
    assert 'no larger than one' in peer.differs


def _built(text: str) -> tuple[Spec, nn.Module]:
    spec = parse_spec(text)
    return spec, build(spec)


@pytest.mark.parametrize('fast', [False, True])
def test_a_whole_segmentor(fast):
    spec = segmentor(fast)
    model = build(spec)
    (peer,) = peers_of('mmseg', spec, model, SIZE)
    assert not any(type(module).__module__.startswith('densevit') for module in peer.model.modules())
    work = Work(spec, SIZE, dtype='float64', out_size=(50, 70))
    ours = work.outputs(fold(work.prepared(model)))
    difference = compare(ours, work.outputs(fold_peer(work.prepared(peer.model))))
    assert difference.within('float64'), str(difference)


def test_gradients_of_a_whole_segmentor():
    spec = segmentor(fast=True)
    model = build(spec)
    (peer,) = peers_of('mmseg', spec, model, SIZE)
    work = Work(spec, SIZE, 2, train=True, dtype='float64')
    ours = gradient_names(work.gradients(work.prepared(model)), peer)
    theirs = work.gradients(work.prepared(peer.model))
    assert len(theirs) > 100
    difference = compare(ours, theirs)
    assert difference.within('float64'), str(difference)


@pytest.mark.parametrize('fast', [False, True])
def test_a_whole_detector(fast):
    spec = detector(fast)
    spec.config['test_cfg']['rcnn'].update(score_thr=0.01, max_per_img=20)
    model = build(spec)
    (peer,) = peers_of('mmdet', spec, model, SIZE)
    work = Work(spec, SIZE, dtype='float32')
    ours, theirs = work.outputs(fold(model)), work.outputs(peer.model)
    assert len(ours['scores']) == 20 and ours['masks'].shape == (20, *SIZE) and ours['masks'].any()
    difference = compare(ours, theirs)
    assert difference.within('float32'), str(difference)


def test_a_plain_trunk_takes_the_place_of_patchconvnet():
    spec = parse_spec('upernet_patchconvnet_ade20k').without_dropping()
    spec.config['backbone'].update(arch=dict(embed_dims=16, depth=2))
    spec.config['neck'].update(in_channels=16)
    spec.config['decode_head'].update(in_channels=[16] * 4, channels=16, num_classes=5)
    spec.config['auxiliary_head'].update(in_channels=16, channels=8, num_classes=5)
    model = build(spec)
    (peer,) = peers_of('mmseg', spec, model, SIZE)
    assert 'Plain' in type(peer.model.backbone).__name__
    work = Work(spec, SIZE)
    assert compare(work.outputs(model), work.outputs(peer.model)).within('float32')


@pytest.mark.parametrize(
    ('package', 'text', 'message'),
    [
        ('tim', f'densevit.SwinTransformer:{ARCH}', "'tim' is unknown; did you mean 'timm'"),
        ('torchvision', f'densevit.CvT:{CVT}', 'torchvision has no CvT'),
        ('mmseg', f'densevit.PyramidVisionTransformer:{PVT}', 'mmseg has no PyramidVisionTransformer'),
        ('plain', f'densevit.CvT:{CVT}', 'plain PatchConvNet only'),
        ('timm', f'densevit.SwinTransformer:{ARCH},out_indices=(1, 2)', 'all four maps'),
        ('transformers', f'densevit.PyramidVisionTransformer:{PVT}', 'img_size=64'),
    ],
)
def test_what_a_package_does_not_have(package, text, message):
    with pytest.raises(UserError, match=message):
        peers_of(package, *_built(text), SIZE)


def test_a_package_that_is_not_installed(monkeypatch):
    assert set(PACKAGES) == {'mmseg', 'mmdet', 'timm', 'transformers', 'torchvision', 'plain'}
    monkeypatch.setitem(sys.modules, 'transformers', None)
    monkeypatch.delitem(sys.modules, 'densevit.benchmark.peers.transformers', raising=False)
    with pytest.raises(UserError, match='needs a package that is not installed: `pip install transformers`'):
        peers_of('transformers', SWIN, build(SWIN), SIZE)
    assert importlib.import_module(peers.__name__) is peers


def test_a_segmentor_has_no_whole_twin_in_a_package_of_backbones():
    spec = segmentor()
    with pytest.raises(UserError, match='no whole segmentors'):
        peers_of('timm', spec, build(spec), SIZE)
    with pytest.raises(UserError, match='a config for mmseg'):
        peers_of('mmdet', spec, build(spec), SIZE)


def test_weights_of_the_peer_are_copies():
    """Folding a peer must not touch our weights."""
    spec = segmentor()
    model = build(spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (peer,) = peers_of('mmseg', spec, model, SIZE)
    fold_peer(peer.model)
    with torch.no_grad():
        for parameter in peer.model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
