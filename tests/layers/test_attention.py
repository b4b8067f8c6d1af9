"""Every backend of attention against the formula, written out."""

from __future__ import annotations

import math

import pytest
import torch

from densevit.layers import ATTN_BACKENDS, attention, attention_scores, merge_heads, split_heads

# queries and keys differ in number, heads and batch are not one: nothing can be exchanged by accident
B, HEADS, L, S, D = 2, 3, 5, 7, 4


def formula(q, k, v, bias, scale, mask=None):
    """softmax(q k^T * scale + bias) v, query by query, key by key; over the keys that the mask allows."""
    out = torch.zeros_like(q)
    for b in range(B):
        for h in range(HEADS):
            for i in range(L):
                scores = [(q[b, h, i] * k[b, h, j]).sum() * scale for j in range(S)]
                if bias is not None:
                    full = bias.expand(B, HEADS, L, S)
                    scores = [score + full[b, h, i, j] for j, score in enumerate(scores)]
                allowed = (
                    range(S) if mask is None else mask.expand(B, HEADS, L, S)[b, h, i].nonzero().flatten().tolist()
                )
                weights = {j: scores[j].exp() for j in allowed}
                mixed = sum(weight * v[b, h, j] for j, weight in weights.items()) / sum(weights.values())
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


def random_mask(*shape):
    """Half of the entries; the first key is always allowed, so that each query has one."""
    mask = torch.rand(shape) < 0.5
    mask[..., 0] = True
    assert not mask.all()
    return mask


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
@pytest.mark.parametrize('scale', [None, 0.3])
@pytest.mark.parametrize('bias_shape', [None, (B, HEADS, L, S), (HEADS, 1, S)], ids=str)
@pytest.mark.parametrize('mask_shape', [(B, HEADS, L, S), (B, 1, L, S), (B, 1, 1, S), (HEADS, L, S), (L, S)], ids=str)
def test_a_mask_leaves_keys_out(backend, scale, bias_shape, mask_shape):
    shapes = [(B, HEADS, L, D), (B, HEADS, S, D), (B, HEADS, S, D)] + ([bias_shape] if bias_shape else [])
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    bias, mask = inputs[3] if bias_shape else None, random_mask(*mask_shape)
    weights = torch.randn(B, HEADS, L, D, dtype=torch.float64)

    found = attention(*inputs[:3], bias=bias, mask=mask, scale=scale, backend=backend)
    expected = formula(*inputs[:3], bias, 1 / math.sqrt(D) if scale is None else scale, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = torch.autograd.grad((found * weights).sum(), inputs)
    torch.testing.assert_close(
        gradients, torch.autograd.grad((expected * weights).sum(), inputs), rtol=1e-9, atol=1e-11
    )
    if bias_shape == mask_shape:
        assert not gradients[3][~mask].any()


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize('with_bias', [False, True], ids=['no bias', 'bias'])
@pytest.mark.parametrize('with_mask', [False, True], ids=['no mask', 'mask'])
def test_backends_in_every_precision(backend, dtype, tolerance, with_bias, with_mask):
    """Forward and backward, held against the plain softmax in float64 on the same rounded numbers."""
    tensors = [torch.randn(B, HEADS, n, 16) for n in (33, 70, 70)] + [torch.randn(HEADS, 33, 70)] * with_bias
    tensors = [tensor.to(dtype) for tensor in tensors]
    mask = random_mask(B, 1, 33, 70) if with_mask else None
    weights = torch.randn(B, HEADS, 33, 16)

    def results(inputs, attend):
        inputs = [tensor.detach().requires_grad_() for tensor in inputs]
        out = attend(*inputs)
        return out, torch.autograd.grad((out * weights.to(out.dtype)).sum(), inputs)

    def plain(q, k, v, bias=0.0):
        scores = torch.einsum('bhld,bhsd->bhls', q, k) / 4 + bias
        if with_mask:
            scores = torch.where(mask, scores, -torch.inf)
        return torch.einsum('bhls,bhsd->bhld', scores.softmax(-1), v)

    expected, expected_gradients = results([tensor.double() for tensor in tensors], plain)
    found, gradients = results(
        tensors, lambda q, k, v, bias=None: attention(q, k, v, bias=bias, mask=mask, backend=backend)
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype
        assert (gradient.double() - wanted).norm() < tolerance * wanted.norm()


def test_a_bias_of_minus_infinity_hides_a_key():
    q, k, v = (torch.randn(1, 2, n, 4) for n in (3, 6, 6))
    bias = torch.zeros(1, 1, 1, 6)
    bias[..., 4:] = -torch.inf
    for backend in ATTN_BACKENDS:
        torch.testing.assert_close(
            attention(q, k, v, bias=bias, backend=backend), attention(q, k[:, :, :4], v[:, :, :4], backend=backend)
        )


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
def test_a_mask_is_a_bias_of_minus_infinity(backend):
    q, k, v = (torch.randn(1, 2, n, 4) for n in (3, 6, 6))
    mask = random_mask(3, 6)
    hidden = torch.zeros(3, 6).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(
        attention(q, k, v, mask=mask, backend=backend), attention(q, k, v, bias=hidden, backend=backend)
    )


def test_a_mask_in_the_scores():
    q, k, bias = torch.randn(B, HEADS, L, D), torch.randn(B, HEADS, S, D), torch.randn(L, S)
    mask = random_mask(B, 1, L, S)
    scores, plain = attention_scores(q, k, bias=bias, mask=mask), attention_scores(q, k, bias=bias)
    everywhere = mask.expand(B, HEADS, L, S)
    assert torch.equal(scores[everywhere], plain[everywhere])
    assert (scores[~everywhere] == -torch.inf).all()


@pytest.mark.parametrize('leading', [(2,), (2, 5), ()], ids=str)
def test_heads_are_runs_of_channels(leading):
    x = torch.randn(*leading, L, HEADS * D)
    heads = split_heads(x, HEADS)
    assert heads.shape == (*leading, HEADS, L, D)
    for head in range(HEADS):
        assert torch.equal(heads[..., head, :, :], x[..., head * D : (head + 1) * D])
    assert torch.equal(merge_heads(heads), x)


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


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
def test_bias_and_mask_of_one_dimension(backend):
    q, k, v = (torch.randn(B, HEADS, n, D) for n in (L, S, S))
    bias, mask = torch.randn(S), torch.arange(S) < 4
    for given in (dict(bias=bias), dict(mask=mask), dict(bias=bias, mask=mask)):
        whole = {name: each.expand(B, HEADS, L, S) for name, each in given.items()}
        torch.testing.assert_close(
            attention(q, k, v, **given, backend=backend), attention(q, k, v, **whole, backend='reference')
        )


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
def test_a_bias_of_higher_precision(backend):
    q, k, v = (torch.randn(B, HEADS, n, D).bfloat16() for n in (L, S, S))
    assert attention(q, k, v, bias=torch.randn(L, S), backend=backend).dtype == torch.bfloat16


@pytest.mark.parametrize('backend', ATTN_BACKENDS)
def test_a_mask_is_boolean(backend):
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match=r'mask of torch\.float32'):
        attention(q, q, q, mask=torch.zeros(2, 2), backend=backend)
