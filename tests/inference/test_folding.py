"""A folded model gives the same numbers and keeps the same checkpoint."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

import densevit
from densevit.inference import FoldedConvModule

CASES = {
    'conv': dict(kernel_size=3, padding=1, norm_cfg=dict(type='BN')),
    'strided groups': dict(kernel_size=3, stride=2, groups=2, norm_cfg=dict(type='BN'), act_cfg=dict(type='GELU')),
    'bias': dict(kernel_size=1, bias=True, norm_cfg=dict(type='BN'), act_cfg=None),
    'reflect': dict(kernel_size=3, padding=1, padding_mode='reflect', norm_cfg=dict(type='BN')),
    'circular': dict(kernel_size=3, padding=1, padding_mode='circular', norm_cfg=dict(type='BN'), inplace=False),
    'transposed': dict(kernel_size=2, stride=2, conv_cfg=dict(type='deconv'), norm_cfg=dict(type='BN')),
}
NOT_FOLDED = {
    'group norm': dict(kernel_size=1, norm_cfg=dict(type='GN', num_groups=2)),
    'no norm': dict(kernel_size=1),
    'other order': dict(kernel_size=1, norm_cfg=dict(type='BN'), order=('act', 'conv', 'norm')),
    'spectral norm': dict(kernel_size=1, norm_cfg=dict(type='BN'), with_spectral_norm=True),
    'no statistics': dict(kernel_size=1, norm_cfg=dict(type='BN', track_running_stats=False)),
    'transposed groups': dict(kernel_size=2, groups=2, conv_cfg=dict(type='deconv'), norm_cfg=dict(type='BN')),
}


def build(**cfg) -> nn.Sequential:
    """Two such modules with statistics as after training."""
    model = nn.Sequential(ConvModule(4, 6, **cfg), ConvModule(6, 4, **cfg)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, *module.parameters()):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 2)
    return model


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 4, 9, 12, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('name', CASES)
def test_same_numbers_and_back(name, layout, x):
    model = build(**CASES[name])
    x = x.contiguous(memory_format=layout)
    state, expected = copy.deepcopy(model.state_dict()), model(x)
    assert densevit.fold(model) is model
    assert isinstance(model[0], FoldedConvModule) and isinstance(model[1], ConvModule)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert _equal(model.state_dict(), state)
    assert densevit.unfold(model) is model
    assert type(model[0]) is ConvModule
    assert _equal(model.state_dict(), state)
    assert torch.equal(model(x), expected)


@torch.no_grad()
@pytest.mark.parametrize('name', NOT_FOLDED)
def test_leaves_other_modules_alone(name, x):
    model = build(**NOT_FOLDED[name])
    expected = model(x)
    densevit.fold(model)
    assert type(model[0]) is ConvModule
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize('flag', ['activate', 'norm'])
def test_flags_of_the_module(flag, x):
    module = build(**CASES['conv'])[0]
    with torch.no_grad():
        expected = module(x, **{flag: False})
        torch.testing.assert_close(densevit.fold(module)(x, **{flag: False}), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(copied, x):
    model = densevit.fold(build(**CASES['conv']))
    with torch.no_grad():
        expected = model(x)
        other = copied(model)
        assert isinstance(other[0], FoldedConvModule)
        assert torch.equal(other(x), expected)
        other[0].conv.weight.mul_(2)
        assert torch.equal(model(x), expected)


def test_follows_weights_and_dtype(x):
    model, other = densevit.fold(build(**CASES['conv'])), build(**CASES['conv'])
    with torch.inference_mode():
        model(x)
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model(x), other(x), rtol=0, atol=1e-12)
        assert model.float()(x.float()).dtype == torch.float32
        model.double()
        model[0].bn.running_mean.add_(1)
        densevit.fold(model)  # needed after a change in place
        other[0].bn.running_mean.copy_(model[0].bn.running_mean)
        torch.testing.assert_close(model(x), other.load_state_dict(model.state_dict()) and other(x), rtol=0, atol=1e-12)


def test_trains_after_folding(x):
    model, other = build(**CASES['conv']), build(**CASES['conv'])
    other.load_state_dict(model.state_dict())
    densevit.fold(model)
    model(x).sum().backward()  # eval mode with gradients
    other(x).sum().backward()
    with torch.no_grad():
        model(x)
    model.train()
    other.train()
    assert type(model[0]) is ConvModule and model[0].training and model[0].bn.training
    for each in (model, other):
        each(x).square().sum().backward()
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)


def test_someone_who_listens_still_hears(x):
    model = build(**CASES['conv'])
    heard = []
    model[0].conv.register_forward_hook(lambda *args: heard.append(args))
    with torch.no_grad():
        densevit.fold(model)(x)
    assert heard and type(model[0]) is ConvModule


def _equal(first: dict, second: dict) -> bool:
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)
