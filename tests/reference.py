"""The deterministic fill and the summaries of the golden outputs (see ../shared/facts/golden_outputs.md)."""

from __future__ import annotations

import math

import numpy as np
import torch


def sequence(position: int, count: int) -> np.ndarray:
    """``count`` float64 numbers in [0, 1) that depend on ``position`` only."""
    index = np.arange(count, dtype=np.uint64)
    mixed = index * np.uint64(2654435761) + np.uint64(position * 2246822519 + 12345)
    return (mixed % np.uint64(2**32)).astype(np.float64) / 2**32


def filled_state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights for the official names and shapes, by the fill rule, in float64."""
    return {name: _fill(name, position, tuple(shapes[name])) for position, name in enumerate(sorted(shapes))}


def _fill(name: str, position: int, shape: tuple[int, ...]) -> torch.Tensor:
    last = name.rsplit('.', 1)[-1]
    if last == 'running_var':
        base, amplitude = 1.0, 0.2
    elif last == 'running_mean':
        base, amplitude = 0.0, 0.1
    elif last == 'logit_scale':
        base, amplitude = 2.3, 0.1
    elif last.startswith('gamma_'):
        base, amplitude = 0.1, 0.02
    elif last.startswith('pos_embed') or last in ('cls_token', 'relative_position_bias_table', 'q_bias', 'v_bias'):
        base, amplitude = 0.0, 0.5
    elif last == 'bias':
        base, amplitude = 0.0, 0.05
    elif len(shape) == 1:
        base, amplitude = 1.0, 0.1
    else:
        base, amplitude = 0.0, math.sqrt(3 / math.prod(shape[1:]))
    numbers = base + amplitude * (2 * sequence(position, math.prod(shape)) - 1)
    return torch.from_numpy(numbers).reshape(shape)


def golden_input(shape: list[int]) -> torch.Tensor:
    """The image that every golden output was computed from, in float64."""
    return torch.from_numpy(2 * (2 * sequence(999, math.prod(shape)) - 1)).reshape(shape)


def assert_summary(tensor: torch.Tensor, golden: dict, tolerance: float) -> None:
    """Hold a tensor against {shape, mean, std, abs_sum, first8}."""
    assert list(tensor.shape) == golden['shape']
    flat = tensor.detach().double().flatten()
    assert abs(flat.mean().item() - golden['mean']) < tolerance
    assert abs(flat.std(unbiased=False).item() - golden['std']) < tolerance
    assert abs(flat.abs().sum().item() - golden['abs_sum']) < tolerance * max(1.0, golden['abs_sum'])
    expected = torch.tensor(golden['first8'], dtype=torch.float64)
    torch.testing.assert_close(flat[: len(expected)], expected, rtol=tolerance, atol=tolerance)
