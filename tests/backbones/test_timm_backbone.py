"""timm's models under the contract."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from mmengine.model import convert_sync_batchnorm
from timm.layers import resample_abs_pos_embed
from torch import nn

import densevit
from densevit.backbones.timm_build import build_timm
from densevit.backbones.timm_geometry import create
from densevit.backbones.timm_tables import interpolate_distances
from densevit.checkpoints import CheckpointError, load_weights
from tests.backbones.contract import fill, images

# One small variant of some families, the multiple to which images are padded, and the strides of its maps. docs/timm.md
# has the others.
FAMILIES = {
    'deit_tiny_distilled_patch16_224': (1, (16,) * 4),
    'cait_xxs24_224': (16, (16,) * 4),
    'pit_ti_224': (8, (8, 16, 32)),
    'twins_svt_small': (32, (4, 8, 16, 32)),
    'resnet18': (1, (4, 8, 16, 32)),
    'swin_tiny_patch4_window7_224': (4, (4, 8, 16, 32)),
}


@pytest.mark.parametrize('name', FAMILIES)
def test_maps_are_as_large_as_their_strides_say(name):
    with torch.device('meta'):
        model = densevit.TimmBackbone(name).eval()
        maps = model(torch.empty(2, 3, 67, 53))
    divisor, strides = FAMILIES[name]
    assert model.geometry.divisor == divisor
    assert model.out_strides == strides
    for m, channels, stride in zip(maps, model.out_channels, strides, strict=True):
        assert m.shape == (2, channels, math.ceil(67 / stride), math.ceil(53 / stride))
        assert m.is_contiguous()


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('crossvit_tiny_240', 'resizes every image'),
        ('convit_tiny', 'square images'),
        ('halonet26t', 'halo attention'),
        ('botnet26t_256', 'relative positions'),
        ('levit_128s', 'attention biases'),
        ('tnt_s_patch16_224', 'position tables'),
        ('maxvit_tiny_rw_224', 'multiples of 7'),
        ('resnet19', "did you mean 'resnet18'"),
        (18, 'no model 18'),
    ],
)
def test_what_cannot_be_trusted_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        densevit.TimmBackbone(name)


def test_a_native_size_gives_timms_numbers():
    model = fill(densevit.TimmBackbone('resnet18', out_indices=(0, 2, 4))).eval()
    reference = timm.create_model('resnet18').eval()
    reference.load_state_dict(model.timm_model.state_dict(), strict=False)
    x = images(2, 3, 67, 53)
    with torch.no_grad():
        expected = reference.forward_intermediates(x, indices=[0, 2, 4], intermediates_only=True)
        for m, e in zip(model(x), expected, strict=True):
            assert torch.equal(m, e)


@pytest.mark.parametrize('size', [(160, 224), (67, 53)])
def test_cait_equals_a_model_that_is_built_for_the_size(size):
    model = fill(densevit.TimmBackbone('cait_xxs24_224', out_indices=(0, 2))).eval()
    padded = [side + -side % 16 for side in size]
    rebuilt = timm.create_model('cait_xxs24_224', img_size=padded).eval()
    weights = {name: tensor for name, tensor in model.timm_model.state_dict().items()}
    grid = [side // 16 for side in padded]
    weights['pos_embed'] = resample_abs_pos_embed(weights['pos_embed'], grid, num_prefix_tokens=0)
    rebuilt.load_state_dict(weights, strict=False)
    x = images(1, 3, *size)
    with torch.no_grad():
        whole = torch.nn.functional.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        expected = rebuilt.forward_intermediates(whole, indices=[0, 2], intermediates_only=True)
        for m, e in zip(model(x), expected, strict=True):
            assert torch.equal(m, e)


@pytest.mark.parametrize(
    ('name', 'own', 'options'),
    [
        ('swin_tiny_patch4_window7_224', densevit.SwinTransformer, dict(window_size=7)),
        ('swinv2_tiny_window8_256', densevit.SwinTransformerV2, dict(window_size=8)),
        (
            'swinv2_tiny_window16_256',
            densevit.SwinTransformerV2,
            dict(window_size=16, pretrained_window_sizes=(16, 16, 16, 8)),
        ),
    ],
)
def test_swins_windows_are_those_of_its_dense_code(name, own, options):
    """timm shifts before it pads, so that one end of a row attends to the other, and not at all in the last stage."""
    arch = dict(depths=(1, 2, 1, 2), num_heads=(1, 2, 2, 4))
    model = fill(densevit.TimmBackbone(name, model_args=dict(embed_dim=8, **arch))).double().eval()
    reference = own(dict(embed_dims=8, **arch), **options).double().eval()
    load_weights(reference, model.timm_model.state_dict())
    for index in range(4):
        setattr(reference, f'norm{index}', torch.nn.Identity())  # which timm has not
    for size in ((67, 53), (20, 300)):
        x = images(1, 3, *size).double()
        with torch.no_grad():
            torch.testing.assert_close(model(x), reference(x), rtol=1e-9, atol=1e-9)


def test_mvitv2_resamples_its_relative_positions():
    """Each side by itself; timm would read rows of other distances from tables for 224 x 224 pixels."""
    model = fill(densevit.TimmBackbone('mvitv2_tiny')).double().eval()
    rebuilt = timm.create_model('mvitv2_tiny', img_size=160).double().eval()
    tables = dict(rebuilt.named_parameters())
    weights = {}
    for name, tensor in model.timm_model.state_dict().items():
        length = len(tables[name])
        if name.endswith('rel_pos_h'):
            length = (length + 1) * 96 // 160 - 1
        weights[name] = interpolate_distances(tensor, length) if 'rel_pos' in name else tensor
    for name, tensor in weights.items():  # timm builds tables for squares only, but reads others
        if name.endswith('rel_pos_h'):
            module = rebuilt.get_submodule(name.rpartition('.')[0])
            module.rel_pos_h = torch.nn.Parameter(tensor)
    rebuilt.load_state_dict(weights, strict=False)
    x = images(1, 3, 96, 160).double()
    with torch.no_grad():
        expected = tuple(rebuilt.forward_intermediates(x, intermediates_only=True))
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)
        assert [tuple(m.shape[2:]) for m in model(images(1, 3, 230, 300).double())][-1] == (8, 10)


def test_images_lower_than_the_coarsest_stride():
    """Of whose map PVT v2 takes patches, so that timm's refuses them."""
    model = fill(densevit.TimmBackbone('pvt_v2_b0')).eval()
    x = images(1, 3, 20, 70)
    with torch.no_grad():
        maps, padded = model(x), model(torch.nn.functional.pad(x, (0, 0, 0, 12)))
    for m, p, stride in zip(maps, padded, model.out_strides, strict=True):
        assert m.shape[2:] == (math.ceil(20 / stride), math.ceil(70 / stride))
        assert torch.equal(m, p[:, :, : m.shape[2]])


@pytest.mark.parametrize('name', ['tiny_vit_5m_224', 'efficientvit_m0'])
def test_weights_count_that_are_loaded_after_the_first_image(name):
    """timm keeps the attention biases of the first image in eval mode."""
    used, fresh = densevit.TimmBackbone(name).eval(), fill(densevit.TimmBackbone(name)).eval()
    x = images(1, 3, 67, 53)
    with torch.no_grad():
        used(x)
        used.load_state_dict(fresh.state_dict())
        for m, e in zip(used(x), fresh(x), strict=True):
            assert torch.equal(m, e)
    for _ in range(2):
        sum(m.sum() for m in used(x)).backward()


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_builds_where_no_gradients_are_computed(mode):
    with mode():
        model = densevit.TimmBackbone(
            'test_resnet', with_cp=True, model_args=dict(layers=(1, 1, 1, len(mode.__name__)))
        )
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == []


def test_swin_drops_no_paths_unless_asked():
    for rate, dropping in ((0.0, set()), (0.2, {0.2})):
        model = densevit.TimmBackbone(
            'swin_tiny_patch4_window7_224', drop_path_rate=rate, model_args=dict(embed_dim=8, num_heads=(1, 2, 2, 4))
        )
        rates = {round(module.drop_prob, 6) for module in model.modules() if hasattr(module, 'drop_prob')}
        assert {max(rates)} - {0.0} == dropping if rates else not dropping


@pytest.mark.parametrize(
    ('options', 'why'),
    [
        (dict(model_args=dict(in_chans=4)), "model_args has 'in_chans': give in_channels"),
        (dict(model_args=dict(out_indices=(1,))), "model_args has 'out_indices': give out_indices"),
        (dict(model_args=dict(num_classes=10)), "model_args has 'num_classes'"),
        (dict(model_args=dict(features_only=True)), "model_args has 'features_only'"),
        (dict(model_args=dict(checkpoint_path='a.pth')), "model_args has 'checkpoint_path': give init_cfg"),
        (dict(model_args='img_size=448'), "model_args='img_size=448' is no mapping"),
        (dict(model_args=dict(embed_dmi=16)), "timm cannot build 'test_vit': .*embed_dmi"),
        (dict(model_args=dict(embed_dim=18, num_heads=4)), "timm cannot build 'test_vit': .*divisible"),
        (dict(pretrained='a.pth'), "pretrained='a.pth' is neither True nor False; .*init_cfg="),
        (dict(in_channels=0), 'in_channels=0'),
    ],
    ids=str,
)
def test_arguments_that_cannot_be(options, why):
    with pytest.raises(ValueError, match=why):
        densevit.TimmBackbone('test_vit', **options)


def test_a_rate_of_drop_path_where_timm_has_none():
    with pytest.raises(ValueError, match="'vgg11' with drop_path_rate=0.1: it seems to have no stochastic depth"):
        densevit.TimmBackbone('vgg11', drop_path_rate=0.1)


def test_arguments_of_timms_models_need_not_be_hashable_and_are_not_changed():
    arguments = dict(layers=[1, 1, 1, 1], block_args=dict(attn_layer='se'))
    model = densevit.TimmBackbone('resnet18', model_args=arguments)
    assert arguments == dict(layers=[1, 1, 1, 1], block_args=dict(attn_layer='se'))
    assert any('se.fc1' in name for name, _ in model.named_parameters())


def test_tables_of_relative_positions_of_another_size_load():
    whole = fill(timm.create_model('mvitv2_tiny'))
    model = densevit.TimmBackbone('mvitv2_tiny', model_args=dict(img_size=160))
    report = load_weights(model, whole.state_dict())
    assert all('rel_pos_' in name for name in report.resized)
    assert len(report.resized) == 2 * 10


@pytest.mark.parametrize('name', ['pit_ti_224', 'deit_tiny_distilled_patch16_224', 'resnet18'])
def test_every_parameter_gets_a_gradient_or_is_frozen(name):
    model = densevit.TimmBackbone(name, out_indices=(0, 1)).train()
    sum(m.square().mean() for m in model(images(2, 3, 67, 53))).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_frozen_stages_and_norms():
    model = densevit.TimmBackbone('resnet18', frozen_stages=2, norm_eval=True).train()
    trainable = {name.split('.')[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {'layer2', 'layer3', 'layer4'}
    assert not any(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert not model.timm_model.layer1.training
    assert model.timm_model.layer2.training


def test_frozen_stem_of_a_column():
    model = densevit.TimmBackbone('cait_xxs24_224', frozen_stages=0, model_args=dict(depth=3))
    frozen = {name.split('.')[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'patch_embed', 'pos_embed'}
    assert model.timm_model.cls_token is None  # it joins behind the last map, and is not built


def test_parameters_of_maps_that_are_not_asked_for_are_frozen():
    """A norm that only one map passes would stop DistributedDataParallel where that map is not returned."""
    geometry = densevit.TimmBackbone('resnet18').geometry
    needs = [names - {'bn1.weight'} if index != 2 else names for index, names in enumerate(geometry.needs)]
    side = replace(geometry, needs=tuple(needs))
    assert not build_timm('resnet18', side, (1, 4)).bn1.weight.requires_grad
    assert build_timm('resnet18', side, (2, 4)).bn1.weight.requires_grad


@pytest.mark.parametrize('name', ['test_vit', 'pit_ti_224'])
def test_pretrained_weights_for_another_size_of_table(name, monkeypatch):
    whole = {}

    def fetched(model_name, arguments, *, num_classes=0, pretrained=False):
        model = create(model_name, arguments, num_classes=num_classes)
        if pretrained:
            whole.update(fill(model).state_dict())
        return model

    monkeypatch.setattr('densevit.backbones.timm_backbone.create', fetched)
    model = densevit.TimmBackbone(name, pretrained=True, model_args={'img_size': 288})
    assert not whole, 'building loads nothing'
    model.init_weights()
    for key, tensor in model.timm_model.state_dict().items():
        assert torch.equal(tensor, whole[key]) or (key == 'pos_embed' and name == 'pit_ti_224')


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*_, **__):
        raise OSError('no network')

    model = densevit.TimmBackbone('test_resnet', pretrained=True)
    monkeypatch.setattr('densevit.backbones.timm_backbone.create', offline)
    with pytest.raises(CheckpointError, match=r"could not load weights of 'test_resnet': no network; .*init_cfg="):
        model.init_weights()


def test_timms_own_files_load(tmp_path):
    whole = fill(timm.create_model('deit_tiny_distilled_patch16_224'))
    torch.save(whole.state_dict(), tmp_path / 'deit.pth')
    model = densevit.TimmBackbone('deit_tiny_distilled_patch16_224')
    report = load_weights(model, tmp_path / 'deit.pth')
    assert report.origin == 'timm'
    assert not report.kept
    assert {name.split('.')[1] for name in report.skipped} == {'norm', 'head', 'head_dist'}
    larger = densevit.TimmBackbone('deit_tiny_distilled_patch16_224', model_args={'img_size': (224, 320)})
    assert load_weights(larger, tmp_path / 'deit.pth').resized == ('timm_model.pos_embed',)


def test_images_of_other_channels():
    with pytest.raises(ValueError, match=r'\(1, 4, 64, 64\).*in_channels=4'):
        densevit.TimmBackbone('resnet18')(images(1, 4, 64, 64))


@pytest.mark.parametrize('name', ['test_efficientnet', 'test_resnet'])  # with activations in the norms, and without
def test_activations_survive_sync_bn(name):
    model = fill(densevit.TimmBackbone(name)).eval()
    x = images(2, 3, 67, 53)
    with torch.no_grad():
        expected = model(x)
        converted = convert_sync_batchnorm(model).eval()
        assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
        torch.testing.assert_close(converted(x), expected)


@pytest.mark.parametrize('name', [
    'swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256', 'swinv2_cr_tiny_224',
])  # fmt: skip
def test_windows_never_hold_both_ends_of_a_map(name):
    """The shifted windows of a map that they do not fill: 9 x 10."""
    model = fill(densevit.TimmBackbone(name, out_indices=(0,))).eval()
    (block,) = (m for m in model.modules() if hasattr(m, 'target_shift_size') and any(m.shift_size))
    x = images(1, 9, 10, block.dim).requires_grad_()
    block(x)[0, 0, 0].sum().backward()
    reached = x.grad[0].abs().amax(dim=-1) > 0
    assert reached[:3, :3].all()
    assert not reached[-1].any() and not reached[:, -1].any()
