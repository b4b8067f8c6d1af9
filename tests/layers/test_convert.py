"""Layouts change without a copy and back again."""

from __future__ import annotations

import torch

from densevit.layers import Mlp, to_nchw, to_nhwc


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
