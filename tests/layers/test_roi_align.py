"""RoIAlign against torchvision's kernel."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
import torchvision.ops
from torch import Tensor

from densevit.layers.roi_align import axis_weights, pyramid_roi_align, roi_align

HEIGHT, WIDTH, SCALE = 33, 52, 0.25


def regions(count: int = 60, *, images: int = 2) -> Tensor:
    """Boxes of all sizes, some across the border of an image of 132 x 208."""
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(torch.empty(count, 2).uniform_(0, 5.5, generator=generator))
    corner = torch.rand(count, 2, generator=generator) * torch.tensor((240.0, 160.0)) - 20
    image = torch.randint(images, (count, 1), generator=generator)
    return torch.cat((image, corner, corner + size), dim=1)


def odd_regions() -> Tensor:
    """No width, outside, around everything, on pixels, one pixel."""
    return torch.tensor(
        [
            [0, 30, 20, 30, 60],
            [0, 900, 900, 990, 990],
            [0, -90, -80, -40, -30],
            [1, -100, -100, 500, 400],
            [1, 8, 16, 64, 72],
            [0, 10, 10, 11, 11],
            [1, 207, 131, 208, 132],
            [0, 2, 2, 58, 58],
        ],
        dtype=torch.float32,
    )


def inverted_regions() -> Tensor:
    """Right of the left edge in one and in both axes; torchvision raises an error if it is to choose their samples."""
    return torch.tensor([[0, 60, 20, 30, 60], [1, 90, 80, 30, 20]], dtype=torch.float32)


def maps(dtype: torch.dtype = torch.float64, *, batch: int = 2, channels: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2])
@pytest.mark.parametrize('output_size', [(7, 7), (3, 5)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_equals_torchvision(aligned, sampling_ratio, output_size, layout):
    rois = torch.cat((regions(), odd_regions())).double()
    if sampling_ratio or not aligned:
        rois = torch.cat((rois, inverted_regions().double()))
    theirs = maps().requires_grad_()
    ours = maps().contiguous(memory_format=layout).requires_grad_()
    expected = torchvision.ops.roi_align(theirs, rois, output_size, SCALE, sampling_ratio, aligned)
    found = roi_align(ours, rois, output_size, SCALE, sampling_ratio, aligned)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-11)


def test_float32_is_as_near_to_float64_as_torchvision():
    rois = torch.cat((regions(), odd_regions()))
    single = maps(torch.float32)
    exact = torchvision.ops.roi_align(single.double(), rois.double(), (7, 7), SCALE, 0, True)
    errors = [
        (function(single, rois, (7, 7), SCALE, 0, True).double() - exact).abs().max()
        for function in (roi_align, torchvision.ops.roi_align)
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_long_lists_are_computed_in_parts(monkeypatch):
    """Gradients are added up over the parts."""
    rois = regions().double()
    grads, outs = [], []
    for chunk in (1 << 19, 400):
        monkeypatch.setattr(import_module('densevit.layers.roi_align'), '_CHUNK', chunk)
        leaf = maps().requires_grad_()
        out = roi_align(leaf, rois, (7, 7), SCALE)
        out.square().sum().backward()
        outs.append(out.detach())
        grads.append(leaf.grad)
    torch.testing.assert_close(*outs, rtol=0, atol=1e-13)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bits_are_computed_in_32(dtype):
    leaf = maps().to(dtype).requires_grad_()
    rois = regions(8).to(dtype)
    out = roi_align(leaf, rois, (3, 2), SCALE)
    out.float().sum().backward()
    exact = leaf.detach().float().requires_grad_()
    expected = roi_align(exact, rois.float(), (3, 2), SCALE)
    expected.sum().backward()
    assert out.dtype == leaf.grad.dtype == dtype
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(leaf.grad, exact.grad.to(dtype))


def test_levels():
    """Each region reads its own map; a map that nobody reads has no gradient."""
    pyramid = [maps().requires_grad_(), maps()[:, :, ::2, ::2].clone().requires_grad_(), maps().requires_grad_()]
    scales = [0.25, 0.125, 1.0]
    rois = regions().double()
    levels = (torch.arange(len(rois)) * 7 % 5 > 2).long()
    found = pyramid_roi_align(pyramid, rois, levels, (3, 4), scales)
    for level in (0, 1):
        chosen = levels == level
        expected = torchvision.ops.roi_align(pyramid[level], rois[chosen], (3, 4), scales[level], 0, True)
        torch.testing.assert_close(found[chosen], expected, rtol=0, atol=1e-12)
    found.sum().backward()
    assert pyramid[1].grad.abs().sum() > 0
    assert pyramid[2].grad is None


def test_no_region():
    leaf = maps().requires_grad_()
    out = roi_align(leaf, torch.zeros(0, 5), (7, 5))
    out.sum().backward()
    assert out.shape == (0, 5, 7, 5)
    assert leaf.grad is None


def test_a_region_without_samples_is_zero():
    out = roi_align(maps(), torch.cat((inverted_regions(), regions(1))).double(), (2, 3), SCALE)
    assert torch.equal(out[:2], torch.zeros_like(out[:2]))
    assert out[2].abs().sum() > 0


def test_what_is_not_finite_is_zero():
    rois = regions(4).double()
    rois[1, 3], rois[2, 1] = float('nan'), float('-inf')
    out = roi_align(maps(), rois, (2, 3), SCALE)
    assert torch.equal(out[1:3], torch.zeros_like(out[1:3]))
    assert out[0].abs().sum() > 0


def test_gradient():
    rois = torch.cat((regions(3), odd_regions()[-4:])).double()
    leaf = maps(batch=2, channels=1)[:, :, :9, :11].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda each: roi_align(each, rois, (2, 3), 0.05), leaf)


def test_wrong_regions_are_refused():
    with pytest.raises(ValueError, match=r'rois is \(3, 4\); expected \(R, 5\)'):
        roi_align(maps(), torch.zeros(3, 4), (7, 7))


def test_matrices_along_the_axes():
    """V M U^T is RoIAlign of a single channel."""
    image = maps(batch=1, channels=1)
    rois = torch.cat((regions(images=1), odd_regions())).double()
    boxes = rois[:, 1:] = torch.minimum(rois[:, 1:].clamp(min=0), torch.tensor([52.0, 33, 52, 33], dtype=torch.float64))
    rois[:, 0] = 0
    expected = torchvision.ops.roi_align(image, rois, (6, 8), 1.0, 0, True)[:, 0]
    left, us = axis_weights(boxes[:, 0], boxes[:, 2], 8, WIDTH)
    top, vs = axis_weights(boxes[:, 1], boxes[:, 3], 6, HEIGHT)
    for each, x, y, u, v in zip(expected, left, top, us, vs):
        part = image[0, 0, y : y + v.shape[1], x : x + u.shape[1]]
        torch.testing.assert_close(v @ part @ u.T, each, rtol=0, atol=1e-12)
