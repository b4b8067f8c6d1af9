"""3 x 3 convolution by matrix products against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.layers import conv, conv3x3, to_nhwc
from densevit.layers.conv import strided_conv


@pytest.mark.parametrize('pixels', [1, 40, 2048])
@pytest.mark.parametrize('size', [(33, 12), (1, 9), (9, 1), (1, 1), (2, 5), (12, 33)], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_equals_torch_forward_and_backward(batch, size, pixels, monkeypatch):
    monkeypatch.setattr(conv, '_PIXELS', pixels)
    x, weight = torch.randn(batch, 3, *size, dtype=torch.float64), torch.randn(5, 3, 3, 3, dtype=torch.float64)
    for bias in (None, torch.randn(5, dtype=torch.float64)):
        inputs = [tensor.requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
        expected, found = F.conv2d(x, weight, bias, padding=1), conv3x3(x, weight, bias)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert found.is_contiguous(memory_format=torch.channels_last)
        target = torch.randn_like(expected)
        for gradient, reference in zip(
            torch.autograd.grad(found, inputs, target), torch.autograd.grad(expected, inputs, target), strict=True
        ):
            torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-11)
        with torch.no_grad():
            assert torch.equal(conv3x3(x, weight, bias), found)


def test_gradients_by_finite_differences():
    inputs = [torch.randn(*shape, dtype=torch.float64) for shape in ((2, 2, 3, 4), (3, 2, 3, 3), (3,))]
    assert torch.autograd.gradcheck(conv3x3, [tensor.requires_grad_() for tensor in inputs])


@pytest.mark.parametrize('backward', [False, True])
def test_rounds_much_like_torch(backward):
    """Measured 1.1 to 1.6 times; torch's own convolution of maps that are channels last has six times."""

    def compute(function, *inputs):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = function(*inputs)
        return torch.autograd.grad(out.square().sum(), inputs[:2]) if backward else [out]

    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        x, weight, bias = torch.randn(1, 256, 12, 20).relu(), torch.randn(32, 256, 3, 3), torch.randn(32)
        plain = lambda *inputs: F.conv2d(*inputs, padding=1)  # noqa: E731
        exact = compute(plain, x.double(), weight.double(), bias.double())
        ours, theirs = (
            [(a - b).abs().max() for a, b in zip(compute(function, x, weight, bias), exact, strict=True)]
            for function in (conv3x3, plain)
        )
        ratios.append(torch.stack(ours) / torch.stack(theirs))
    assert (torch.stack(ratios).median(dim=0).values <= 2).all()


KERNELS = (dict(kernel_size=3, stride=2, padding=1), dict(kernel_size=7, stride=4, padding=(2, 3)),
           dict(kernel_size=4, stride=4, bias=False), dict(kernel_size=(2, 3), stride=(3, 1)))  # fmt: skip


@pytest.mark.parametrize('pixels', [1, 7, 2048])
@pytest.mark.parametrize('kernel', KERNELS, ids=str)
def test_patches_equal_the_convolution_forward_and_backward(kernel, pixels, monkeypatch):
    monkeypatch.setattr(conv, '_PIXELS', pixels)
    layer = nn.Conv2d(6, 5, **kernel).double()
    x = torch.randn(2, 6, 13, 18, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    assert conv._takes_patches(layer, x)
    expected, found = to_nhwc(layer(x)), strided_conv(layer, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    target, inputs = torch.randn_like(expected), [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, target), torch.autograd.grad(expected, inputs, target), rtol=0, atol=1e-11
    )
    with torch.no_grad():
        assert torch.equal(strided_conv(layer, x), found)


@pytest.mark.parametrize('kernel', KERNELS[:3], ids=str)
def test_compiled_for_inference_it_is_one_product(kernel):
    layer = nn.Conv2d(6, 5, **kernel).double()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(strided_conv, backend=backend, fullgraph=True, dynamic=True)
    for size in ((13, 18), (9, 21)):
        x = torch.randn(2, 6, *size, dtype=torch.float64).to(memory_format=torch.channels_last)
        with torch.no_grad():
            torch.testing.assert_close(compiled(layer, x), to_nhwc(layer(x)), rtol=0, atol=1e-12)
    called = [node.target for graph in graphs for node in graph.graph.nodes if node.op == 'call_function']
    assert F.linear in called
    assert F.conv2d not in called


def test_other_convolutions_are_called():
    image = torch.randn(1, 8, 9, 12)
    channels_last = image.to(memory_format=torch.channels_last)
    layers = [
        nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 3, dilation=2), nn.Conv2d(8, 4, 3, padding='same'),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode='reflect'),
    ]  # fmt: skip
    for layer in layers:
        assert not conv._takes_patches(layer, channels_last)
        torch.testing.assert_close(strided_conv(layer, channels_last), to_nhwc(layer(image)))
    assert not conv._takes_patches(nn.Conv2d(8, 4, 3), image)
    calls, watched = [], nn.Conv2d(8, 4, 3, padding=1)
    watched.register_forward_hook(lambda *_: calls.append(1))
    strided_conv(watched, channels_last)
    assert len(calls) == 1


@pytest.mark.parametrize('kernel', [dict(kernel_size=3, stride=2, padding=1), dict(kernel_size=8, stride=8)], ids=str)
def test_patches_round_much_like_torch(kernel):
    """Measured 1.0 to 1.9 times its convolution of (B, C, H, W); of channels last maps it has three to six times."""
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        layer, x = nn.Conv2d(256, 64, **kernel), torch.randn(1, 256, 32, 40)
        exact = to_nhwc(F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), layer.stride, layer.padding))
        with torch.no_grad():
            found = strided_conv(layer, x.to(memory_format=torch.channels_last))
            ratios.append((found - exact).abs().max() / (to_nhwc(layer(x)) - exact).abs().max())
    assert torch.stack(ratios).median() <= 2.5
