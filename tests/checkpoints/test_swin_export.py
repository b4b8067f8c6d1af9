"""Swin's way back: to the official names, to mmsegmentation's and mmdetection's, to timm's and transformers'."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from densevit.checkpoints import CheckpointError, export_weights, load_weights
from densevit.checkpoints.origins import ORIGINS, Origin, to_ours
from densevit.checkpoints.swin import is_derived, is_official_v2
from tests.backbones.contract import fill, images
from tests.checkpoints.swin_peers import (
    LABELS,
    NORMS,
    OUTSIDE,
    SIZE,
    TRUNK,
    mm_backbone,
    ours,
    prepared,
    timm_classifier,
    transformers_model,
)

CYCLE = 251  # a prime: no two rows or columns of a matrix are equal


def origin(label: str) -> Origin:
    return next(known for known in ORIGINS if known.label == label)


def official(shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """The parameters of a manifest, a byte each."""
    return {
        name: torch.from_numpy(np.resize(np.arange(CYCLE, dtype=np.uint8), int(np.prod(shape)))).reshape(shape)
        for name, shape in shapes.items()
        if not is_derived(name)
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def test_every_published_model_returns_bit_by_bit(shared_facts):
    paths = [*shared_facts.glob('manifests/swin_*.json'), *shared_facts.glob('manifests/swinv2_*.json')]
    assert len(paths) == 23
    for path in paths:
        tensors = official(json.loads(path.read_text()))
        family = 'Swin V2' if path.stem.startswith('swinv2') else 'Swin'
        found = to_ours(tensors)
        assert found.origin == f'{family}, official'
        assert same(origin(f'{family}, official').export(found.tensors), tensors), path.stem
        # nothing is copied
        assert {t.data_ptr() for t in found.tensors.values()} == {t.data_ptr() for t in tensors.values()}
        if family == 'Swin':
            trunk = {name: t for name, t in found.tensors.items() if name.startswith('backbone.')}
            mm = origin('Swin, mm').export(found.tensors)
            assert len(mm) == len(trunk) == len(tensors) - OUTSIDE
            again = to_ours(mm)
            assert (again.origin, again.derived) == ('Swin, mm', ())
            assert same(again.tensors, trunk), path.stem
            merging = 'backbone.{}.0.downsample.reduction.weight'
            assert not torch.equal(mm[merging.format('stages')], trunk[merging.format('layers')])


def test_version_2_has_no_way_to_mm():
    with pytest.raises(CheckpointError, match='no mm names of Swin V2, as neither mmsegmentation nor mmdetection has'):
        export_weights(ours(2, 'backbone'), 'mm')


@pytest.mark.parametrize('kind', ['classifier', 'backbone', 'segmentor'])
@pytest.mark.parametrize('version', LABELS)
def test_every_kind_of_model_returns_from_every_origin(version, kind):
    tensors = fill(ours(version, kind)).state_dict()
    if kind == 'backbone':
        tensors = {f'backbone.{name}': t for name, t in tensors.items()}
    exported = {
        key: origin(f'{LABELS[version]}, {key}').export(tensors)
        for key in ('official', 'timm', 'transformers', 'mm')
        if (version, key) != (2, 'mm')
    }
    for key, theirs in exported.items():
        found = to_ours(theirs)
        expected = tensors
        if key == 'timm' or (version, key) == (2, 'transformers'):
            expected = {name: t for name, t in tensors.items() if not name.startswith('backbone.norm')}
        elif key == 'mm':
            expected = {name: t for name, t in tensors.items() if not name.startswith(('pool.', 'head.'))}
        # a dense model of version 1 has the official names; only the prefix of a backbone alone is lost
        if found.origin == 'densevit':
            assert (version, key) == (1, 'official') and kind != 'classifier'
            found = to_ours({f'backbone.{name.removeprefix("backbone.")}' if kind == 'backbone' else name: t
                             for name, t in theirs.items()})  # fmt: skip
        else:
            assert found.origin == f'{LABELS[version]}, {key}'
        assert same(found.tensors, expected), key
        assert not any(is_derived(name) for name in theirs)
    assert all(name.startswith('backbone.') != (kind != 'segmentor') for name in exported['official']
               if not name.startswith('decode_head.'))  # fmt: skip
    assert is_official_v2(exported['official']) == (version == 2)


@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_mm_takes_the_export(package):
    model = fill(ours(1, 'backbone'))
    tensors = origin('Swin, mm').export({f'backbone.{name}': t for name, t in model.state_dict().items()})
    peer = prepared(mm_backbone(package))
    rest = peer.load_state_dict({name.removeprefix('backbone.'): t for name, t in tensors.items()}, strict=False)
    assert len(tensors) == TRUNK[1] + NORMS
    assert not rest.unexpected_keys
    assert all(is_derived(name) for name in rest.missing_keys)
    x = images(2, 3, 67, 53).double()
    with torch.no_grad():
        torch.testing.assert_close(tuple(peer(x)), model(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('package', ['mmseg', 'mmdet'])
def test_mm_takes_the_export_by_its_own_loader(tmp_path, package):
    """As ``init_cfg`` of one of its configs does; mmdetection's loader asks for the prefix."""
    model = fill(ours(1, 'classifier'))
    torch.save(origin('Swin, mm').export(model.state_dict()), tmp_path / 'swin.pth')
    peer = mm_backbone(package)
    peer.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    if package == 'mmdet':
        from mmengine.config import ConfigDict

        peer.init_cfg = ConfigDict(peer.init_cfg)
        peer.convert_weights = False
    peer.init_weights()
    for name, tensor in origin('Swin, mm').export(model.state_dict()).items():
        assert torch.equal(peer.state_dict()[name.removeprefix('backbone.')], tensor.float()), name


@pytest.mark.parametrize('version', LABELS)
def test_timm_takes_the_export(version):
    model, peer = fill(ours(version, 'classifier')), prepared(timm_classifier(version))
    peer.load_state_dict(origin(f'{LABELS[version]}, timm').export(model.state_dict()))
    x = images(2, 3, *SIZE).double()
    with torch.no_grad():
        torch.testing.assert_close(peer(x), model(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('version', LABELS)
@pytest.mark.parametrize('kind', ['ForImageClassification', 'Backbone'])
def test_transformers_files_return(tmp_path, version, kind):
    from safetensors.torch import load_file

    prepared(transformers_model(version, kind)).save_pretrained(tmp_path)
    theirs = load_file(tmp_path / 'model.safetensors')
    exported = origin(f'{LABELS[version]}, transformers').export(to_ours(theirs).tensors)
    unused = {name: t for name, t in theirs.items() if name.startswith('swin.layernorm')} if kind == 'Backbone' else {}
    assert {name: t for name, t in exported.items() if name.startswith('layernorm')}.keys() == {
        name.removeprefix('swin.') for name in unused
    }
    exported = {name: t for name, t in exported.items() if not name.startswith('layernorm')} | unused
    assert same(exported, theirs)


def test_official_export_loads_as_before():
    for version in LABELS:
        model, other = fill(ours(version, 'classifier')), ours(version, 'classifier')
        report = load_weights(other, {'model': origin(f'{LABELS[version]}, official').export(model.state_dict())})
        assert (len(report.loaded), report.skipped, report.kept) == (TRUNK[version] + OUTSIDE, (), ())
        assert same(other.state_dict(), model.state_dict())
