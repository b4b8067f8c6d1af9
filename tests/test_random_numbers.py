"""Random numbers that are drawn within go back to what they were, also where something fails."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from densevit.random_numbers import random_numbers_restored


def drawn() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_within_is_given_back():
    with random_numbers_restored():
        first = drawn()
        assert drawn() != first
    with pytest.raises(ZeroDivisionError), random_numbers_restored():
        assert drawn() == first
        _ = 1 / 0
    assert drawn() == first
