"""Swin of either version from timm, transformers, torchvision and the mm packages has the same outputs as theirs."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import nn

from densevit.checkpoints import CheckpointError, load_weights
from densevit.checkpoints.origins import ORIGINS
from tests.backbones.contract import images
from tests.checkpoints.swin_peers import (
    BLOCKS,
    CLASSES,
    CLS,
    LABELS,
    NORMS,
    OUTSIDE,
    SIZE,
    TRUNK,
    counts,
    logits,
    mm_backbone,
    ours,
    prepared,
    saved,
    timm_classifier,
    torchvision_classifier,
    transformers_model,
)

# Package, builder, and how many derived tables its files of either version hold.
CLASSIFIERS = {
    'timm': (timm_classifier, {1: 0, 2: 0}),
    'transformers': (functools.partial(transformers_model, kind='ForImageClassification'), {1: 0, 2: 0}),
    'torchvision': (torchvision_classifier, {1: BLOCKS, 2: 2 * BLOCKS}),
}


@pytest.mark.parametrize('version', CLS)
@pytest.mark.parametrize('package', CLASSIFIERS)
def test_classifiers(tmp_path, package, version):
    build, tables = CLASSIFIERS[package]
    peer = prepared(build(version))
    file = saved(peer, tmp_path)
    derived = {'derived': tables[version]} if tables[version] else {}
    label = f'{LABELS[version]}, {package}'

    model = ours(version, 'classifier')
    report = load_weights(model, file)
    assert counts(report) == dict(origin=label, loaded=TRUNK[version] + OUTSIDE, kept=0, resized=0, **derived)
    x = images(2, 3, *SIZE).double()
    with torch.no_grad():
        expected = logits(peer, x)
        assert expected.std() > 0.01
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-10)

    # a dense model takes the trunk
    trunk = model.backbone.state_dict()
    for kind, kept in (('backbone', NORMS), ('segmentor', NORMS + 2)):
        dense = ours(version, kind)
        report = load_weights(dense, file)
        assert counts(report) == dict(
            origin=label, loaded=TRUNK[version], kept=kept, resized=0, classifier=OUTSIDE, **derived
        )
        own = getattr(dense, 'backbone', dense).state_dict()
        assert all(torch.equal(own[name], tensor) for name, tensor in trunk.items())


def test_torchvision_sets_the_bias_of_the_keys_to_zero():
    """So it may be left out: no logit depends on it."""
    peer = prepared(torchvision_classifier(2))
    x = images(1, 3, *SIZE).double()
    with torch.no_grad():
        before = peer(x)
        bias = peer.features[1][0].attn.qkv.bias
        bias[8:16] += 1
        torch.testing.assert_close(peer(x), before, rtol=0, atol=0)
        bias[16:] += 1
        assert (peer(x) - before).abs().max() > 1e-3


@pytest.mark.parametrize('version', CLS)
def test_timm_without_a_head_and_what_it_saved_before(version):
    """Until 0.9 timm merged where the official code does, and stored indices and masks."""
    timm = prepared(timm_classifier(version)).state_dict()
    tables = {'layers.0.blocks.0.attn.relative_position_index': torch.zeros(4, 4, dtype=torch.long)}
    headless = {name: t for name, t in timm.items() if not name.startswith('head.')} | tables
    dense = ours(version, 'backbone')
    report = load_weights(dense, headless)
    assert counts(report) == dict(
        origin=f'{LABELS[version]}, timm', loaded=TRUNK[version], kept=NORMS, resized=0, classifier=2, derived=1
    )
    with pytest.raises(CheckpointError, match=r'2 missing \(head'):
        load_weights(ours(version, 'classifier'), headless)

    early = {
        re.sub(r'(\d)\.downsample', lambda match: f'{int(match[1]) - 1}.downsample', name).replace('.fc.', '.'): t
        for name, t in timm.items()
    }
    model = ours(version, 'classifier')
    assert load_weights(model, early | tables).origin == f'{LABELS[version]}, official'
    assert all(torch.equal(dense.state_dict()[name], t) for name, t in model.backbone.state_dict().items())


@pytest.mark.parametrize('version', CLS)
def test_transformers_names_in_memory(tmp_path, version):
    """Of version 1 they are not those of the file."""
    peer = prepared(transformers_model(version, 'ForImageClassification'))
    one, other = ours(version, 'classifier'), ours(version, 'classifier')
    assert counts(load_weights(one, peer.state_dict())) == counts(load_weights(other, saved(peer, tmp_path)))
    assert all(torch.equal(other.state_dict()[name], t) for name, t in one.state_dict().items())


@pytest.mark.parametrize('version', CLS)
def test_transformers_models_without_a_head(tmp_path, version):
    dense = ours(version, 'backbone')
    report = load_weights(dense, saved(prepared(transformers_model(version, 'Model')), tmp_path))
    assert counts(report) == dict(
        origin=f'{LABELS[version]}, transformers', loaded=TRUNK[version], kept=NORMS, resized=0, classifier=2
    )
    with pytest.raises(CheckpointError, match=r'2 missing \(head'):
        load_weights(ours(version, 'classifier'), tmp_path / 'model.safetensors')


@pytest.mark.parametrize('size', [(64, 96), (67, 53), (33, 128)], ids=str)
def test_transformers_backbones(tmp_path, size):
    """They are dense: no window shrinks, what does not fill one is padded, and maps have norms."""
    peer = prepared(transformers_model(1, 'Backbone'))
    model = ours(1, 'backbone')
    report = load_weights(model, saved(peer, tmp_path))
    assert counts(report) == dict(origin='Swin, transformers', loaded=TRUNK[1] + NORMS, kept=0, resized=0, classifier=2)
    x = images(2, 3, *size).double()
    with torch.no_grad():
        torch.testing.assert_close(model(x), tuple(peer(x).feature_maps), rtol=1e-9, atol=1e-10)


def test_transformers_backbones_of_version_2_have_no_norms(tmp_path):
    peer = prepared(transformers_model(2, 'Backbone', (512, 512)))  # windows shrink to a smaller size, for good
    model = ours(2, 'backbone')
    report = load_weights(model, saved(peer, tmp_path))
    assert counts(report) == dict(origin='Swin V2, transformers', loaded=TRUNK[2], kept=NORMS, resized=0)
    x = images(2, 3, 67, 53).double()
    with torch.no_grad():
        for index, map_ in enumerate(peer(x).feature_maps):
            expected = getattr(model, f'norm{index}')(map_.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            torch.testing.assert_close(model(x)[index], expected, rtol=1e-9, atol=1e-10)


def test_a_segmentor_of_transformers_gives_its_backbone_alone():
    """Its heads have other names than mmsegmentation's, and are not dropped in silence."""
    backbone = {f'backbone.{name}': t for name, t in prepared(transformers_model(1, 'Backbone')).state_dict().items()}
    assert 'backbone.swin.layernorm.weight' in backbone
    tensors = backbone | {'decode_head.classifier.weight': torch.zeros(CLASSES, 64, 1, 1)}
    report = load_weights(ours(1, 'backbone'), tensors)
    assert report.origin == 'Swin, transformers'
    assert (len(report.loaded), report.kept) == (TRUNK[1] + NORMS, ())
    assert set(report.skipped) == {
        'backbone.swin.layernorm.weight', 'backbone.swin.layernorm.bias', 'decode_head.classifier.weight',
    }  # fmt: skip
    with pytest.raises(CheckpointError, match='1 unexpected .decode_head.classifier.weight'):
        load_weights(ours(1, 'segmentor'), tensors)


@pytest.mark.parametrize('prefix', ['', 'backbone.'], ids=['alone', 'prefixed'])
@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_mm_backbones(tmp_path, package, prefix):
    peer = prepared(mm_backbone(package))
    tensors = {prefix + name: tensor for name, tensor in peer.state_dict().items()}
    torch.save(dict(state_dict=tensors, meta={}), tmp_path / 'epoch_1.pth')
    for kind, kept in (('backbone', 0), ('segmentor', 2)):
        model = ours(1, kind)
        report = load_weights(model, tmp_path / 'epoch_1.pth')
        assert counts(report) == dict(origin='Swin, mm', loaded=TRUNK[1] + NORMS, kept=kept, resized=0, derived=BLOCKS)
        x = images(2, 3, 67, 53).double()
        with torch.no_grad():
            maps = getattr(model, 'backbone', model)(x)
            torch.testing.assert_close(maps, tuple(peer(x)), rtol=1e-9, atol=1e-10)
    with pytest.raises(CheckpointError, match=r'4 missing \(pool.norm.weight'):
        load_weights(ours(1, 'classifier'), tensors)


@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_mm_with_heads_beside_the_backbone(package):
    peer, head = prepared(mm_backbone(package)).state_dict(), nn.Conv2d(64, CLASSES, 1).double().state_dict()
    tensors = {f'backbone.{name}': t for name, t in peer.items()} | {
        f'decode_head.{name}': t for name, t in head.items()
    }
    model = ours(1, 'segmentor')
    report = load_weights(model, tensors)
    assert counts(report) == dict(origin='Swin, mm', loaded=TRUNK[1] + NORMS + 2, kept=0, resized=0, derived=BLOCKS)
    assert torch.equal(model.decode_head.weight, head['weight'])
    merging = 'layers.2.downsample.reduction.weight'
    assert not torch.equal(model.backbone.get_parameter(merging), peer['stages.2.downsample.reduction.weight'])


def test_version_2_in_the_manner_of_mm_is_refused():
    tensors = {
        'backbone.' + name.replace('layers.', 'stages.').replace('.attn.', '.attn.w_msa.'): tensor
        for name, tensor in ours(2, 'backbone').state_dict().items()
    }
    with pytest.raises(CheckpointError, match='neither mmsegmentation nor mmdetection has Swin V2'):
        load_weights(ours(2, 'backbone'), tensors)


def test_no_two_origins_claim_the_same_names():
    files = {
        'timm': timm_classifier,
        'torchvision': torchvision_classifier,
        'transformers': functools.partial(transformers_model, kind='ForImageClassification'),
    }
    for version in CLS:
        for package, build in files.items():
            names = build(version).state_dict()
            assert [o.label for o in ORIGINS if o.recognises(names)] == [f'{LABELS[version]}, {package}']
        for kind in ('classifier', 'backbone', 'segmentor'):
            names = ours(version, kind).state_dict()
            assert not [o.label for o in ORIGINS if o.recognises(names)]
    names = mm_backbone('mmseg').state_dict()
    assert [o.label for o in ORIGINS if o.recognises(names)] == ['Swin, mm']


def test_an_incomplete_file_of_transformers_is_refused():
    tensors = transformers_model(1, 'ForImageClassification').state_dict()
    del tensors['swin.encoder.layers.2.blocks.1.attention.k_proj.weight']
    with pytest.raises(CheckpointError, match=r'1 missing .*blocks\.1\.attn\.qkv\.weight.*2 unexpected'):
        load_weights(ours(1, 'classifier'), tensors)


@pytest.mark.parametrize('package', CLASSIFIERS)
def test_the_dtype_is_kept_and_unknown_names_stay(package):
    tensors = {name: t.half() for name, t in CLASSIFIERS[package][0](2).state_dict().items() if t.is_floating_point()}
    (origin,) = (origin for origin in ORIGINS if origin.label == f'Swin V2, {package}')
    converted = origin.convert({**tensors, 'extra.weight': torch.zeros(1).half()})
    assert {tensor.dtype for tensor in converted.values()} == {torch.half}
    assert 'extra.weight' in converted
