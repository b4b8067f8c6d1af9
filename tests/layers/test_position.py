"""Position tables as maps of any size, against interpolation point by point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from densevit.layers import resample_position


def bilinear(table: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Each position takes the mean of the four entries around its centre, weighted by closeness."""
    entries = table.reshape(*grid, -1)
    rows = []
    for row in range(size[0]):
        y = min(max((row + 0.5) * grid[0] / size[0] - 0.5, 0), grid[0] - 1)
        top, cells = min(int(y), grid[0] - 2) if grid[0] > 1 else 0, []
        below = min(top + 1, grid[0] - 1)
        for column in range(size[1]):
            x = min(max((column + 0.5) * grid[1] / size[1] - 0.5, 0), grid[1] - 1)
            left = min(int(x), grid[1] - 2) if grid[1] > 1 else 0
            right = min(left + 1, grid[1] - 1)
            upper = entries[top, left] * (left + 1 - x) + entries[top, right] * (x - left)
            lower = entries[below, left] * (left + 1 - x) + entries[below, right] * (x - left)
            cells.append(upper * (top + 1 - y) + lower * (y - top))
        rows.append(torch.stack(cells))
    return torch.stack(rows)[None]


@pytest.mark.parametrize('grid', [(4, 6), (7, 7), (1, 5)], ids=str)
@pytest.mark.parametrize('size', [(8, 12), (3, 5), (5, 3), (9, 2), (1, 1)], ids=str)
def test_equals_interpolation_point_by_point(grid, size):
    table = torch.randn(1, grid[0] * grid[1], 3, dtype=torch.float64, requires_grad=True)
    found, expected = resample_position(table, grid, size), bilinear(table, grid, size)
    assert found.shape == (1, *size, 3)
    torch.testing.assert_close(found, expected)
    target = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * target).sum(), table), torch.autograd.grad((expected * target).sum(), table)
    )


@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_its_own_grid_gives_the_table_itself(mode):
    table = torch.randn(1, 24, 3)
    found = resample_position(table, (4, 6), (4, 6), mode)
    assert found.data_ptr() == table.data_ptr()
    assert torch.equal(found[0, 2, 5], table[0, 2 * 6 + 5])
    assert torch.equal(resample_position(table, (4, 6), torch.Size([4, 6]), mode), found)


def test_a_grid_that_is_turned_is_another_grid():
    table = torch.randn(1, 24, 3)
    turned = resample_position(table, (4, 6), (6, 4))
    assert turned.shape == (1, 6, 4, 3)
    assert not torch.allclose(turned, table.view(1, 6, 4, 3), atol=1e-2)


def test_modes_differ():
    table = torch.randn(1, 24, 3)
    linear, cubic = (resample_position(table, (4, 6), (8, 9), mode) for mode in ('bilinear', 'bicubic'))
    assert not torch.allclose(linear, cubic, atol=1e-2)
    assert linear.amax() <= table.amax() and linear.amin() >= table.amin()  # a mean of entries
    assert cubic.amax() > table.amax() or cubic.amin() < table.amin()  # cubic weights are negative in part
