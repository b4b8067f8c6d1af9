"""Convolution of resized maps against resizing, concatenating and convolving."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import upsampled_conv
from densevit.layers.upsampled_conv import add_resized_, split_conv_weight, upsampled_conv3x3

SIZES = {
    'pyramid': [(16, 24), (8, 12), (4, 6), (2, 3)],
    'odd': [(33, 128), (17, 64), (9, 32), (5, 16)],
    'pools': [(5, 7), (1, 1), (2, 2), (3, 3), (6, 6)],
    'flat': [(1, 9), (1, 5), (1, 3), (6, 6)],
    'equal and larger': [(6, 10), (6, 10), (9, 20), (3, 5), (12, 1)],
    'one': [(7, 5)],
}


def plain(maps, weight, bias, align_corners):
    size = maps[0].shape[-2:]
    resized = [F.interpolate(x, size, mode='bilinear', align_corners=align_corners) for x in maps[1:]]
    return F.conv2d(torch.cat([maps[0], *resized], dim=1), weight, bias, padding=1)


def case(sizes, batch=1, dtype=torch.float64, outputs=5):
    channels = [2 + level % 3 for level in range(len(sizes))]
    maps = [torch.randn(batch, c, *size, dtype=dtype) for c, size in zip(channels, sizes, strict=True)]
    weight, bias = torch.randn(outputs, sum(channels), 3, 3, dtype=dtype), torch.randn(outputs, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (*maps, weight, bias)], channels


def fast(tensors, channels, align_corners):
    *maps, weight, bias = tensors
    return upsampled_conv3x3(maps, split_conv_weight(weight, channels), bias, align_corners=align_corners)


@pytest.mark.parametrize('in_pieces', [True, False], ids=['pieces', 'whole'])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('name', SIZES)
def test_equals_resizing_and_concatenating(name, batch, align_corners, in_pieces, monkeypatch):
    monkeypatch.setattr(upsampled_conv, '_PIXELS', 20)  # several bands, of one row where the map is wide
    monkeypatch.setattr(upsampled_conv, '_ROWS', 5)
    if not in_pieces:
        monkeypatch.setattr(upsampled_conv, 'in_pieces', lambda out: False)
    tensors, channels = case(SIZES[name], batch)
    *maps, weight, bias = tensors
    expected, found = plain(maps, weight, bias, align_corners), fast(tensors, channels, align_corners)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    target = torch.randn_like(expected)
    for gradient, reference in zip(
        torch.autograd.grad(found, tensors, target), torch.autograd.grad(expected, tensors, target), strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(fast(tensors, channels, align_corners), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('height, h', [(7, 5), (31, 3), (16, 4), (64, 63), (9, 1), (2, 40)])
@pytest.mark.parametrize('align_corners', [False, True])
def test_bands_reach_every_row_that_they_touch(height, h, align_corners, monkeypatch):
    monkeypatch.setattr(upsampled_conv, '_PIXELS', 2)
    matrix = upsampled_conv._shifted_interpolation(h, height, torch.zeros((), dtype=torch.float64), align_corners)
    covered = torch.zeros(height, h, dtype=torch.bool)
    for band, reach in upsampled_conv._bands(h, 1, height, align_corners):
        covered[reach, band] = True
    assert not matrix.ne(0).any(dim=1)[~covered].any()


def test_gradients_by_finite_differences():
    tensors, channels = case([(4, 5), (2, 3), (1, 2)], batch=2, outputs=2)
    assert torch.autograd.gradcheck(lambda *inputs: fast(inputs, channels, False), tensors)


@pytest.mark.parametrize('constant', [0, 1, 3])
def test_gradients_that_nobody_wants_are_left_out(constant):
    tensors, channels = case(SIZES['pyramid'])
    tensors[constant].requires_grad_(False)
    *maps, weight, bias = tensors
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    found = torch.autograd.grad(fast(tensors, channels, False).square().sum(), wanted)
    expected = torch.autograd.grad(plain(maps, weight, bias, False).square().sum(), wanted)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_rounds_no_worse_than_the_plain_way():
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        tensors, channels = case([(32, 48), (16, 24), (8, 12), (4, 6)], outputs=32)
        tensors = [tensor.detach() for tensor in tensors]
        *maps, weight, bias = tensors
        exact = plain(maps, weight, bias, False)
        *maps, weight, bias = single = [tensor.float() for tensor in tensors]
        ours, theirs = fast(single, channels, False) - exact, plain(maps, weight, bias, False) - exact
        ratios.append(ours.abs().max() / theirs.abs().max())
    assert torch.stack(ratios).median() <= 1.5


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_under_autocast_and_in_half_precision(dtype):
    tensors, channels = case(SIZES['pyramid'], dtype=dtype)
    *maps, weight, bias = tensors
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.float32):
        found, expected = fast(tensors, channels, False), plain(maps, weight, bias, False)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.2, check_dtype=False)
    found.float().square().mean().backward()
    assert all(tensor.grad.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize('sizes', [[(33, 12), (17, 6)], [(5, 9), (5, 9)], [(4, 7), (9, 3)], [(1, 9), (1, 1)]], ids=str)
@pytest.mark.parametrize('align_corners', [False, True])
def test_adding_a_resized_map(sizes, align_corners):
    out, x = (torch.randn(2, 3, *size, dtype=torch.float64) for size in sizes)
    out = out.contiguous(memory_format=torch.channels_last)
    expected = out + F.interpolate(x, sizes[0], mode='bilinear', align_corners=align_corners)
    assert add_resized_(out, x, align_corners=align_corners) is out
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)
