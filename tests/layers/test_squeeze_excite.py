"""Squeeze-excite equals timm's module of that name."""

from __future__ import annotations

import pytest
import torch
from timm.layers import SqueezeExcite as TimmSqueezeExcite

from densevit.layers import SqueezeExcite, to_nchw, to_nhwc
from tests.backbones.contract import fill


@pytest.mark.parametrize('channels', [16, 20])
def test_equals_timm(channels):
    theirs = fill(TimmSqueezeExcite(channels, rd_channels=round(channels * 0.25))).double()
    ours = SqueezeExcite(channels, 0.25).double()
    ours.load_state_dict(
        {
            f'{mine}.{kind}': getattr(getattr(theirs, other), kind).flatten(1)
            if kind == 'weight'
            else getattr(getattr(theirs, other), kind)
            for mine, other in (('reduce', 'fc1'), ('expand', 'fc2'))
            for kind in ('weight', 'bias')
        }
    )
    a = torch.randn(2, 5, 7, channels, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    found, expected = ours(a), to_nhwc(theirs(to_nchw(b)))
    torch.testing.assert_close(found, expected)
    target = torch.randn_like(found)
    (found * target).sum().backward()
    (expected * target).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_there_is_always_a_hidden_channel():
    assert SqueezeExcite(1).reduce.out_features == 1
    assert SqueezeExcite(384).reduce.out_features == 96
