"""The residual block: order of its parts, what reaches the attention, and stochastic depth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from densevit.layers import Mlp, TransformerBlock, stochastic_depth_rates, transformer_block
from tests.backbones.contract import fill


class Attend(nn.Module):
    """Stands for an attention: mixes channels, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.context: tuple = ()

    def forward(self, x: Tensor, *context: object) -> Tensor:
        self.context = context
        return self.linear(x)


def build(**options) -> TransformerBlock:
    return fill(TransformerBlock(6, Attend(), Mlp(6, 10), **options)).double()


def normed(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * norm.weight + norm.bias


@pytest.mark.parametrize('shape', [(2, 5, 6), (2, 3, 4, 6)], ids=str)
@pytest.mark.parametrize('eps', [1e-5, 1e-2])
def test_norms_stand_before_the_branches(shape, eps):
    block = build() if eps == 1e-5 else build(norm_eps=eps)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    middle = x + block.attn.linear(normed(x, block.norm1, eps))
    expected = middle + block.mlp(normed(middle, block.norm2, eps))
    found = block(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    target, inputs = torch.randn_like(x), [x, *block.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), inputs),
        torch.autograd.grad((expected * target).sum(), inputs),
        rtol=1e-10,
        atol=1e-11,
    )


def test_context_reaches_the_attention():
    block, table = build(), torch.zeros(3)
    block(torch.zeros(1, 4, 6, dtype=torch.float64), (2, 2), table)
    assert block.attn.context == ((2, 2), table)
    block(torch.zeros(1, 4, 6, dtype=torch.float64))
    assert block.attn.context == ()


def test_drop_path_skips_each_branch_of_each_image():
    block = build(drop_path_rate=0.5).train()
    x = torch.randn(1, 5, 6, dtype=torch.float64).repeat(400, 1, 1)
    first = 2 * block.attn(block.norm1(x[:1]))  # a branch that is kept counts twice, so that the mean stays
    outcomes = [
        start + branch for start in (x[0], (x[:1] + first)[0]) for branch in (0, 2 * block.mlp(block.norm2(start)))
    ]
    found = block(x)
    counts = [sum(torch.allclose(image, outcome) for image in found) for outcome in outcomes]
    assert sum(counts) == 400
    assert all(60 < count < 140 for count in counts), counts  # 100 each, 5 deviations wide
    assert torch.equal(block.eval()(x)[0], build().eval()(x)[0])


def test_rates_rise_from_zero_to_the_last():
    assert stochastic_depth_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert stochastic_depth_rates(0.3, 1) == [0.0]
    assert stochastic_depth_rates(0.3, 0) == []
    for rate, depth in ((0.1, 10), (0.5, 24)):  # the official models take them from here
        assert stochastic_depth_rates(rate, depth) == pytest.approx(torch.linspace(0, rate, depth).tolist(), abs=1e-7)


@torch.no_grad()
def test_tokens_in_pieces_are_the_same(monkeypatch):
    block, x = build(drop_path_rate=0.5).eval(), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    before, expected, calls = x.clone(), block(x), []
    monkeypatch.setattr(transformer_block, 'at_a_time', lambda x, count, numbers: calls.append((count, numbers)) or 7)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before)
    assert calls == [(30, 10)]


def test_tokens_stay_together_where_it_matters(monkeypatch):
    monkeypatch.setattr(transformer_block, 'at_a_time', lambda x, count, numbers: 7)
    block, x, seen = build(drop_path_rate=0.5), torch.randn(2, 5, 3, 6, dtype=torch.float64), []
    block.mlp.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with torch.no_grad():
        block.eval()(x)  # somebody listens
        assert seen == [x.shape]
        block.mlp._forward_hooks.clear()
        block.mlp.fc1.register_forward_hook(lambda module, args, output: seen.append(output.shape[:-1]))
        block.eval()(x)
        block.train()(x)  # images are dropped as a whole
        assert seen[1:] == 2 * [x.shape[:-1]]
        block.mlp.fc1._forward_hooks.clear()
        images = torch.randn(1, 5, 3, 6, dtype=torch.float64).repeat(50, 1, 1, 1)
        assert len(block.train()(images).flatten(1).unique(dim=0)) == 4
    block.eval()(x.requires_grad_()).sum().backward()
    assert x.grad is not None
