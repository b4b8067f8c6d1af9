"""Weights reach the model that they are of, whole, or nothing is changed."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn

from densevit import (
    CvT,
    ImageClassifier,
    PatchConvNet,
    PyramidVisionTransformer,
    PyramidVisionTransformerV2,
    SwinTransformer,
    SwinTransformerV2,
)
from densevit.checkpoints import CheckpointError, LoadReport, load_weights
from densevit.checkpoints.origins import ORIGINS, family_of, to_ours
from tests.backbones.contract import fill
from tests.reference import filled_state_dict

ARCH = dict(embed_dims=16, depth=3)
FOUR = dict(embed_dims=(8, 16, 24, 32), depths=(1,) * 4, num_heads=(1,) * 4)
BACKBONES = {
    'PatchConvNet': lambda: PatchConvNet(ARCH),
    'PVT': lambda: PyramidVisionTransformer(FOUR, img_size=64),
    'PVT v2': lambda: PyramidVisionTransformerV2(FOUR),
    'CvT': lambda: CvT(dict(embed_dims=(8, 8, 8), depths=(1, 1, 1), num_heads=(1, 1, 1))),
    'Swin': lambda: SwinTransformer(dict(FOUR, embed_dims=8)),
    'Swin V2': lambda: SwinTransformerV2(dict(FOUR, embed_dims=8)),
}


def classifier(pool: str = 'learned', num_classes: int = 5) -> ImageClassifier:
    return ImageClassifier(PatchConvNet(ARCH), pool, num_classes)


class Segmentor(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.backbone = PatchConvNet(ARCH, **options)
        self.decode_head = nn.Conv2d(16, 4, 1)


def official(shared_facts, variant: str = 'S60', blocks: int = 3) -> dict[str, torch.Tensor]:
    """Official names with a tiny model's shapes: C from 384 to 16, three blocks, five classes."""
    shapes = json.loads((shared_facts / f'manifests/patchconvnet_{variant}.json').read_text())
    side = {384: 16, 192: 8, 96: 4, 48: 2, 1152: 48, 1000: 5}
    tiny = {}
    for name, shape in shapes.items():
        parts = name.split('.')
        if (parts[0] == 'blocks' and int(parts[1]) >= blocks) or (
            len(parts) == 3 and parts[0] == 'head' and int(parts[1]) >= 5
        ):
            continue
        tiny[name] = [side.get(n, n) for n in shape]
    return filled_state_dict(tiny)


def equal(model: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(t, tensors[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize('build', [classifier, Segmentor, lambda: PatchConvNet(ARCH)])
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_own_files_return(tmp_path, build, suffix):
    from safetensors.torch import save_file

    source, model = fill(build()), build()
    file = tmp_path / f'w.{suffix}'
    if suffix == 'pth':
        torch.save({'state_dict': source.state_dict(), 'meta': {}}, file)
    else:
        save_file(source.state_dict(), file)
    report = load_weights(model, file)
    assert equal(model, source.state_dict())
    assert set(report.loaded) == set(model.state_dict())
    assert report.origin == 'densevit'
    assert report.skipped == ()


@pytest.mark.parametrize('whole', [classifier, Segmentor])
def test_a_backbone_takes_its_part_of_a_whole_model(whole):
    source, model = fill(whole()), PatchConvNet(ARCH)
    report = load_weights(model, source.state_dict())
    assert equal(model, source.backbone.state_dict())
    assert set(report.loaded) == set(model.state_dict())
    assert set(report.skipped) == {name for name in source.state_dict() if not name.startswith('backbone.')}


@pytest.mark.parametrize('source', ['own', 'official'])
@pytest.mark.parametrize('pool', ['learned', 'average'])
def test_a_segmentor_takes_the_backbone_of_a_classifier(shared_facts, source, pool):
    tensors = official(shared_facts) if source == 'official' else fill(classifier(pool)).state_dict()
    model = fill(Segmentor())
    head = copy.deepcopy(model.decode_head.state_dict())
    report = load_weights(model, tensors)
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith('backbone.')}
    assert all(name.partition('.')[0] in ('pool', 'head') for name in report.skipped)
    assert len(report.loaded) + len(report.skipped) == len(tensors)
    assert equal(model.decode_head, head)
    other = PatchConvNet(ARCH)
    load_weights(other, tensors)
    assert equal(model.backbone, other.state_dict())


def test_official_names_by_value(shared_facts):
    tensors = official(shared_facts)
    model = classifier()
    load_weights(model, tensors)
    own = model.state_dict()
    for theirs, ours in {  # a few of each kind, by hand
        'cls_token': 'pool.cls_token',
        'patch_embed.proj.4.0.weight': 'backbone.patch_embed.convs.2.weight',
        'blocks.2.gamma_1': 'backbone.blocks.2.gamma',
        'blocks.1.norm1.bias': 'backbone.blocks.1.norm.bias',
        'blocks.1.attn.qkv_pos.0.weight': 'backbone.blocks.1.conv_in.weight',
        'blocks.1.attn.qkv_pos.2.weight': 'backbone.blocks.1.conv_depthwise.weight',
        'blocks.0.attn.qkv_pos.4.conv_reduce.weight': 'backbone.blocks.0.squeeze_excite.reduce.weight',
        'blocks.0.attn.qkv_pos.4.conv_expand.bias': 'backbone.blocks.0.squeeze_excite.expand.bias',
        'blocks.2.attn.qkv_pos.5.weight': 'backbone.blocks.2.conv_out.weight',
        'blocks_token_only.0.attn.k.weight': 'pool.attn.k.weight',
        'blocks_token_only.0.gamma_2': 'pool.gamma_2',
        'blocks_token_only.0.norm2.weight': 'pool.norm2.weight',
        'blocks_token_only.0.mlp.fc1.bias': 'pool.mlp.fc1.bias',
        'norm.weight': 'pool.norm.weight',
        'head.bias': 'head.bias',
    }.items():
        assert torch.equal(own[ours], tensors[theirs].float().reshape(own[ours].shape)), theirs


def test_official_heads_of_multi_are_stacked_by_number(shared_facts):
    tensors = official(shared_facts, 'S60_multi')
    tensors = dict(reversed(tensors.items()))
    # more than ten: sorted as text, 10 would stand before 2
    for k in range(5, 12):
        tensors[f'head.{k}.weight'], tensors[f'head.{k}.bias'] = torch.full((1, 16), float(k)), torch.tensor([k / 7])
    tensors['cls_token'] = torch.randn(1, 12, 16)
    model = classifier('learned_multi', 12)
    load_weights(model, tensors)
    for k in range(12):
        assert torch.equal(model.head.weight[k], tensors[f'head.{k}.weight'][0].float())
        assert model.head.bias[k] == tensors[f'head.{k}.bias'][0].float()


def test_blocks_behind_the_last_output_are_skipped(shared_facts):
    whole = fill(PatchConvNet(ARCH)).state_dict()
    short = PatchConvNet(ARCH, out_indices=(0, 1))
    report = load_weights(short, whole)
    assert equal(short, whole)
    assert {name.split('.')[1] for name in report.skipped} == {'2'}
    segmentor = Segmentor(out_indices=(1,))
    report = load_weights(segmentor, official(shared_facts))
    assert sum(name.startswith('backbone.blocks.2.') for name in report.skipped) == 13


@pytest.mark.parametrize('spoil', ['missing', 'unexpected', 'shape', 'other model', 'missing block'])
@pytest.mark.parametrize('kind', ['own', 'official'])
def test_what_does_not_fit_changes_nothing(shared_facts, kind, spoil):
    model = fill(classifier())
    tensors = official(shared_facts) if kind == 'official' else fill(classifier()).state_dict()
    tensors = {name: t + 1 for name, t in tensors.items()}
    name = {'official': 'blocks.1.attn.qkv_pos.5.bias', 'own': 'backbone.blocks.1.conv_out.bias'}[kind]
    ours = 'backbone.blocks.1.conv_out.bias'
    if spoil == 'missing':
        del tensors[name]
        message = f'1 missing .{ours}'
    elif spoil == 'unexpected':
        tensors['blocks.1.extra'] = torch.zeros(1)
        message = '1 unexpected .blocks.1.extra'
    elif spoil == 'shape':
        tensors[name] = torch.zeros(4)
        message = rf'1 of another shape .{ours} \(4,\) instead of \(16,\)'
    elif spoil == 'other model':
        tensors = {'conv1.weight': torch.zeros(3)}
        message = '1 unexpected .conv1.weight'
    else:
        tensors = {n: t for n, t in tensors.items() if 'blocks.2.' not in n}
        message = '13 missing .backbone.blocks.2'
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, tensors)
    assert equal(model, before)


def test_the_message_names_misspelt_tensors():
    tensors = {name.replace('gamma', 'gama'): t for name, t in PatchConvNet(ARCH).state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(PatchConvNet(ARCH), tensors)
    assert str(caught.value) == (
        'the checkpoint (densevit, 43 tensors) does not fit PatchConvNet: 3 missing (blocks.0.gamma, blocks.1.gamma, '
        'blocks.2.gamma); 3 unexpected (blocks.0.gama [near blocks.0.gamma], blocks.1.gama [near blocks.1.gamma], '
        'blocks.2.gama [near blocks.2.gamma]). Nothing was loaded; check that config and '
        'checkpoint are of the same model.'
    )


def test_the_message_lists_the_first_names_of_each_kind():
    own = PatchConvNet(ARCH).state_dict()
    tensors = {name: t for name, t in own.items() if not name.startswith('blocks.1.')}
    tensors |= {f'blocks.1.{letter}': torch.zeros(1) for letter in 'uvwxyz'}
    tensors['blocks.0.gamma'] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_weights(PatchConvNet(ARCH), tensors)
    assert str(caught.value) == (
        'the checkpoint (densevit, 36 tensors) does not fit PatchConvNet: 13 missing (blocks.1.gamma, '
        'blocks.1.norm.weight, blocks.1.norm.bias, blocks.1.conv_in.weight, blocks.1.conv_in.bias, ...); '
        '6 unexpected (blocks.1.u, blocks.1.v, blocks.1.w, blocks.1.x, blocks.1.y, ...); '
        '1 of another shape (blocks.0.gamma (3,) instead of (16,)). Nothing was loaded; check that config and '
        'checkpoint are of the same model.'
    )


@pytest.mark.parametrize('theirs', BACKBONES)
@pytest.mark.parametrize('ours', BACKBONES)
def test_weights_of_another_family_are_refused_in_one_sentence(ours, theirs):
    if ours == theirs:
        return
    model = BACKBONES[ours]()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=f'has weights of {theirs}, and the backbone of this .* is {ours}[.]'):
        load_weights(model, BACKBONES[theirs]().state_dict())
    assert equal(model, before)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = PatchConvNet(ARCH)
        self.rpn_head = nn.Conv2d(16, 4, 1)
        self.roi_head = nn.Conv2d(16, 4, 1)


@pytest.mark.parametrize('theirs, ours, words', [
    (Detector, Segmentor, 'that of a detector, and this Segmentor is a segmentor'),
    (Segmentor, Detector, 'that of a segmentor, and this Detector is a detector'),
    (Segmentor, classifier, 'that of a segmentor, and this ImageClassifier is a classifier'),
])  # fmt: skip
def test_weights_for_another_task_are_refused_in_one_sentence(theirs, ours, words):
    model = ours()
    with pytest.raises(CheckpointError, match=words) as error:
        load_weights(model, theirs().state_dict())
    assert 'backbone.blocks' not in str(error.value) and 'densevit.Pretrained' in str(error.value)


@pytest.mark.parametrize('build', [classifier, Segmentor, lambda: PatchConvNet(ARCH)])
def test_names_of_nobody(build):
    with pytest.raises(CheckpointError, match=r'the checkpoint \(of no known origin, 2 tensors\).*2 unexpected'):
        load_weights(build(), {'conv1.weight': torch.zeros(3), 'fc.bias': torch.zeros(3)})


@pytest.mark.parametrize('name', ['blocks.1.extra', 'extra', 'backbone.blocks.1.extra', 'norms.weight'])
@pytest.mark.parametrize('build', [Segmentor, lambda: PatchConvNet(ARCH)])
@pytest.mark.parametrize('source', ['own', 'official'])
def test_only_what_lies_behind_the_backbone_is_skipped(shared_facts, build, name, source):
    """Of a classifier that is pool and head: a tensor that merely has no place is an error, in dense models too."""
    tensors = official(shared_facts) if source == 'official' else fill(classifier()).state_dict()
    if source == 'official' and name.startswith('backbone.'):
        return  # then it would be a whole model's
    if source == 'own' and not isinstance(build(), Segmentor) and not name.startswith('backbone.'):
        assert name in load_weights(build(), tensors | {name: torch.zeros(1)}).skipped  # a head can have any name
        return
    with pytest.raises(CheckpointError, match=f'1 unexpected .*{name.removeprefix("backbone.")}'):
        load_weights(build(), tensors | {name: torch.zeros(1)})


@pytest.mark.parametrize('gone', ['blocks.1.gamma', 'decode_head.bias'])
def test_a_whole_model_needs_all_of_a_whole_model(gone):
    tensors = fill(Segmentor()).state_dict()
    gone = next(name for name in tensors if name.endswith(gone))
    with pytest.raises(CheckpointError, match=rf'1 missing \({gone}\)'):
        load_weights(Segmentor(), {name: tensor for name, tensor in tensors.items() if name != gone})


def test_a_backbone_alone_makes_no_classifier():
    with pytest.raises(
        CheckpointError, match=r'^the checkpoint \(densevit, 43 tensors\).*: 23 missing \(pool[^;]*\). Noth'
    ):
        load_weights(classifier(), PatchConvNet(ARCH).state_dict())


def test_names_of_two_origins(monkeypatch, shared_facts):
    """Nothing is guessed, and the message says how to decide."""
    tensors = official(shared_facts)
    twin = dataclasses.replace(ORIGINS[0], label='PatchConvNet, twin')
    monkeypatch.setattr('densevit.checkpoints.origins.ORIGINS', (*ORIGINS, twin))
    model = classifier()
    with pytest.raises(
        CheckpointError, match="of PatchConvNet, official and PatchConvNet, twin at once.*--from 'PatchC"
    ):
        load_weights(model, tensors)
    assert to_ours(tensors, 'PatchConvNet, twin').origin == 'PatchConvNet, twin'
    assert to_ours(tensors, 'densevit').tensors == tensors
    with pytest.raises(CheckpointError, match=r"'PatchConvNet, twins' is unknown; did you mean 'PatchConvNet, twin'\?"):
        to_ours(tensors, 'PatchConvNet, twins')


def test_origins_have_names_of_their_own():
    labels = [origin.label for origin in ORIGINS]
    assert len(set(labels)) == len(labels)
    assert all(origin.label == f'{origin.family}, {origin.key}' for origin in ORIGINS)
    assert {family_of(BACKBONES[family]().state_dict()) for family in BACKBONES} == set(BACKBONES)
    for family, build in BACKBONES.items():
        own = build().state_dict()
        for names in (own, {f'backbone.{name}': tensor for name, tensor in own.items()}):
            assert family_of(names) == family
            assert to_ours(names).origin == 'densevit'
    assert family_of(nn.Linear(2, 3).state_dict()) is None


def test_a_file_for_more_classes(shared_facts):
    with pytest.raises(CheckpointError, match=r'head\.weight \(5, 16\) instead of \(9, 16\)'):
        load_weights(classifier(num_classes=9), official(shared_facts))


def test_new_classes_leave_out_the_rows_of_heads_only():
    tensors = fill(Segmentor()).state_dict()
    more = {**tensors, 'decode_head.weight': torch.zeros(9, 16, 1, 1), 'decode_head.bias': torch.zeros(9)}
    model = Segmentor()
    head = copy.deepcopy(model.decode_head.state_dict())
    with pytest.raises(CheckpointError, match='--new-classes'):
        load_weights(model, more)
    report = load_weights(model, more, new_classes=True)
    assert report.renewed == ('decode_head.weight', 'decode_head.bias') and report.kept == ()
    assert 'for new classes: decode_head.weight, decode_head.bias' in str(report)
    assert equal(model.decode_head, head)
    assert all(torch.equal(t, tensors[f'backbone.{name}']) for name, t in model.backbone.state_dict().items())
    # the same classes: nothing is left out
    assert load_weights(Segmentor(), tensors, new_classes=True).renewed == ()

    for name, spoilt in (
        ('decode_head.weight', torch.zeros(4, 8, 1, 1)),  # other channels
        ('decode_head.weight', torch.zeros(9, 16)),
        ('backbone.blocks.1.conv_out.bias', torch.zeros(4)),
    ):
        with pytest.raises(CheckpointError, match=name) as caught:
            load_weights(model, {**more, name: spoilt}, new_classes=True)
        assert '--new-classes' not in str(caught.value)
    with pytest.raises(CheckpointError, match='of another shape'):
        load_weights(PatchConvNet(ARCH), {**PatchConvNet(ARCH).state_dict(), 'blocks.1.gamma': torch.zeros(4)},
                     new_classes=True)  # fmt: skip


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_a_segmentor_takes_a_backbone_alone(prefix):
    source, model = fill(PatchConvNet(ARCH)), fill(Segmentor())
    head = copy.deepcopy(model.decode_head.state_dict())
    report = load_weights(model, {f'{prefix}{name}': t + 1 for name, t in source.state_dict().items()})
    assert all(torch.equal(t, source.state_dict()[name] + 1) for name, t in model.backbone.state_dict().items())
    assert equal(model.decode_head, head)
    assert report.kept == ('decode_head.weight', 'decode_head.bias')
    assert 'kept 2 as they were (decode_head.weight' in str(report)
    part = dict(list(source.state_dict().items())[1:])
    with pytest.raises(CheckpointError, match=r'1 missing \(backbone\.'):
        load_weights(model, part)


def test_report_as_text():
    """Every tensor of both sides is accounted for, in one line."""
    model = Segmentor()
    report = load_weights(model, fill(classifier()).state_dict())
    assert report.kept == ('decode_head.weight', 'decode_head.bias')
    assert str(report) == (
        'densevit: loaded 43 of 45 tensors, skipped 23 (pool.* 21, head.* 2), '
        'kept 2 as they were (decode_head.weight, decode_head.bias)'
    )
    assert len(model.backbone.state_dict()) == 43
    whole = LoadReport(
        'PVT, mm',
        loaded=('backbone.a', 'backbone.b.c', 'backbone.b.d'),
        skipped=('pool.a', 'pool.b', 'head.c', 'relative'),
        kept=('neck.a',),
        renewed=('bbox_head.a', 'bbox_head.b', 'bbox_head.c', 'bbox_head.d'),
        resized=('backbone.a', 'backbone.b.c', 'backbone.b.d', 'backbone.e'),
        completed=('backbone.a',),
    )
    assert str(whole) == (
        'PVT, mm: loaded 3 of 8 tensors, resized 4 (backbone.a, backbone.b.* 2, backbone.e), completed 1 with zeros '
        '(backbone.a), skipped 4 (pool.* 2, head.c, relative), kept 1 as they were (neck.a), for new classes: '
        'bbox_head.a, bbox_head.b, bbox_head.c, bbox_head.d'
    )
    assert str(LoadReport('densevit', ('a',))) == 'densevit: loaded 1 of 1 tensors'


def test_weights_keep_the_precision_of_the_model():
    model = PatchConvNet(ARCH).double()
    load_weights(model, {name: t.bfloat16() for name, t in fill(PatchConvNet(ARCH)).state_dict().items()})
    assert all(parameter.dtype == torch.float64 for parameter in model.parameters())


@pytest.mark.parametrize('kind', ['sparse', 'complex', 'whole numbers'])
def test_tensors_of_another_kind_change_nothing(kind):
    model = fill(PatchConvNet(ARCH))
    before = copy.deepcopy(model.state_dict())
    tensors = {name: t + 1 for name, t in before.items()}
    name = 'blocks.1.conv_in.weight'
    tensors[name] = {
        'sparse': tensors[name].to_sparse(),
        'complex': tensors[name].to(torch.complex64),
        'whole numbers': tensors[name].to(torch.int8),
    }[kind]
    with pytest.raises(CheckpointError, match=r'1 tensors .*blocks\.1\.conv_in\.weight'):
        load_weights(model, tensors)
    assert equal(model, before)


def test_two_sets_in_one_file_are_not_chosen_from():
    tensors = PatchConvNet(ARCH).state_dict()
    both = {**tensors, **{f'backbone.{name}': t + 1 for name, t in tensors.items()}}
    with pytest.raises(CheckpointError, match='twice, with and without'):
        load_weights(PatchConvNet(ARCH), both)
