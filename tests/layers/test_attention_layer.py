"""What attention layers attended to, against matrices that are written out token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from densevit.layers import window_layout
from densevit.layers.attention_layer import AttentionLayer, GlobalAttention, WindowedAttention

B, HEADS, D = 2, 3, 4


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def global_layer(**changes) -> tuple[GlobalAttention, Tensor]:
    """5 x 7 queries and 2 x 3 keys, a class token before both, and the matrix (B, h, 36, 7)."""
    q, k = random(B, HEADS, 36, D), random(B, HEADS, 7, D)
    layer = GlobalAttention(
        q, k, **{'query_size': (5, 7), 'key_size': (2, 3), 'key_step': (2, 2), 'scale': 0.7, 'kind': 'x', **changes}
    )
    scores = torch.einsum('bhqd,bhkd->bhqk', q, k) * 0.7
    return layer, scores.exp() / scores.exp().sum(-1, keepdim=True)


def window_matrix(q: Tensor, k: Tensor, no_token: Tensor, bias: Tensor, side: int, shift: int) -> tuple[Tensor, Tensor]:
    """Attention of every token (B, H, W, h, d) to every other, (B, h, HW, HW), and to padding (B, h, HW)."""
    H, W = q.shape[1:3]
    rows, columns = -(-H // side) * side, -(-W // side) * side
    tokens = [(y, x) for y in range(rows) for x in range(columns)]

    def place(y: int, x: int) -> tuple[int, ...]:
        """Window, whether wrapped round in it, and position in the window."""
        y, x = (y - shift) % rows, (x - shift) % columns
        wrapped = (shift > 0 and y >= rows - shift, shift > 0 and x >= columns - shift)
        return (y // side, x // side, *wrapped, y % side * side + x % side)

    scores = torch.full((B, HEADS, H * W, len(tokens)), -torch.inf, dtype=torch.float64)
    for i, query in enumerate((y, x) for y in range(H) for x in range(W)):
        *window, down, right, position = place(*query)
        for j, (y, x) in enumerate(tokens):
            *other, other_down, other_right, other_position = place(y, x)
            if other == window:
                key = k[:, y, x] if y < H and x < W else no_token.expand(B, -1, -1)
                score = (q[:, query[0], query[1]] * key).sum(-1) * D**-0.5 + bias[:, position, other_position]
                scores[:, :, i, j] = score - 100 * ((down, right) != (other_down, other_right))
    weights = scores.softmax(-1)
    real = torch.tensor([y < H and x < W for y, x in tokens])
    return weights[..., real], weights[..., ~real].sum(-1)


def windowed_layer(size: tuple[int, int], side: int, shift: int) -> tuple[WindowedAttention, Tensor, Tensor]:
    maps, no_token, bias = random(B, *size, 2, HEADS, D), random(2, HEADS, D), random(HEADS, side**2, side**2)
    layout = window_layout((B, *size), side, shift, maps)
    qk = layout.cut(maps.flatten(3), padding=no_token.flatten()).unflatten(-1, (2, HEADS, D))
    layer = WindowedAttention(qk, layout, (B, *size), bias=bias, scale=None)
    q, k = maps.unbind(3)
    return layer, *window_matrix(q, k, no_token[1], bias, side, shift)


WINDOWS = [((5, 7), 3, 0), ((5, 7), 3, 1), ((4, 6), 2, 1), ((2, 9), 4, 2), ((1, 1), 2, 1)]


def rows_sum_to_one(found: Tensor, rest: Tensor) -> None:
    torch.testing.assert_close(found.sum((-2, -1)) + rest, torch.ones_like(rest), rtol=0, atol=1e-12)


def test_global_maps():
    layer, matrix = global_layer()
    torch.testing.assert_close(layer.weights(), matrix, rtol=0, atol=1e-13)
    assert (layer.num_heads, layer.num_extra_queries, layer.num_extra_keys) == (HEADS, 1, 1)
    for query, row in (((0, 0), 1), ((3, 5), 1 + 3 * 7 + 5), ((4, 6), 35), (0, 0)):
        found, rest = layer.map_of(query)
        torch.testing.assert_close(found.flatten(2), matrix[:, :, row, 1:], rtol=0, atol=1e-13)
        torch.testing.assert_close(rest, matrix[:, :, row, 0], rtol=0, atol=1e-13)
        rows_sum_to_one(found, rest)
    found, rest = layer.received()
    torch.testing.assert_close(found.flatten(2), matrix[:, :, 1:, 1:].mean(2), rtol=0, atol=1e-13)
    rows_sum_to_one(found, rest)


@pytest.mark.parametrize(('size', 'side', 'shift'), WINDOWS)
def test_windows_are_assembled_to_the_map(size, side, shift):
    layer, matrix, padding = windowed_layer(size, side, shift)
    H, W = size
    for query in {(0, 0), (H // 2, W // 2), (H - 1, W - 1), (0, W - 1)}:
        found, rest = layer.map_of(query)
        row = query[0] * W + query[1]
        assert found.shape == (B, HEADS, H, W)
        torch.testing.assert_close(found.flatten(2), matrix[:, :, row], rtol=0, atol=1e-12)
        torch.testing.assert_close(rest, padding[:, :, row], rtol=0, atol=1e-12)
        rows_sum_to_one(found, rest)
    found, rest = layer.received()
    torch.testing.assert_close(found.flatten(2), matrix.mean(2), rtol=0, atol=1e-12)
    torch.testing.assert_close(rest, padding.mean(2), rtol=0, atol=1e-12)
    rows_sum_to_one(found, rest)


@pytest.mark.parametrize('make', [lambda: global_layer()[0], lambda: windowed_layer((5, 7), 3, 1)[0]])
def test_in_small_portions(make, monkeypatch):
    layer = make()
    expected = layer.received()
    monkeypatch.setattr('densevit.layers.attention_layer.NUMBERS', 1)
    torch.testing.assert_close(layer.received(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize('kind', ['global', 'windows'])
def test_half_precision_is_computed_in_single(kind):
    if kind == 'global':
        q, k = torch.randn(2, 1, 1, 6, 4).bfloat16()
        layer: AttentionLayer = GlobalAttention(q, k, query_size=(2, 3), key_size=(2, 3), kind='x')
    else:
        layout = window_layout((1, 5, 7), 3, 1, torch.zeros(1).bfloat16())
        qkv, bias = torch.randn(sum(layout.counts), 9, 3, 2, 4).bfloat16(), torch.randn(2, 9, 9)
        layer = WindowedAttention(qkv, layout, (1, 5, 7), bias=bias, scale=None)
    with torch.autocast('cpu', torch.bfloat16):
        found, rest = layer.received()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum((-2, -1)) + rest, torch.ones_like(rest), rtol=0, atol=1e-6)


def test_pixels():
    layer, _ = global_layer()
    layer.name, layer.stride = 'stages.0.blocks.1', 4
    assert layer.token_at(0, 27.9) == (0, 6)
    assert layer.token_at(19.9, 40) == (4, 6)  # a remainder that was left out
    assert layer.key_extent == (2 * 2 * 4, 3 * 2 * 4)
    with pytest.raises(ValueError, match=r'query=\(5, 0\): the map of stages.0.blocks.1 has 5 rows and 7 columns'):
        layer.map_of((5, 0))
    with pytest.raises(ValueError, match='query=1: stages.0.blocks.1 has 1 queries .* 0 to 0'):
        layer.map_of(1)


def test_queries_of_no_map():
    layer = GlobalAttention(random(B, 1, 5, D), random(B, 1, 12, D), query_size=None, key_size=(3, 4), kind='x')
    layer.name = 'pool'
    matrix = layer.weights()
    torch.testing.assert_close(layer.map_of(3).map.flatten(2), matrix[:, :, 3], rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.received().map.flatten(2), matrix.mean(2), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match='the queries of pool are no tokens of a map; give an index below 5'):
        layer.map_of((0, 0))
    with pytest.raises(ValueError, match='none stands for a pixel'):
        layer.token_at(3, 4)


def test_what_is_kept_is_a_copy():
    q, k = random(1, 1, 4, 2), random(1, 1, 4, 2)
    layer: AttentionLayer = GlobalAttention(q, k, query_size=(2, 2), key_size=(2, 2), kind='x')
    before = layer.weights()
    q.zero_(), k.zero_()
    assert torch.equal(layer.weights(), before)
