"""Peaks above what a process held before."""

from __future__ import annotations

import pytest
import torch

from densevit.benchmark.memory import in_child, peak_bytes
from densevit.benchmark.run import Options, inspect
from densevit.errors import UserError
from tests.benchmark.tiny import SIZE, SWIN_NAME

MB = 2**20


def test_the_peak_of_a_step_and_not_what_was_there():
    before = torch.ones(30 * MB)  # 120 MB

    def step() -> float:
        return float((before + 1).sum())  # as much again, and freed

    peak = peak_bytes(step, torch.device('cpu'))
    assert 100 * MB < peak < 180 * MB


def test_a_child_measures_a_model():
    options = Options(size=SIZE, rounds=1, warmups=0)
    result = inspect(SWIN_NAME, options)
    assert 0 <= result['peak_bytes'] < 500 * MB


def test_a_child_that_fails_says_why():
    with pytest.raises(UserError, match=r"status 1: .*KeyError: 'threads'"):
        in_child({})
