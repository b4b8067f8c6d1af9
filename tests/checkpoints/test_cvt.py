"""CvT's official files, transformers' copies and our own reach the model whole, with equal outputs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from densevit import CvT, ImageClassifier
from densevit.checkpoints import CheckpointError, export_weights, load_weights
from densevit.checkpoints.cvt import from_official, is_official, is_transformers
from tests.backbones.contract import fill, images
from tests.reference import filled_state_dict

ARCH = dict(embed_dims=(8, 16, 24), depths=(1, 1, 2), num_heads=(1, 2, 3))
OUTSIDE = {'pool.norm.weight', 'pool.norm.bias', 'head.weight', 'head.bias'}


class Segmentor(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.backbone = CvT(ARCH, **options)
        self.decode_head = nn.Conv2d(24, 4, 1)


def classifier() -> ImageClassifier:
    return ImageClassifier(CvT(ARCH), num_classes=5)


def official(shared_facts) -> dict[str, Tensor]:
    """Official names with the tiny model's depths and channels, five classes, and counters of 7 batches."""
    shapes = json.loads((shared_facts / 'manifests/cvt_13_224.json').read_text())
    side = {64: 8, 192: 16, 384: 24, 1000: 5}
    tiny = {}
    for name, shape in shapes.items():
        parts = name.split('.')
        if parts[1] == 'blocks' and int(parts[2]) >= ARCH['depths'][int(parts[0][-1])]:
            continue
        # the hidden channels of the feed-forward layers are four times those of their stage
        hidden = {} if 'mlp' not in name else {4 * wide: 4 * narrow for wide, narrow in side.items()}
        tiny[name] = [{**side, **hidden}.get(n, n) for n in shape]
    tensors = filled_state_dict({name: shape for name, shape in tiny.items() if not name.endswith('tracked')})
    return {name: tensors.get(name, torch.tensor(7)) for name in tiny}


def test_official_names_by_value(shared_facts):
    tensors, model = official(shared_facts), classifier()
    report = load_weights(model, tensors)
    assert report.origin == 'CvT, official'
    assert set(report.loaded) == set(model.state_dict())
    assert report.skipped == report.kept == ()
    own = model.state_dict()
    for theirs, ours in {
        'stage0.patch_embed.proj.weight': 'backbone.stage0.patch_embed.proj.weight',
        'stage1.patch_embed.norm.bias': 'backbone.stage1.patch_embed.norm.bias',
        'stage2.cls_token': 'backbone.stage2.cls_token',
        'stage2.blocks.1.norm1.weight': 'backbone.stage2.blocks.1.norm1.weight',
        'stage1.blocks.0.attn.conv_proj_k.conv.weight': 'backbone.stage1.blocks.0.attn.conv_proj_k.conv.weight',
        'stage0.blocks.0.attn.conv_proj_v.bn.running_var': 'backbone.stage0.blocks.0.attn.conv_proj_v.bn.running_var',
        'stage2.blocks.0.attn.proj_q.bias': 'backbone.stage2.blocks.0.attn.proj_q.bias',
        'stage2.blocks.0.attn.proj.weight': 'backbone.stage2.blocks.0.attn.proj.weight',
        'stage0.blocks.0.mlp.fc2.weight': 'backbone.stage0.blocks.0.mlp.fc2.weight',
        'norm.bias': 'pool.norm.bias',
        'head.weight': 'head.weight',
    }.items():
        assert torch.equal(own[ours], tensors[theirs].float()), theirs
    assert own['backbone.stage1.blocks.0.attn.conv_proj_q.bn.num_batches_tracked'] == 7


@pytest.mark.parametrize('build', [lambda: CvT(ARCH), Segmentor])
def test_a_dense_model_takes_the_backbone(shared_facts, build):
    tensors, model = official(shared_facts), build()
    report = load_weights(model, tensors)
    assert set(report.loaded) == {name for name in model.state_dict() if 'decode_head' not in name}
    assert set(report.skipped) == OUTSIDE
    backbone = getattr(model, 'backbone', model)
    assert torch.equal(backbone.stage2.cls_token, tensors['stage2.cls_token'].float())


def test_stages_that_are_not_built_are_skipped(shared_facts):
    tensors, model = official(shared_facts), CvT(ARCH, out_indices=(0, 1))
    report = load_weights(model, tensors)
    assert set(report.loaded) == set(model.state_dict())
    later = {name for name in tensors if name.startswith('stage2.')}
    assert set(report.skipped) == OUTSIDE | later


@pytest.mark.parametrize('wrapped', ['state_dict', 'module'])
def test_files_of_the_official_trainer(shared_facts, tmp_path, wrapped):
    tensors, model = official(shared_facts), classifier()
    content = {'state_dict': tensors, 'epoch': 3} if wrapped == 'state_dict' else {
        f'module.{name}': tensor for name, tensor in tensors.items()
    }  # fmt: skip
    torch.save(content, tmp_path / 'checkpoint.pth')
    assert load_weights(model, tmp_path / 'checkpoint.pth').origin == 'CvT, official'


def test_counters_may_be_absent_and_statistics_may_not(shared_facts):
    tensors = official(shared_facts)
    without = {name: tensor for name, tensor in tensors.items() if tensor.ndim}
    assert len(tensors) - len(without) == 3 * 4
    model = classifier()
    report = load_weights(model, without)
    assert len(report.completed) == 12 and all(name.endswith('num_batches_tracked') for name in report.completed)
    assert 'completed 12 with zeros (backbone.stage0.* 3, backbone.stage1.* 3, backbone.stage2.* 6)' in str(report)
    counters = [tensor for name, tensor in model.state_dict().items() if name.endswith('num_batches_tracked')]
    assert len(counters) == 12 and not any(counters)
    del without['stage1.blocks.0.attn.conv_proj_k.bn.running_mean']
    with pytest.raises(CheckpointError, match='conv_proj_k.bn.running_mean'):
        load_weights(classifier(), without)


def test_an_unknown_name_is_refused(shared_facts):
    tensors = official(shared_facts) | {'stage2.blocks.0.attn.proj_r.weight': torch.zeros(24, 24)}
    with pytest.raises(CheckpointError, match='1 unexpected.*proj_r'):
        load_weights(classifier(), tensors)
    assert 'extra.weight' in from_official({'extra.weight': torch.zeros(1)})


@pytest.mark.parametrize('build', [classifier, lambda: CvT(ARCH), Segmentor])
def test_own_files_are_not_taken_for_official_ones(tmp_path, build):
    source, model = fill(build()), build()
    torch.save(source.state_dict(), tmp_path / 'w.pth')
    report = load_weights(model, tmp_path / 'w.pth')
    assert report.origin == 'densevit'
    assert report.skipped == ()
    torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_only_cvt_is_recognised(shared_facts):
    manifests = sorted((shared_facts / 'manifests').glob('[!_]*.json'))
    assert len(manifests) > 40
    for manifest in manifests:
        names = json.loads(manifest.read_text())
        assert is_official(names) == manifest.name.startswith('cvt_'), manifest.name
        assert not is_transformers(names)


# ---------------------------------------------------------------------------------------------------- transformers
# its drop path rates need as many blocks in a stage as the stage's number
DEEPER = dict(ARCH, depths=(1, 2, 3))


class QuickGELU(nn.Module):
    """By its formula; transformers has an exact GELU, the weights were trained with this."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def peer(kind: str = 'ForImageClassification') -> nn.Module:
    transformers = pytest.importorskip('transformers')
    config = transformers.CvtConfig(
        embed_dim=[8, 16, 24], depth=[1, 2, 3], num_heads=[1, 2, 3], num_labels=5, drop_path_rate=[0.0, 0.0, 0.0]
    )
    model = fill(getattr(transformers, f'Cvt{kind}')(config))
    with torch.no_grad():
        for index, (name, buffer) in enumerate(model.named_buffers()):
            if 'running' in name:
                buffer.copy_(0.5 + images(*buffer.shape, seed=index) ** 2)
            else:
                buffer.fill_(index)  # batches
    for stage in getattr(model, 'cvt', model).encoder.stages:
        for layer in stage.layers:
            layer.intermediate.activation = QuickGELU()
    return model.double().eval()


@pytest.mark.parametrize(
    ('kind', 'target', 'skipped'),
    [
        ('ForImageClassification', 'classifier', ''),
        ('ForImageClassification', 'backbone', ', skipped 4 (pool.* 2, head.* 2)'),
        ('Model', 'backbone', ''),
    ],
)
def test_transformers_with_equal_outputs(kind, target, skipped):
    theirs = peer(kind)
    backbone = CvT(DEEPER)
    model = (ImageClassifier(backbone, num_classes=5) if target == 'classifier' else backbone).double().eval()
    count = len(model.state_dict())
    report = load_weights(model, theirs.state_dict())
    assert str(report) == f'CvT, transformers: loaded {count} of {count} tensors{skipped}'
    if target == 'classifier':
        peer().load_state_dict(export_weights(model, 'transformers'))  # all, and no more
    for size in ((64, 96), (67, 53)):
        x = images(2, 3, *size).double()
        with torch.no_grad():
            output = theirs(x, output_hidden_states=True)
            expected = output.logits if target == 'classifier' else output.hidden_states
            torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize('kind', ['ForImageClassification', 'Model'])
def test_transformers_below_a_prefix(kind):
    """As the backbone of a whole model."""
    theirs = {f'backbone.{name}': t for name, t in peer(kind).state_dict().items() if 'classifier' not in name}
    theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith('backbone.layernorm')}
    model = CvT(DEEPER)
    report = load_weights(model, theirs | {'decode_head.bias': torch.zeros(4)})
    assert (report.origin, report.skipped) == ('CvT, transformers', ('decode_head.bias',))
    assert set(report.loaded) == set(model.state_dict())


def test_transformers_names_by_value():
    theirs, model = peer().state_dict(), CvT(DEEPER).double()
    load_weights(model, theirs)
    block = 'cvt.encoder.stages.2.layers.1.'
    for name, tensor in {
        'attention.attention.convolution_projection_key.convolution_projection.convolution.weight': (
            model.stage2.blocks[1].attn.conv_proj_k.conv.weight
        ),
        'attention.attention.convolution_projection_query.convolution_projection.normalization.num_batches_tracked': (
            model.stage2.blocks[1].attn.conv_proj_q.bn.num_batches_tracked
        ),
        'attention.attention.projection_value.bias': model.stage2.blocks[1].attn.proj_v.bias,
        'attention.output.dense.weight': model.stage2.blocks[1].attn.proj.weight,
        'output.dense.weight': model.stage2.blocks[1].mlp.fc2.weight,
        'layernorm_after.bias': model.stage2.blocks[1].norm2.bias,
    }.items():
        assert torch.equal(tensor, theirs[block + name]), name
