"""What is built from a name, with which weights and for which work."""

from __future__ import annotations

import copy

import pytest
import torch

from densevit.benchmark.models import Spec, Work, build, images, is_twin, parse_spec
from densevit.errors import UserError
from tests.benchmark.tiny import SIZE, SWIN, segmentor


def test_backbones_by_name():
    spec = parse_spec('densevit.SwinTransformer:T,window_size=12,out_indices=(0, 2)')
    assert spec.kind == 'backbone'
    assert spec.config == dict(type='densevit.SwinTransformer', arch='T', window_size=12, out_indices=(0, 2))
    assert parse_spec('CvT').config == dict(type='densevit.CvT')
    assert parse_spec('CvT:13').config['arch'] == '13'
    spec = parse_spec('TimmBackbone:resnet50,out_indices=(-1,)')
    assert spec.config == dict(type='densevit.TimmBackbone', model_name='resnet50', out_indices=(-1,))
    arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    assert parse_spec(f'densevit.SwinTransformer:{arch},window_size=4').config['arch'] == arch


def test_configs_by_name():
    assert (parse_spec('upernet_swin_ade20k').kind, parse_spec('upernet_swin_ade20k').scope) == ('segmentor', 'mmseg')
    assert (parse_spec('mask_rcnn_swin_coco').kind, parse_spec('mask_rcnn_swin_coco').scope) == ('detector', 'mmdet')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('upernet_swim_ade20k', 'upernet_swin_ade20k'),
        ('densevit.SwinTransfomer:T', "did you mean 'densevit.SwinTransformer'"),
        ('densevit.SwinTransformer:T,windo_size=7', "no argument 'windo_size'; did you mean 'window_size'"),
    ],
)
def test_names_that_are_not_there(text, message):
    with pytest.raises(UserError, match=message):
        parse_spec(text)


def test_arguments_that_a_model_refuses():
    with pytest.raises(UserError, match="SwinTransformer:X.*has no arch 'X'"):
        build(parse_spec('densevit.SwinTransformer:X'))


def test_dropping_is_off_and_the_given_spec_is_not_changed():
    spec = parse_spec('upernet_swin_ade20k')
    before = copy.deepcopy(spec.config)
    calm = spec.without_dropping()
    assert spec.config == before and before['backbone']['drop_path_rate'] == 0.3
    assert 'drop_path_rate' not in calm.config['backbone']
    assert calm.config['decode_head']['dropout_ratio'] == calm.config['auxiliary_head']['dropout_ratio'] == 0


def test_our_own_parts_take_the_place_of_theirs():
    spec = parse_spec('upernet_swin_ade20k').with_fast_parts(winograd=True)
    assert spec.config['decode_head']['type'] == 'densevit.UPerHead' and spec.config['decode_head']['winograd']
    assert spec.config['type'] == 'densevit.EncoderDecoder'
    assert spec.config['data_preprocessor']['type'] == 'SegDataPreProcessor'
    assert is_twin('MaskRCNN') and not is_twin('SwinTransformer')
    with pytest.raises(UserError, match='--winograd'):
        parse_spec('densevit.SwinTransformer:T').with_fast_parts(winograd=True)


def test_weights_depend_on_the_seed_alone():
    first, again, other = (build(segmentor(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert not torch.equal(first['decode_head.conv_seg.weight'], other['decode_head.conv_seg.weight'])
    assert not torch.equal(first['decode_head.fpn_bottleneck.bn.running_mean'],
                           other['decode_head.fpn_bottleneck.bn.running_mean'])  # fmt: skip


def test_statistics_fit_the_activations():
    model = build(segmentor())
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) > 8
    assert all(norm.momentum == 0.1 and not norm.training for norm in norms)
    assert all(norm.running_mean.abs().max() > 1e-3 and not torch.equal(norm.running_var, torch.ones_like(norm.bias))
               for norm in norms)  # fmt: skip


def test_work_of_a_backbone_and_of_a_segmentor():
    model = build(SWIN)
    maps = Work(SWIN, SIZE, 2).outputs(model)
    assert [tuple(m.shape[:2]) for m in maps.values()] == [(2, 8), (2, 16), (2, 32), (2, 64)]
    work = Work(segmentor(), SIZE, out_size=(50, 70))
    found = work.outputs(work.prepared(build(segmentor())))
    assert found['logits'].shape == (1, 5, *SIZE)
    assert found['label_map'].shape == (1, 1, 50, 70) and len(found['label_map'].unique()) > 1


def test_a_training_step_changes_the_weights_and_gradients_do_not():
    work = Work(segmentor(), SIZE, 2, train=True)
    model = work.prepared(build(segmentor()))
    before = copy.deepcopy(model.state_dict())
    found = work.gradients(model)
    assert set(found) == {'loss', *(name for name, _ in model.named_parameters())}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(work.gradients(model)['loss'], found['loss'])
    work.runner(model)()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_work_that_cannot_be_done():
    with pytest.raises(UserError, match='tf32 is a mode of CUDA'):
        Work(SWIN, SIZE, dtype='tf32')
    with pytest.raises(UserError, match='batch 0'):
        Work(SWIN, SIZE, 0)


def test_images_are_smooth_with_noise():
    x = images(2, (64, 96))
    assert x.shape == (2, 3, 64, 96) and torch.equal(x, images(2, (64, 96)))
    assert (x[..., 1:] - x[..., :-1]).std() < 0.7 * x.std()


def test_bf16_is_autocast():
    work = Work(SWIN, SIZE, dtype='bf16')
    model = work.prepared(build(SWIN))
    assert next(model.parameters()).dtype == torch.float32
    exact = Work(SWIN, SIZE).outputs(model)['map3']
    apart = (work.outputs(model)['map3'] - exact).abs().max() / exact.abs().max()
    assert 1e-4 < apart < 0.1
    assert isinstance(SWIN, Spec)
