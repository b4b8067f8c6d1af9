"""3 x 3 convolution by matrix products against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import conv, conv3x3


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
