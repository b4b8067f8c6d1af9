"""Windows: cut and joined without loss, masked and biased as the official loops do it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from densevit.layers import (
    cut_windows,
    join_windows,
    pad_to_multiple,
    relative_position_bias,
    shift_mask,
    window_attention,
)

SIZES = ((4, 6), (7, 5), (1, 9), (3, 2))


def tokens(*size: int) -> Tensor:
    """Different numbers from 1 on, so that padding shows."""
    return torch.arange(1, 1 + torch.Size(size).numel(), dtype=torch.float64).reshape(size)


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize(('side', 'shift'), [(2, 0), (2, 1), (3, 0), (3, 1), (4, 3), (1, 0)])
def test_windows_are_joined_as_they_were_cut(size, side, shift):
    x = tokens(2, *size, 3)
    windows = cut_windows(x, side, shift)
    rows, columns = -(-size[0] // side), -(-size[1] // side)
    assert windows.shape == (2, rows * columns, side * side, 3)
    assert windows.count_nonzero() == x.numel()
    assert torch.equal(join_windows(windows, size, side, shift), x)


def test_windows_run_row_by_row():
    x = tokens(1, 3, 5, 1)  # 1..5, 6..10, 11..15
    assert cut_windows(x, 2)[0, :, :, 0].tolist() == [
        [1, 2, 6, 7], [3, 4, 8, 9], [5, 0, 10, 0], [11, 12, 0, 0], [13, 14, 0, 0], [15, 0, 0, 0],
    ]  # fmt: skip
    # padded to 4 x 6, then rolled by one: the first row and column come last
    assert cut_windows(x, 2, 1)[0, :, :, 0].tolist() == [
        [7, 8, 12, 13], [9, 10, 14, 15], [0, 6, 0, 11], [0, 0, 2, 3], [0, 0, 4, 5], [0, 0, 0, 1],
    ]  # fmt: skip


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (9, 1)], ids=str)
def test_padding_is_right_and_bottom_and_only_where_needed(size):
    x = tokens(1, *size, 2)
    padded = pad_to_multiple(x, 3)
    assert all(0 <= after - before < 3 and after % 3 == 0 for before, after in zip(size, padded.shape[1:3]))
    assert torch.equal(padded[:, : size[0], : size[1]], x)
    assert padded.count_nonzero() == x.numel()


def official_mask(size: tuple[int, int], side: int, shift: int) -> Tensor:
    """The nine regions of the official code, one after the other, on the padded map."""
    height, width = (length + -length % side for length in size)
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


@pytest.mark.parametrize('size', [*SIZES, (12, 9)], ids=str)
@pytest.mark.parametrize(('side', 'shift'), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_mask_is_the_official_one(size, side, shift):
    mask = shift_mask(size, side, shift, torch.empty(1))
    assert torch.equal(mask, official_mask(size, side, shift))
    # on maps that are not square, too, every query sees itself
    assert not mask.diagonal(dim1=1, dim2=2).any()
    assert shift_mask(size, side, shift, torch.empty(1, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_mask_parts_what_the_roll_brought_together():
    """Rolled-round tokens never see others; neighbours in the map always see each other, and padding is no border."""
    rolled = cut_windows(tokens(1, 4, 4, 1), 4, 1)[0, 0, :, 0]
    sees = shift_mask((3, 4), 4, 1, rolled)[0] == 0
    rows, columns = (rolled.long() - 1) // 4, (rolled.long() - 1) % 4
    for values in (rows, columns):
        last = values == 0  # came from the other end
        assert not (sees & (last[:, None] != last)).any()
    assert sees[0].sum() == 9  # 3 x 3, of which one row is padding


@pytest.mark.parametrize('side', [1, 2, 3, 7])
def test_bias_is_looked_up_by_distance(side):
    table = torch.randn(2 * side - 1, 2 * side - 1, 3)
    bias = relative_position_bias(table)
    places = list(itertools.product(range(side), range(side)))
    assert bias.shape == (3, len(places), len(places))
    for (q, (y, x)), (k, (row, column)) in itertools.product(enumerate(places), enumerate(places)):
        assert torch.equal(bias[:, q, k], table[y - row + side - 1, x - column + side - 1])


@pytest.mark.parametrize('backend', ['reference', 'sdpa', 'auto'])
@pytest.mark.parametrize('masked', [False, True], ids=['plain', 'masked'])
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('scale', [None, 1.0])
def test_attention_is_the_formula_in_every_window(backend, masked, batch, scale):
    q, k, v = (torch.randn(batch, 6, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    mask = shift_mask((3, 5), 2, 1, bias) if masked else None
    found = window_attention(q, k, v, bias=bias, mask=mask, scale=scale, backend=backend)

    scores = torch.einsum('bnhid,bnhjd->bnhij', q, k) * (5**-0.5 if scale is None else scale) + bias
    if mask is not None:
        scores = scores + mask[None, :, None]
    expected = torch.einsum('bnhij,bnhjd->bnhid', scores.softmax(dim=-1), v)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    inputs = (q, k, v, bias)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), inputs), torch.autograd.grad((expected * weights).sum(), inputs)
    )
