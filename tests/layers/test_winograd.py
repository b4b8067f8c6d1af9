"""Winograd's convolution against the ordinary one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import winograd
from densevit.layers.winograd import transform_weight, winograd_conv3x3


@pytest.mark.parametrize('piece', [1, 700, 1 << 20])
@pytest.mark.parametrize('size', [(33, 128), (1, 9), (7, 8), (8, 7), (2, 1), (1, 1), (16, 6)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_equals_the_ordinary_convolution(batch, size, piece, monkeypatch):
    monkeypatch.setattr(winograd, '_PIECE', piece)
    x, weight = torch.randn(batch, 3, *size, dtype=torch.float64), torch.randn(5, 3, 3, 3, dtype=torch.float64)
    for bias in (None, torch.randn(5, dtype=torch.float64)):
        expected = F.conv2d(x, weight, bias, padding=1)
        with torch.no_grad():
            found = winograd_conv3x3(x, weight, bias)
            again = winograd_conv3x3(x, weight, bias, transformed=transform_weight(weight))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert torch.equal(found, again)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_rounds_at_most_two_and_a_half_times_worse():
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        x, weight = torch.randn(1, 256, 16, 24), torch.randn(64, 256, 3, 3)
        exact = F.conv2d(x.double(), weight.double(), padding=1)
        with torch.no_grad():
            ours = winograd_conv3x3(x, weight) - exact
        ratios.append(ours.abs().max() / (F.conv2d(x, weight, padding=1) - exact).abs().max())
    assert torch.stack(ratios).median() <= 2.5


def test_gradients_come_from_the_ordinary_convolution():
    x, weight = torch.randn(1, 3, 6, 7, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    found = winograd_conv3x3(x, weight)
    assert torch.equal(found, F.conv2d(x, weight, padding=1))
    found.sum().backward()
    assert x.grad is not None and weight.grad is not None


def test_half_precision_is_not_transformed():
    x, weight = torch.randn(1, 3, 6, 7).bfloat16(), torch.randn(4, 3, 3, 3).bfloat16()
    with torch.no_grad():
        assert torch.equal(winograd_conv3x3(x, weight), F.conv2d(x, weight, padding=1))
