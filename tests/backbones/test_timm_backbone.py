"""timm's models under the contract."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

import densevit
from densevit.backbones.timm_geometry import build_timm, create
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
        ('maxvit_tiny_rw_224', 'must be divisible by window'),
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
