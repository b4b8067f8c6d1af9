"""Every backend of attention against the formula, written out."""

from __future__ import annotations

import math

import pytest
import torch

from densevit.layers import ATTN_BACKENDS, attention, attention_scores

# queries and keys differ in number, heads and batch are not one: nothing can be exchanged by accident
B, HEADS, L, S, D = 2, 3, 5, 7, 4


def formula(q, k, v, bias, scale):
    """softmax(q k^T * scale + bias) v, query by query, key by key."""
    out = torch.zeros_like(q)
    for b in range(B):
        for h in range(HEADS):
            for i in range(L):
                scores = [(q[b, h, i] * k[b, h, j]).sum() * scale for j in range(S)]
                if bias is not None:
                    full = bias.expand(B, HEADS, L, S)
                    scores = [score + full[b, h, i, j] for j, score in enumerate(scores)]
                weights = [score.exp() for score in scores]
                mixed = sum(weight * v[b, h, j] for j, weight in enumerate(weights)) / sum(weights)
                out = out.index_put((torch.tensor(b), torch.tensor(h), torch.tensor(i)), mixed)
    return out


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
@pytest.mark.parametrize('scale', [None, 0.3, 2.0])
@pytest.mark.parametrize('bias_shape', [None, (B, HEADS, L, S), (1, HEADS, L, S), (B, 1, 1, S), (L, S)], ids=str)
def test_backends_equal_the_formula(backend, scale, bias_shape):
    shapes = [(B, HEADS, L, D), (B, HEADS, S, D), (B, HEADS, S, D)] + ([bias_shape] if bias_shape else [])
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    bias = inputs[3] if bias_shape else None
    weights = torch.randn(B, HEADS, L, D, dtype=torch.float64)

    found = attention(*inputs[:3], bias=bias, scale=scale, backend=backend)
    expected = formula(*inputs[:3], bias, 1 / math.sqrt(D) if scale is None else scale)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        rtol=1e-9,
        atol=1e-11,
    )


@pytest.mark.parametrize('backend', [name for name in ATTN_BACKENDS if name != 'reference'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_backends_in_lower_precision(backend, dtype, tolerance, with_bias):
    q, k, v = (torch.randn(B, HEADS, n, 16) for n in (33, 70, 70))
    bias = torch.randn(HEADS, 33, 70) if with_bias else None
    expected = attention(
        *(t.double() for t in (q, k, v)), bias=bias if bias is None else bias.double(), backend='reference'
    )
    found = attention(*(t.to(dtype) for t in (q, k, v)), bias=bias if bias is None else bias.to(dtype), backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_bias_of_minus_infinity_hides_a_key():
    q, k, v = (torch.randn(1, 2, n, 4) for n in (3, 6, 6))
    bias = torch.zeros(1, 1, 1, 6)
    bias[..., 4:] = -torch.inf
    for backend in ATTN_BACKENDS:
        torch.testing.assert_close(
            attention(q, k, v, bias=bias, backend=backend), attention(q, k[:, :, :4], v[:, :, :4], backend=backend)
        )


def test_scores_are_those_before_the_softmax():
    q, k, bias = torch.randn(B, HEADS, L, D), torch.randn(B, HEADS, S, D), torch.randn(HEADS, L, S)
    torch.testing.assert_close(attention_scores(q, k), torch.einsum('bhld,bhsd->bhls', q, k) / 2)
    torch.testing.assert_close(
        attention_scores(q, k, bias=bias, scale=3.0), 3 * torch.einsum('bhld,bhsd->bhls', q, k) + bias
    )


def test_unknown_backend():
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="attn_backend='fused' is unknown; valid are auto, reference, sdpa"):
        attention(q, q, q, backend='fused')
