"""Patch embeddings against a convolution written as a product of unfolded patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from densevit.layers import PatchEmbed
from tests.backbones.contract import fill

# side by side (PVT, Swin), overlapping (PVT v2 and CvT's first stage), overlapping at stride 2
KINDS = (dict(kernel_size=4), dict(kernel_size=7, stride=4, padding=3), dict(kernel_size=7, stride=4, padding=2),
         dict(kernel_size=3, stride=2, padding=1))  # fmt: skip


def reference(embed: PatchEmbed, x: torch.Tensor, kernel_size: int, stride: int, padding: int) -> torch.Tensor:
    height, width = ((side + 2 * padding - kernel_size) // stride + 1 for side in x.shape[2:])
    patches = F.unfold(x, kernel_size, padding=padding, stride=stride)  # (B, C_in * k * k, L)
    tokens = torch.einsum('bpl,cp->blc', patches, embed.proj.weight.flatten(1)) + embed.proj.bias
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return (normed * embed.norm.weight + embed.norm.bias).unflatten(1, (height, width))


@pytest.mark.parametrize('kind', KINDS, ids=str)
@pytest.mark.parametrize('size', [(8, 12), (9, 14), (7, 5), (11, 4)], ids=str)
def test_equals_the_unfolded_convolution(kind, size):
    embed = fill(PatchEmbed(5, 6, **kind)).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    found = embed(x)
    expected = reference(embed, x, **{'stride': kind['kernel_size'], 'padding': 0, **kind})
    assert found.shape[0] == 2 and found.shape[3] == 6
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    target, inputs = torch.randn_like(found), [x, *embed.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), inputs),
        torch.autograd.grad((expected * target).sum(), inputs),
        rtol=1e-8,
        atol=1e-10,
    )


def test_a_remainder_is_dropped():
    embed, x = fill(PatchEmbed(3, 6, kernel_size=4)), torch.randn(1, 3, 11, 14)
    assert embed(x).shape == (1, 2, 3, 6)
    torch.testing.assert_close(embed(x), embed(x[:, :, :8, :12]))


def test_height_and_width_are_not_exchanged():
    embed = PatchEmbed(1, 4, kernel_size=2)
    x = torch.randn(1, 1, 6, 10)
    torch.testing.assert_close(embed(x)[0, 2, 4], embed(x[:, :, 4:, 8:])[0, 0, 0])
