"""Windows: laid, cut and joined as the official code pads, rolls and cuts; masked and biased as its loops do it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from densevit.layers import pad_to_multiple, relative_position_bias, window_attention, window_layout

SIZES = ((4, 6), (7, 5), (1, 9), (3, 2), (33, 12))
WINDOWS = ((2, 0), (2, 1), (3, 0), (3, 1), (4, 3), (7, 3), (1, 0))


def tokens(*size: int) -> Tensor:
    """Different numbers from 1 on, so that padding shows."""
    return torch.arange(1, 1 + torch.Size(size).numel(), dtype=torch.float64).reshape(size)


def official_windows(x: Tensor, side: int, shift: int) -> Tensor:
    """Padded with zeros, rolled, cut row by row: (B, H, W, C) -> (B, n, L, C)."""
    x = pad_to_multiple(x, side).roll((-shift, -shift), dims=(1, 2))
    B, H, W, C = x.shape
    return x.view(B, H // side, side, W // side, side, C).transpose(2, 3).reshape(B, -1, side * side, C)


def official_mask(size: tuple[int, int], side: int, shift: int) -> Tensor:
    """The nine regions of the official code, one after the other, on the padded map: (n, L, L)."""
    height, width = (length + -length % side for length in size)
    if not shift:
        return torch.zeros(height * width // side**2, side**2, side**2)
    regions = torch.zeros(height, width)
    cuts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate(itertools.product(cuts, cuts)):
        regions[rows, columns] = number
    windows = [
        regions[top : top + side, left : left + side].flatten()
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    return torch.stack([torch.where(w[:, None] == w, 0.0, -100.0) for w in windows])


def masks_of(layout) -> Tensor:
    """(N, L, L), zeros where there is none."""
    L = layout.side**2
    masks = [torch.zeros(L, L) if mask is None else mask for mask in layout.masks]
    return torch.cat([mask.expand(count, L, L) for count, mask in zip(layout.counts, masks, strict=True)])


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(('side', 'shift'), WINDOWS)
@pytest.mark.parametrize('batch', [1, 2])
def test_windows_and_masks_are_the_official_ones_in_another_order(size, side, shift, batch):
    x = tokens(batch, *size, 3)
    layout = window_layout(x.shape[:3], side, shift, torch.empty(1))
    found, masks = layout.cut(x, torch.zeros(3)), masks_of(layout)
    expected = official_windows(x, side, shift).flatten(0, 1)
    assert found.shape == expected.shape
    # windows without a single token look alike, and have the same mask only by their place: leave them out
    places = {tuple(window.flatten().tolist()): index for index, window in enumerate(found) if window.any()}
    wanted = official_mask(size, side, shift).repeat(batch, 1, 1)
    for window, mask in zip(expected, wanted, strict=True):
        if window.any():
            assert torch.equal(masks[places[tuple(window.flatten().tolist())]], mask)
    assert sum(layout.counts) == len(expected)
    assert len(layout.masks) == len(layout.counts) == (4 if shift else 1)
    assert torch.equal(masks.flatten().sort().values, wanted.flatten().sort().values)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(('side', 'shift'), WINDOWS)
@pytest.mark.parametrize('learning', [False, True], ids=['inference', 'training'])
def test_windows_are_joined_as_they_were_cut(size, side, shift, learning):
    x, value = tokens(2, *size, 3).requires_grad_(), tokens(3).neg().requires_grad_()
    layout = window_layout(x.shape[:3], side, shift, x)
    with torch.set_grad_enabled(learning):
        windows = layout.cut(x, value)
        joined = layout.join(windows, x.shape[:3])
    assert torch.equal(joined, x)
    assert windows.requires_grad == learning
    padding = windows[windows[..., 0] < 0]
    assert len(padding) == windows[..., 0].numel() - x[..., 0].numel()
    assert torch.equal(padding, value.expand_as(padding))


@pytest.mark.parametrize(('side', 'shift'), [(2, 0), (3, 1), (5, 2)])
def test_gradients_of_cutting_and_joining(side, shift):
    x, value = torch.randn(2, 3, 7, 2, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    layout = window_layout(x.shape[:3], side, shift, x)
    places = torch.randn(sum(layout.counts), side * side, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(layout.cut, (x.requires_grad_(), value.requires_grad_()))
    assert torch.autograd.gradcheck(lambda windows: layout.join(windows, (2, 3, 7)), places.requires_grad_())


def test_windows_run_row_by_row_in_each_group():
    x, zero = tokens(1, 3, 5, 1), torch.zeros(1)  # 1..5, 6..10, 11..15
    assert window_layout((1, 3, 5), 2, 0, x).cut(x, zero)[:, :, 0].tolist() == [
        [1, 2, 6, 7], [3, 4, 8, 9], [5, 0, 10, 0], [11, 12, 0, 0], [13, 14, 0, 0], [15, 0, 0, 0],
    ]  # fmt: skip
    # padded to 4 x 6, then rolled by one: the first row and column come last
    assert window_layout((1, 3, 5), 2, 1, x).cut(x, zero)[:, :, 0].tolist() == [
        [7, 8, 12, 13], [9, 10, 14, 15],  # no mask
        [0, 6, 0, 11],  # the last column
        [0, 0, 2, 3], [0, 0, 4, 5],  # the last row
        [0, 0, 0, 1],
    ]  # fmt: skip


def test_masks_take_the_dtype():
    assert window_layout((1, 3, 5), 2, 1, torch.empty(1, dtype=torch.bfloat16)).masks[1].dtype == torch.bfloat16


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (9, 1)], ids=str)
def test_padding_is_right_and_bottom_and_only_where_needed(size):
    x = tokens(1, *size, 2)
    padded = pad_to_multiple(x, 3)
    assert all(0 <= after - before < 3 and after % 3 == 0 for before, after in zip(size, padded.shape[1:3]))
    assert torch.equal(padded[:, : size[0], : size[1]], x)
    assert padded.count_nonzero() == x.numel()


def test_padding_that_is_not_needed_copies_nothing():
    x = tokens(1, 6, 3, 2)
    assert pad_to_multiple(x, 3) is x


@pytest.mark.parametrize('side', [1, 2, 3, 7])
def test_bias_is_looked_up_by_distance(side):
    table = torch.randn(2 * side - 1, 2 * side - 1, 3)
    bias = relative_position_bias(table)
    places = list(itertools.product(range(side), range(side)))
    assert bias.shape == (3, len(places), len(places))
    for (q, (y, x)), (k, (row, column)) in itertools.product(enumerate(places), enumerate(places)):
        assert torch.equal(bias[:, q, k], table[y - row + side - 1, x - column + side - 1])


def results(attend, qkv: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    inputs = [tensor.detach().requires_grad_() for tensor in (qkv, bias)]
    out = attend(*inputs)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
    return out, torch.autograd.grad((out * weights.to(out.dtype)).sum(), inputs)


@pytest.mark.parametrize('backend', ['reference', 'sdpa', 'auto'])
@pytest.mark.parametrize('shift', [0, 1])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('scale', [None, 1.0])
@pytest.mark.parametrize('scores', [None, 40])  # windows at a time in the backward pass: all, one
def test_attention_is_the_formula_in_every_window(backend, shift, batch, scale, scores, monkeypatch):
    if scores:
        monkeypatch.setattr('densevit.layers.windows.SCORES_AT_A_TIME', scores)
    layout = window_layout((batch, 3, 5), 2, shift, torch.empty(1, dtype=torch.float64))
    qkv = torch.randn(6 * batch, 4, 3, 3, 5, dtype=torch.float64)
    bias = torch.randn(3, 4, 4, dtype=torch.float64)

    def formula(qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = qkv.unbind(2)
        products = torch.einsum('nihd,njhd->nhij', q, k) * (5**-0.5 if scale is None else scale)
        weights = (products + bias + masks_of(layout).double()[:, None]).softmax(dim=-1)
        return torch.einsum('nhij,njhd->nihd', weights, v).flatten(2)

    expected = results(formula, qkv, bias)
    found = results(lambda *x: window_attention(x[0], layout, bias=x[1], scale=scale, backend=backend), qkv, bias)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        plain = window_attention(qkv, layout, bias=bias, scale=scale, backend=backend)
        torch.testing.assert_close(plain, expected[0].detach(), rtol=1e-10, atol=1e-12)
        for some, part in layout.parts(2):
            attended = window_attention(qkv[some], part, bias=bias, scale=scale, backend=backend)
            torch.testing.assert_close(attended, plain[some], rtol=1e-12, atol=1e-12)


def test_gradients_of_attention():
    layout = window_layout((1, 3, 4), 2, 1, torch.empty(1, dtype=torch.float64))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 4, 3, 2, 3), (2, 4, 4))]
    assert torch.autograd.gradcheck(lambda qkv, bias: window_attention(qkv, layout, bias=bias), inputs)


def test_parts_are_all_windows_in_order():
    layout = window_layout((2, 7, 9), 2, 1, torch.empty(1))
    parts = list(layout.parts(3))
    assert [index for some, _ in parts for index in range(some.start, some.stop)] == list(range(sum(layout.counts)))
    assert all(part.counts == (some.stop - some.start,) for some, part in parts)
    assert max(part.counts[0] for _, part in parts) == 3
    masks = torch.cat([masks_of(part) for _, part in parts])
    assert torch.equal(masks, masks_of(layout))


def test_attention_stores_no_scores():
    """Queries, keys and values, and the bias; the scores of these windows would be eight times as many."""
    layout = window_layout((1, 16, 16), 8, 4, torch.empty(1))
    qkv, bias = torch.randn(4, 64, 3, 2, 2, requires_grad=True), torch.randn(2, 64, 64, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        window_attention(qkv, layout, bias=bias)
    assert sum(kept) <= qkv.numel() + bias.numel()


def test_torch_func_differentiates():
    layout = window_layout((1, 3, 4), 2, 1, torch.empty(1))
    x = torch.randn(1, 3, 4, 6)

    def total(x: Tensor) -> Tensor:
        return (layout.join(layout.cut(x, x.new_zeros(6)), (1, 3, 4)) ** 2).sum()

    torch.testing.assert_close(torch.func.grad(total)(x), 2 * x)


def test_layouts_are_kept_and_fit_every_mode():
    size, like = (2, 9, 11), torch.empty(1)
    with FakeTensorMode():
        assert isinstance(window_layout(size, 4, 2, torch.empty(1)).source, FakeTensor)
    with torch.inference_mode():
        layout = window_layout(size, 4, 2, like)
    assert window_layout(size, 4, 2, like) is layout
    assert window_layout(size, 4, 2, like.double()).masks[1].dtype == torch.float64
    x = torch.randn(*size, 3, requires_grad=True)
    layout.join(layout.cut(x, torch.zeros(3)), size).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
