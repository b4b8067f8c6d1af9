"""The convolutional stem: sizes at every remainder, widths, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from densevit.layers import ConvStem


@pytest.mark.parametrize('depth', [1, 2, 3, 4])
def test_stride_rounds_up_at_every_remainder(depth):
    stem = ConvStem(3, 8, depth)
    assert stem.stride == 2**depth
    for height, width in [(side, 40) for side in range(16, 33)] + [(19, side) for side in range(1, 18)]:
        out = stem(torch.zeros(1, 3, height, width))
        assert out.shape == (1, math.ceil(height / stem.stride), math.ceil(width / stem.stride), 8)
        assert out.is_contiguous()


def test_widths_double_and_there_is_no_bias():
    assert [tuple(p.shape) for p in ConvStem(3, 32).parameters()] == [
        (4, 3, 3, 3), (8, 4, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3),
    ]  # fmt: skip


def test_gelu_stands_between_the_convolutions_and_not_behind_them():
    stem = ConvStem(3, 8, 2).double()
    x = torch.randn(2, 3, 9, 14, dtype=torch.float64)
    first, second = stem.convs
    inner = first(x)
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))  # the exact GELU
    torch.testing.assert_close(stem(x), second(inner).permute(0, 2, 3, 1))


@pytest.mark.parametrize(('width', 'depth', 'message'), [
    (20, 4, '20.*multiple of 8'), (6, 3, '6.*multiple of 4'), (8, 0, 'at least 1'), (8, -1, 'at least 1'),
])  # fmt: skip
def test_what_cannot_be_halved(width, depth, message):
    with pytest.raises(ValueError, match=message):
        ConvStem(3, width, depth)
