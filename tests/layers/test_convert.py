"""Layouts change without a copy and back again."""

from __future__ import annotations

import torch

from densevit.layers import Mlp, convert, to_nchw, to_nhwc
from densevit.layers.convert import contiguous_nchw


def test_axes_and_memory():
    x = torch.randn(2, 5, 7, 3)  # (B, H, W, C)
    y = to_nchw(x)
    assert y.shape == (2, 3, 5, 7)
    assert y[1, 2, 4, 6] == x[1, 4, 6, 2]
    assert y.data_ptr() == x.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_nhwc(y), x)
    assert to_nhwc(y).is_contiguous()


def test_mlp_is_the_same_at_every_position():
    mlp = Mlp(6, 10)
    x = torch.randn(2, 5, 7, 6)
    torch.testing.assert_close(mlp(x)[1, 3, 4], mlp(x[1, 3, 4]))
    expected = torch.nn.functional.gelu(x @ mlp.fc1.weight.T + mlp.fc1.bias) @ mlp.fc2.weight.T + mlp.fc2.bias
    torch.testing.assert_close(mlp(x), expected)


def test_a_contiguous_copy_and_its_gradient():
    for shape in ((2, 5, 7, 3), (1, 1, 1, 3), (2, 5, 7, 1)):
        x, arrived = torch.randn(shape, requires_grad=True), []
        y = 2 * x
        y.register_hook(arrived.append)
        found = contiguous_nchw(y)
        assert torch.equal(found, to_nchw(y)) and found.is_contiguous()
        target = torch.randn(found.shape)
        (found * target).sum().backward()
        assert torch.equal(x.grad, 2 * to_nhwc(target))
        assert arrived[0].is_contiguous()
        with torch.no_grad():
            assert contiguous_nchw(y).is_contiguous() and torch.equal(contiguous_nchw(y), found)


@torch.no_grad()
def test_large_maps_are_copied_as_matrices(monkeypatch):
    monkeypatch.setattr(convert, '_LARGE', 6 * 7 * 5)
    x = torch.randn(3, 6, 7, 5)
    for y in (x, x.half(), x.transpose(1, 2), x.expand(3, -1, -1, -1)[:, :5], torch.empty(0, 6, 7, 5)):
        found = contiguous_nchw(y)
        assert torch.equal(found, to_nchw(y)) and found.is_contiguous()
    nchw = torch.randn(2, 5, 6, 7)
    assert contiguous_nchw(to_nhwc(nchw)).data_ptr() == nchw.data_ptr()  # nothing to copy
