"""The learned aggregation against its formulas, by einsum, with the official parameter names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from densevit.layers.learned_aggregation import Aggregate, LearnedAggregation
from tests.backbones.contract import fill

C = 12
SIZES = ((5, 8), (1, 9), (7, 3))


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean) ** 2).mean(-1, keepdim=True).add(1e-6).sqrt()
    return (x - mean) / deviation * weights[f'{name}.weight'] + weights[f'{name}.bias']


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return torch.einsum('blc,oc->blo', x, weights[f'{name}.weight']) + weights[f'{name}.bias']


def reference(x: Tensor, weights: dict[str, Tensor], multi: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, scores and weights, for one head, as section 2 of the model's description has it."""
    patches = torch.einsum('bchw->bhwc', x).reshape(len(x), -1, C)
    classes = weights['cls_token'].repeat(len(x), 1, 1)
    seen = norm(patches if multi else torch.cat([classes, patches], dim=1), weights, 'norm1')
    q = linear(norm(classes, weights, 'norm1'), weights, 'attn.q')
    k, v = linear(seen, weights, 'attn.k'), linear(seen, weights, 'attn.v')
    scores = torch.einsum('bqc,bsc->bqs', q, k) / C**0.5
    attended = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
    mixed = linear(torch.einsum('bqs,bsc->bqc', attended, v), weights, 'attn.proj')
    classes = classes + weights['gamma_1'] * mixed
    hidden = F.gelu(linear(norm(classes, weights, 'norm2'), weights, 'mlp.fc1'))
    classes = classes + weights['gamma_2'] * linear(hidden, weights, 'mlp.fc2')
    return norm(classes, weights, 'norm'), scores[:, None], attended[:, None]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('num_classes', [None, 1, 5])
def test_equals_the_formulas(num_classes, size):
    model = fill(LearnedAggregation(C, num_classes)).double()
    x = torch.randn(3, C, *size, dtype=torch.float64, requires_grad=True)
    inputs = [x, *model.parameters()]
    expected = reference(x, dict(model.named_parameters()), num_classes is not None)
    target = torch.randn_like(expected[0])

    plain, explained = model(x), model(x, need_weights=True)
    assert isinstance(explained, Aggregate)
    assert plain.shape == (3, num_classes or 1, C)
    torch.testing.assert_close(tuple(explained), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(plain, expected[0], rtol=1e-10, atol=1e-12)

    wanted = torch.autograd.grad((expected[0] * target).sum(), inputs)
    for found in (plain, explained.vectors):
        torch.testing.assert_close(torch.autograd.grad((found * target).sum(), inputs), wanted, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize('num_classes', [None, 4])
def test_weights_are_a_distribution_over_the_map(num_classes):
    model = fill(LearnedAggregation(C, num_classes, num_heads=3)).double()
    x = torch.randn(2, C, 5, 8, dtype=torch.float64)
    aggregate = model(x, need_weights=True)
    keys = 40 + (num_classes is None)
    assert aggregate.scores.shape == aggregate.weights.shape == (2, 3, num_classes or 1, keys)
    torch.testing.assert_close(aggregate.weights.sum(-1), torch.ones(2, 3, num_classes or 1, dtype=torch.float64))
    torch.testing.assert_close(model(x), aggregate.vectors)


@pytest.mark.parametrize('num_classes', [None, 4])
def test_the_weight_map_lies_as_the_input_lies(num_classes):
    """One position of a flat map differs: in the weights unflattened to (H, W) the same one differs."""
    model = fill(LearnedAggregation(C, num_classes))
    x = torch.ones(1, C, 5, 8)
    x[:, :, 3, 6] = torch.randn(C)
    weights = model(x, need_weights=True).weights[0, 0, 0, -40:].unflatten(-1, (5, 8))
    rest = torch.ones(5, 8, dtype=torch.bool)
    rest[3, 6] = False
    torch.testing.assert_close(weights[rest], weights[0, 0].expand(39))
    assert not torch.isclose(weights[3, 6], weights[0, 0])


def test_classes_do_not_see_each_other():
    model = fill(LearnedAggregation(C, 5)).double()
    x = torch.randn(2, C, 5, 8, dtype=torch.float64)
    before = model(x)
    with torch.no_grad():
        model.cls_token[0, 2] += 1
    changed = (model(x) - before).abs().amax(dim=(0, 2)) > 0
    assert changed.tolist() == [False, False, True, False, False]


def test_backends_agree():
    models = [fill(LearnedAggregation(C, 4, attn_backend=name)) for name in ('auto', 'reference', 'sdpa')]
    x = torch.randn(2, C, 5, 8)
    for model in models[1:]:
        torch.testing.assert_close(model(x), models[0](x))


def test_initial_weights():
    model = LearnedAggregation(256, 100)
    assert 0.015 < model.cls_token.std() < 0.02 + 1e-3
    assert 0.015 < model.mlp.fc1.weight.std() < 0.02 + 1e-3
    assert not model.attn.q.bias.any()
    assert (model.gamma_1 == 1e-4).all() and (model.gamma_2 == 1e-4).all()
    assert model.mlp.fc1.out_features == 3 * 256


def test_bad_arguments():
    with pytest.raises(ValueError, match='embed_dims=12 is not a multiple of num_heads=5'):
        LearnedAggregation(12, num_heads=5)
    with pytest.raises(ValueError, match='num_classes=0'):
        LearnedAggregation(12, 0)
    with pytest.raises(ValueError, match="attn_backend='fused'"):
        LearnedAggregation(12, attn_backend='fused')
    with pytest.raises(TypeError, match='positional'):
        LearnedAggregation(12, 4, 2)
