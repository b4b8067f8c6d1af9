"""Official Swin weights of both versions, into the classifier and into the dense backbone."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import Tensor, nn

from densevit.backbones.swin import SwinTransformer
from densevit.backbones.swin_v2 import SwinTransformerV2
from densevit.checkpoints import CheckpointError, load_weights
from densevit.checkpoints.swin import is_derived, is_official_v1, is_official_v2
from densevit.classifiers.image_classifier import ImageClassifier
from tests.backbones.contract import fill

C24 = dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(4, 8, 16, 32))
TINY = dict(embed_dims=8, depths=(2, 1, 1, 2), num_heads=(1, 2, 2, 4))


def config_of(variant: str) -> dict:
    """The backbone that a published file's name speaks of."""
    version, arch, c24, before, side = re.match(
        r'(swin|swinv2)_(\w)\w+?_(c24_)?patch4_window(?:(\d+)to)?(\d+)_', variant
    ).groups()
    config = dict(type='densevit.SwinTransformer', arch=C24 if c24 else arch.upper(), window_size=int(side))
    if version == 'swinv2':
        config['type'] += 'V2'
        config['pretrained_window_sizes'] = (12, 12, 12, 6) if before else (0, 0, 0, 0)
    return config


def manifests(shared_facts) -> dict[str, dict[str, list[int]]]:
    paths = [*shared_facts.glob('manifests/swin_*.json'), *shared_facts.glob('manifests/swinv2_*.json')]
    return {path.stem: json.loads(path.read_text()) for path in paths}


def test_every_published_model_fits(shared_facts):
    summary = json.loads((shared_facts / 'manifests/_summary.json').read_text())
    found = manifests(shared_facts)
    assert len(found) == 23
    for variant, shapes in found.items():
        with torch.device('meta'):
            official = {name: torch.empty(shape) for name, shape in shapes.items()}
            config, num_classes = config_of(variant), shapes['head.weight'][0]
            model = ImageClassifier(config, num_classes=num_classes)
            dense = ImageClassifier(config).backbone.__class__(**{k: v for k, v in config.items() if k != 'type'})
        derived = {name for name in shapes if is_derived(name)}
        assert len(derived) == summary[variant]['buffers'], variant

        report = load_weights(model, official)
        assert set(report.loaded) == set(model.state_dict()), variant
        assert set(report.skipped) == derived, variant
        assert report.kept == ()
        assert report.origin == ('Swin V2, official' if variant.startswith('swinv2') else 'Swin, official')
        assert len(report.loaded) + len(report.skipped) == summary[variant]['entries']
        assert sum(parameter.numel() for parameter in model.parameters()) == summary[variant]['params'], variant

        report = load_weights(dense, official)
        norms = {f'norm{index}.{kind}' for index in range(4) for kind in ('weight', 'bias')}
        assert set(report.kept) == norms
        assert set(report.loaded) == set(dense.state_dict()) - norms
        assert set(report.skipped) - derived == {'pool.norm.weight', 'pool.norm.bias', 'head.weight', 'head.bias'}
        assert derived <= set(report.skipped)


def test_tables_never_shrink_with_the_map(shared_facts):
    """No published map of version 1 is smaller than its window, so every table is that of the full window."""
    for variant, shapes in manifests(shared_facts).items():
        tables = {tuple(shape)[0] for name, shape in shapes.items() if name.endswith('relative_position_bias_table')}
        side = config_of(variant)['window_size']
        assert tables == (set() if variant.startswith('swinv2') else {(2 * side - 1) ** 2})


def official(kind: str) -> tuple[dict[str, Tensor], ImageClassifier]:
    """Weights with the official names, tables included, and the model that they were made from."""
    model = fill(ImageClassifier(dict(type=f'densevit.{kind}', arch=TINY), num_classes=5))
    tensors = {re.sub(r'^(backbone|pool)\.', '', name): tensor for name, tensor in model.state_dict().items()}
    for name in list(tensors):
        if name.endswith('logit_scale'):
            tensors[name] = tensors[name][:, None, None]
        elif name.endswith('qkv.weight'):
            tensors[name.replace('qkv.weight', 'relative_position_index')] = torch.zeros(49, 49, dtype=torch.long)
    tensors['layers.0.blocks.1.attn_mask'] = torch.zeros(4, 49, 49)
    return tensors, model


KINDS = [SwinTransformer, SwinTransformerV2]


@pytest.mark.parametrize('cls', KINDS)
def test_values_arrive(cls):
    tensors, source = official(cls.__name__)
    model = ImageClassifier(dict(type=f'densevit.{cls.__name__}', arch=TINY), num_classes=5)
    load_weights(model, {'model': tensors})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name

    dense = cls(TINY, out_indices=(0, 2))
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    report = load_weights(dense, tensors)
    assert set(report.kept) == {'norm0.weight', 'norm0.bias', 'norm2.weight', 'norm2.bias'}
    assert any(name.endswith('layers.2.downsample.reduction.weight') for name in report.skipped)
    for name, tensor in dense.state_dict().items():
        expected = before[name] if name in report.kept else source.state_dict()[f'backbone.{name}']
        assert torch.equal(tensor, expected), name


class Segmentor(nn.Module):
    def __init__(self, cls: type) -> None:
        super().__init__()
        self.backbone = cls(TINY)
        self.decode_head = nn.Conv2d(64, 4, 1)


@pytest.mark.parametrize('cls', KINDS)
def test_a_segmentor_takes_a_classifiers_backbone(cls):
    tensors, source = official(cls.__name__)
    model = Segmentor(cls)
    report = load_weights(model, tensors)
    assert {name.split('.')[-2] for name in report.kept} == {'decode_head', 'norm0', 'norm1', 'norm2', 'norm3'}
    own = model.state_dict()
    assert all(torch.equal(own[name], source.state_dict()[name]) for name in report.loaded)


def test_official_segmentors_have_our_names_and_tables_beside():
    source = fill(Segmentor(SwinTransformer))
    tensors = dict(source.state_dict())
    for name in list(tensors):
        if name.endswith('qkv.weight'):
            tensors[name.replace('qkv.weight', 'relative_position_index')] = torch.zeros(49, 49, dtype=torch.long)
    for model in (Segmentor(SwinTransformer), SwinTransformer(TINY)):
        report = load_weights(model, {'state_dict': tensors, 'meta': {}})
        assert report.origin == 'Swin, official'
        assert report.kept == ()
        assert set(report.loaded) == set(model.state_dict())
    assert torch.equal(model.norm3.weight, source.backbone.norm3.weight)


@pytest.mark.parametrize('cls', KINDS)
def test_own_files_are_not_taken_for_official_ones(cls):
    classifier = ImageClassifier(dict(type=f'densevit.{cls.__name__}', arch=TINY))
    for model in (cls(TINY), classifier, classifier.backbone, Segmentor(cls)):
        names = model.state_dict()
        assert not is_official_v1(names)
        assert not is_official_v2(names)
        assert not any(is_derived(name) for name in names)
        report = load_weights(model, names)
        assert (report.origin, report.skipped, report.kept) == ('densevit', (), ())


def test_versions_are_told_apart_by_name():
    first, second = (official(cls.__name__)[0] for cls in KINDS)
    assert [is_official_v1(first), is_official_v1(second)] == [True, False]
    assert [is_official_v2(first), is_official_v2(second)] == [False, True]


def test_other_heads_are_refused_by_name():
    tensors, _ = official('SwinTransformer')
    with pytest.raises(CheckpointError, match=r'relative_position_bias_table \(169, 1\) instead of \(169, 2\)'):
        load_weights(SwinTransformer(dict(TINY, num_heads=(2, 2, 2, 4))), tensors)


def test_the_other_version_is_refused():
    tensors, _ = official('SwinTransformerV2')
    with pytest.raises(CheckpointError, match=r'Swin V2, official.*has weights of Swin V2, and .* is Swin[.]'):
        load_weights(SwinTransformer(TINY), tensors)
