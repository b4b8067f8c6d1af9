"""Numbers of COCO files are told from what only looks like them."""

from __future__ import annotations

import pytest

from densevit.data.coco_values import is_number


@pytest.mark.parametrize('value', [0, -3, 2.5, 999_999_999])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize('value', [None, True, '3', [3], float('nan'), float('inf'), -float('inf'), 1e9])
def test_what_is_none(value):
    assert not is_number(value)
