"""Peaks above what a process held before."""

from __future__ import annotations

import torch

from densevit.benchmark.memory import peak_bytes

MB = 2**20


def test_the_peak_of_a_step_and_not_what_was_there():
    before = torch.ones(30 * MB)  # 120 MB

    def step() -> float:
        return float((before + 1).sum())  # as much again, and freed

    peak = peak_bytes(step, torch.device('cpu'))
    assert 100 * MB < peak < 180 * MB
