"""Activations equal their formulas, and overwrite their input only where no gradient can be asked for."""

from __future__ import annotations

import math

import pytest
import torch

from densevit.layers.activation import QuickGELU, gelu_

FORMULAS = {
    gelu_: lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    QuickGELU(): lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize('activation', FORMULAS, ids=['gelu', 'quick'])
def test_equals_its_formula(activation):
    x = (3 * torch.randn(2, 5, 7, dtype=torch.float64)).requires_grad_()
    expected = FORMULAS[activation](x)
    found = activation(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    target = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), x),
        torch.autograd.grad((expected * target).sum(), x),
        rtol=1e-10,
        atol=1e-12,
    )
    with torch.no_grad():
        mine = x.clone()
        torch.testing.assert_close(activation(mine), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('activation', FORMULAS, ids=['gelu', 'quick'])
def test_overwrites_without_gradients_only(activation):
    x = torch.randn(5, 7)
    before = x.clone()
    assert activation(x) is not x
    assert torch.equal(x, before)
    with torch.inference_mode():
        mine = before.clone()
        assert activation(mine).data_ptr() == mine.data_ptr()


def test_quick_gelu_stores_one_tensor():
    sizes = []
    x = torch.randn(5, 7, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        QuickGELU()(x)
    assert sum(sizes) == x.numel()
