"""PatchConvNet's official files: every variant is recognised, and the report accounts for every tensor."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from densevit import ImageClassifier, PatchConvNet
from densevit.checkpoints import CheckpointError, export_weights, load_weights
from densevit.checkpoints.origins import ORIGINS
from densevit.checkpoints.patchconvnet import from_official, to_official
from tests.backbones.contract import fill

ARCH = dict(embed_dims=16, depth=2)
PER_BLOCK = 13  # tensors


class Segmentor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = PatchConvNet(ARCH)
        self.decode_head = nn.Conv2d(16, 4, 1)


def classifier(pool: str = 'learned') -> ImageClassifier:
    return ImageClassifier(PatchConvNet(ARCH), pool, num_classes=5)


def official(pool: str = 'learned') -> dict[str, Tensor]:
    return export_weights(fill(classifier(pool)), 'official')


TRUNK = 4 + 2 * PER_BLOCK
BEHIND = 21 + 2  # aggregation and head


@pytest.mark.parametrize(
    ('build', 'pool', 'expected'),
    [
        (classifier, 'learned', f'loaded {TRUNK + BEHIND} of {TRUNK + BEHIND} tensors'),
        (lambda: classifier('learned_multi'), 'learned_multi', f'loaded {TRUNK + BEHIND} of {TRUNK + BEHIND} tensors'),
        (lambda: PatchConvNet(ARCH), 'learned', f'loaded {TRUNK} of {TRUNK} tensors, skipped 23 (pool.* 21, head.* 2)'),
        (
            lambda: PatchConvNet(ARCH, out_indices=(0,)),
            'learned_multi',
            f'loaded {TRUNK - PER_BLOCK} of {TRUNK - PER_BLOCK} tensors, '
            f'skipped {BEHIND + PER_BLOCK} (blocks.* 13, pool.* 21, head.* 2)',
        ),
        (
            Segmentor,
            'learned',
            f'loaded {TRUNK} of {TRUNK + 2} tensors, skipped 23 (pool.* 21, head.* 2), '
            'kept 2 as they were (decode_head.weight, decode_head.bias)',
        ),
    ],
)
def test_reports(build, pool, expected):
    model = build()
    report = load_weights(model, official(pool))
    assert str(report) == f'PatchConvNet, official: {expected}'
    trunk = fill(classifier(pool)).backbone.state_dict()
    for name, tensor in getattr(model, 'backbone', model).state_dict().items():
        assert torch.equal(tensor, trunk[name]), name


def test_a_whole_model_with_official_names():
    source, model = fill(Segmentor()), Segmentor()
    names = export_weights(source, 'official')
    assert 'backbone.blocks.1.attn.qkv_pos.4.conv_reduce.weight' in names and 'decode_head.bias' in names
    report = load_weights(model, names)
    assert (report.origin, report.skipped, report.kept) == ('PatchConvNet, official', (), ())
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_shapes_of_the_official_code():
    names = official()
    for name, shape in {
        'blocks.0.attn.qkv_pos.0.weight': (16, 16, 1, 1),
        'blocks.0.attn.qkv_pos.2.weight': (16, 1, 3, 3),
        'blocks.0.attn.qkv_pos.4.conv_reduce.weight': (4, 16, 1, 1),
        'blocks.0.attn.qkv_pos.4.conv_expand.weight': (16, 4, 1, 1),
        'blocks.0.attn.qkv_pos.5.weight': (16, 16, 1, 1),
        'blocks_token_only.0.attn.q.weight': (16, 16),
        'blocks_token_only.0.norm1.weight': (16,),
        'patch_embed.proj.6.0.weight': (16, 8, 3, 3),
        'norm.weight': (16,),
        'cls_token': (1, 1, 16),
    }.items():
        assert names[name].shape == shape, name


def test_conversions_keep_what_they_do_not_know():
    tensors = {'blocks.0.attn.other': torch.zeros(1), 'patch_embed.proj.5.0.weight': torch.zeros(1)}
    assert from_official(tensors) == tensors
    assert to_official({'neck.convs.0.weight': torch.zeros(2, 2)}).keys() == {'neck.convs.0.weight'}
    with pytest.raises(CheckpointError, match='2 unexpected'):
        load_weights(PatchConvNet(ARCH), official() | tensors)


def test_no_other_family_is_taken_for_patchconvnet(shared_facts):
    labels = {}
    for file in (shared_facts / 'manifests').glob('[!_]*.json'):
        names = {name: torch.empty(shape, device='meta') for name, shape in json.loads(file.read_text()).items()}
        labels[file.stem] = [origin.label for origin in ORIGINS if origin.recognises(names)]
    assert len(labels) > 40
    for name, found in labels.items():
        assert (found == ['PatchConvNet, official']) == name.startswith('patchconvnet'), name
