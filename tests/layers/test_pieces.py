"""Pieces: only where they save memory, and never of nothing."""

from __future__ import annotations

import pytest
import torch

from densevit.layers import pieces
from densevit.layers.pieces import at_a_time


@pytest.mark.parametrize(('count', 'numbers', 'expected'), [(100, 30, 33), (20, 30, 20), (9, 2000, 1), (0, 30, 1)])
def test_pieces_hold_as_many_numbers_as_there_is_room_for(count, numbers, expected, monkeypatch):
    monkeypatch.setattr(pieces, 'NUMBERS', 1000)
    with torch.no_grad():
        assert at_a_time(torch.empty(0), count, numbers) == expected
        assert at_a_time(torch.empty(0, device='meta'), count, numbers) == max(count, 1)
    assert at_a_time(torch.empty(0), count, numbers) == max(count, 1)  # a gradient needs all
