"""Linear layers with a neighbouring operation equal the two operations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densevit.layers import linear
from densevit.layers.linear import add_linear, is_plain, linear_gelu
from tests.backbones.contract import fill


@pytest.mark.parametrize('shape', [(2, 5, 7), (1, 1, 9), (0, 4, 4), (3,)], ids=str)
@pytest.mark.parametrize('contiguous', [True, False])
def test_add_linear(shape, contiguous):
    x, branch = torch.randn(*shape, 6, dtype=torch.float64), torch.randn(*shape, 10, dtype=torch.float64)
    weight, bias = torch.randn(6, 10, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    if not contiguous:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    before = x.clone()
    with torch.no_grad():
        found = add_linear(x, branch, weight, bias)
    torch.testing.assert_close(found, x + F.linear(branch, weight, bias), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)


def test_add_linear_under_autocast():
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(6, 6), torch.randn(6)
    branch = torch.randn(2, 5, 6).to(torch.bfloat16)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        found = add_linear(x, branch, weight, bias)
    torch.testing.assert_close(found, x + F.linear(branch.float(), weight, bias), rtol=0.05, atol=0.1)


def test_what_may_be_computed_without_being_called():
    class Adapter(nn.Linear):
        pass

    assert is_plain(nn.Linear(2, 2), nn.Conv2d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1))
    assert not is_plain(nn.Linear(2, 2), Adapter(2, 2))
    for register in ('register_forward_hook', 'register_forward_pre_hook'):
        layer = nn.Linear(2, 2)
        handle = getattr(layer, register)(lambda *args: None)
        assert not is_plain(layer)
        handle.remove()
        assert is_plain(layer)


def build(*sizes: int) -> nn.Linear:
    return fill(nn.Linear(*sizes))


@pytest.mark.parametrize('shape', [(2, 3, 5, 24), (7, 24), (0, 24)], ids=str)
def test_linear_gelu_is_as_exact_as_the_plain_one(shape):
    layer, x = build(24, 33), torch.randn(shape)
    with torch.no_grad():
        assert linear._takes_gelu_along(layer, x) == torch.backends.mkldnn.is_available()
        found, plain = linear_gelu(layer, x), F.gelu(layer(x))
        exact = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()))
    assert found.shape == plain.shape
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
    if len(x):
        assert (found - exact).abs().max() <= max(1.5 * (plain - exact).abs().max(), 1e-6)


def test_the_plain_one_is_taken_where_the_fused_one_would_not_do():
    layer, x = build(6, 10), torch.randn(3, 6)
    assert linear_gelu(layer, x).requires_grad
    with torch.no_grad():
        if not linear._takes_gelu_along(layer, x):
            pytest.skip('torch was built without oneDNN')
        assert not linear._takes_gelu_along(layer.double(), x.double())
        layer.float()
        assert not linear._takes_gelu_along(layer, x.t().contiguous().t())
        with torch.autocast('cpu', torch.bfloat16):
            assert not linear._takes_gelu_along(layer, x)
        with FlopCounterMode(display=False) as counter:
            linear_gelu(layer, x)
        assert counter.get_total_flops() == 2 * 3 * 6 * 10
        with torch.backends.mkldnn.flags(enabled=False):
            assert not linear._takes_gelu_along(layer, x)

        class Adapter(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + 1

        adapter = Adapter(6, 10)
        torch.testing.assert_close(linear_gelu(adapter, x), F.gelu(adapter(x)), rtol=0, atol=0)
        handle = layer.register_forward_hook(lambda module, args, output: output + 1)
        torch.testing.assert_close(linear_gelu(layer, x), F.gelu(F.linear(x, layer.weight, layer.bias) + 1))
        handle.remove()
        assert linear._takes_gelu_along(layer, x)


def test_vmap_takes_the_plain_one():
    layer, x = build(6, 10), torch.randn(4, 3, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(lambda x: linear_gelu(layer, x))(x), F.gelu(layer(x)))
