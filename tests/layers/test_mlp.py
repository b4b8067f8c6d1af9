"""The feed-forward layers against their formula, with the activations that the families have."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import QuickGELU
from torch import nn

from densevit.layers import Mlp
from tests.backbones.contract import fill

ACTIVATIONS = {
    nn.GELU: lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),  # exact, not the tanh approximation
    QuickGELU: lambda x: x * torch.sigmoid(1.702 * x),
    nn.ReLU: lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize('activation', ACTIVATIONS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize('shape', [(2, 7, 6), (2, 3, 5, 6)], ids=str)
def test_equals_the_formula(shape, activation):
    mlp = fill(Mlp(6, 10, activation)).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    hidden = ACTIVATIONS[activation](x @ mlp.fc1.weight.T + mlp.fc1.bias)
    expected, found = hidden @ mlp.fc2.weight.T + mlp.fc2.bias, mlp(x)
    torch.testing.assert_close(found, expected)
    target, inputs = torch.randn_like(x), [x, *mlp.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), inputs), torch.autograd.grad((expected * target).sum(), inputs)
    )


def test_exact_gelu_by_default():
    assert isinstance(Mlp(6, 10).act, nn.GELU)
    assert Mlp(6, 10).act.approximate == 'none'
    assert [tuple(p.shape) for p in Mlp(6, 10).parameters()] == [(10, 6), (10,), (6, 10), (6,)]


def test_a_hook_sees_the_whole_map():
    mlp, x, seen = Mlp(8, 4096), torch.randn(1, 40, 30, 8), []
    mlp.fc2.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        out = mlp(x)
    assert [each.shape for each in seen] == [x.shape]
    assert torch.equal(out, seen[0])
