"""Leaving random numbers to others as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['random_numbers_restored']


@contextmanager
def random_numbers_restored(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Afterwards Python, numpy and torch, on the CPU and on CUDA's ``devices``, go on as if nothing had been drawn."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
