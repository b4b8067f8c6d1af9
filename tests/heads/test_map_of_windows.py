"""Windows put together."""

from __future__ import annotations

import pytest
import torch

from densevit.heads.map_of_windows import MapOfWindows


def test_meeting_windows_are_averaged():
    maps = MapOfWindows((8, 8), 4)
    for row, column, value in ((0, 0, 1.0), (0, 4, 3.0)):
        maps.add(torch.full((1, 1, 2, 2), value), row, column)
    assert maps.mean()[0, 0].tolist() == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize(('size', 'window', 'stride', 'count', 'expected'), [
    (45, 16, 8, 2, 6),  # the last window begins between two patches
    (50, 20, 8, 3, 7),  # the backbone pads 20 to 24
    (48, 20, 8, 2, 5),  # the backbone drops 4 of 20
    (40, 20, None, 3, 6),
])  # fmt: skip
def test_no_patch_is_left_out(size, window, stride, count, expected):
    maps = MapOfWindows((window, window), stride)
    starts = [*range(0, size - window, window), size - window]
    for row in starts:
        for column in starts:
            maps.add(torch.ones(1, 2, count, count), row, column)
    assert torch.equal(maps.mean(), torch.ones(1, 2, expected, expected))
