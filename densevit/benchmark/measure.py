"""Time several implementations of the same work side by side, and say whether they computed the same.

A ratio of two times means something only if both were taken under the same conditions and for the same result. So the
sides take turns in one process, in the opposite order every other round, and a ratio exists only where the outputs
agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    'GRADIENT_TOLERANCES',
    'TOLERANCES',
    'Difference',
    'Row',
    'Side',
    'Timing',
    'compare',
    'differences_of',
    'duel',
    'interleave',
    'timer',
]

# Largest difference relative to the largest output at which two results count as the same, by dtype.
TOLERANCES = {'float64': 1e-9, 'float32': 1e-4, 'tf32': 1e-2, 'bf16': 5e-2}
# The same for gradients: a ReLU whose input is zero up to rounding opens or closes, so that in float32 they are less
# accurate than any output. Both sides then lie as far from the gradients in float64 as from each other.
GRADIENT_TOLERANCES = {'float64': 1e-9, 'float32': 1e-2, 'tf32': 5e-2, 'bf16': 2e-1}
# Share of labels, or of pixels of masks, that may differ: those whose two best scores are equal up to rounding.
LABEL_TOLERANCES = {'float64': 0.0, 'float32': 1e-4, 'tf32': 2e-2, 'bf16': 5e-2}
# An output smaller than this part of the largest one is measured against that.
FLOOR = 1e-2

Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Timing:
    """Seconds of each round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        first, third = np.percentile(self.samples, (25, 75))
        return float(first), float(third)

    def to_json(self) -> dict[str, Any]:
        return {'median_s': self.median, 'quartiles_s': list(self.quartiles), 'rounds': len(self.samples)}


@dataclass(frozen=True)
class Difference:
    """How far two results are apart.

    Attributes:
        absolute: the largest difference of two numbers.
        relative: that, relative to the largest number of the same output; the largest of all outputs. An output below
            ``FLOOR`` of the largest one counts as if it were as large as that.
        labels: share of the integers and booleans that differ; the largest of all outputs.
        mismatch: why there is nothing to compare, such as another shape; empty where there is.
    """

    absolute: float = 0.0
    relative: float = 0.0
    labels: float = 0.0
    mismatch: str = ''

    def within(self, dtype: str, tolerance: float | None = None) -> bool:
        """Whether the results count as the same: relative difference and share of labels within what is allowed."""
        allowed = TOLERANCES[dtype] if tolerance is None else tolerance
        # a comparison with nan is false
        return not self.mismatch and self.relative <= allowed and self.labels <= LABEL_TOLERANCES[dtype]

    def __str__(self) -> str:
        if self.mismatch:
            return self.mismatch
        text = f'{self.absolute:.1e} ({self.relative:.1e} of the largest)'
        return text + (f', {self.labels:.1e} of the labels' if self.labels else '')

    def to_json(self) -> dict[str, Any]:
        result = {'absolute': self.absolute, 'relative': self.relative, 'labels': self.labels}
        return result | ({'mismatch': self.mismatch} if self.mismatch else {})


def compare(found: Outputs, expected: Outputs) -> Difference:
    """The difference of two results, output by output, by name."""
    if found.keys() != expected.keys():
        return Difference(mismatch=f'gives {sorted(expected)} instead of {sorted(found)}')
    absolute = relative = labels = 0.0
    # what is nothing but rounding beside the other outputs, as the gradient of a bias before a norm, is not held to be
    # accurate in itself
    numbers = [
        tensor.abs().max().item() for tensor in expected.values() if tensor.is_floating_point() and tensor.numel()
    ]
    floor = FLOOR * max(numbers, default=0.0)
    for name, theirs in expected.items():
        ours = found[name]
        if ours.shape != theirs.shape:
            return Difference(mismatch=f'{name} is {tuple(theirs.shape)} instead of {tuple(ours.shape)}')
        if not theirs.numel():
            continue
        if not theirs.is_floating_point():
            labels = max(labels, (ours != theirs).double().mean().item())
            continue
        apart = (ours.double() - theirs.double()).abs().max()
        if not apart.isfinite():
            return Difference(mismatch=f'{name} is not finite')
        scale = max(theirs.double().abs().max().item(), floor)
        absolute = max(absolute, apart.item())
        relative = max(relative, apart.item() / scale if scale else float(apart > 0))
    return Difference(absolute, relative, labels)


@dataclass(frozen=True)
class Side:
    """One of those that are compared.

    Attributes:
        label: the package, and its flags where it has several.
        run: the work that is timed.
        outputs: does the work once and returns what is compared, by name.
        note: what is to be known of it, such as the flags it runs with.
        before: put in front of every round, and not timed.
        expected: our outputs as this side's ought to be, by its names; by default as they are.
        differs: why it cannot give the same result here; its ratio is not expected then.
    """

    label: str
    run: Callable[[], Any]
    outputs: Callable[[], Outputs]
    note: str = ''
    before: Callable[[], Any] | None = None
    expected: Callable[[Outputs], Outputs] | None = None
    differs: str = ''


@dataclass(frozen=True)
class Row:
    """What was measured of a side.

    Attributes:
        label: see :class:`Side`.
        timing: of the rounds.
        difference: to the first side; None for that itself.
        ratio: its median time by the first side's; None where the results differ.
        note: see :class:`Side`.
        expected_to_differ: see ``Side.differs``.
        extra: anything else, such as ``peak_bytes``.
    """

    label: str
    timing: Timing
    difference: Difference | None = None
    ratio: float | None = None
    note: str = ''
    expected_to_differ: str = ''
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_wrong(self) -> bool:
        """Whether the result differs, and no reason is known."""
        return self.difference is not None and self.ratio is None and not self.expected_to_differ

    def to_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {'label': self.label, **self.timing.to_json()}
        if self.difference is not None:
            result |= {'difference': self.difference.to_json(), 'ratio': self.ratio}
        if self.note:
            result['note'] = self.note
        if self.expected_to_differ:
            result['expected_to_differ'] = self.expected_to_differ
        return result | self.extra


def timer(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """A function that runs its argument and returns the seconds: the wall's, or on CUDA those between two events."""
    if device.type != 'cuda':

        def on_cpu(run: Callable[[], Any]) -> float:
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            del result  # after the clock, for both sides alike
            return seconds

        return on_cpu

    def on_cuda(run: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000

    return on_cuda


def interleave(
    sides: Sequence[Side], *, rounds: int, warmups: int, clock: Callable[[Callable[[], Any]], float]
) -> list[Timing]:
    """Time the sides in turns: A B C, C B A, A B C, ..."""
    samples: list[list[float]] = [[] for _ in sides]
    for turn in range(-warmups, rounds):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for index in order:
            if sides[index].before is not None:
                sides[index].before()
            seconds = clock(sides[index].run)
            if turn >= 0:
                samples[index].append(seconds)
    return [Timing(tuple(of_side)) for of_side in samples]


def differences_of(sides: Sequence[Side]) -> list[Difference]:
    """How far the other sides' outputs are from the first one's."""
    first, *others = sides
    ours, found = first.outputs(), []
    for side in others:
        found.append(compare(side.expected(ours) if side.expected else ours, side.outputs()))
    return found


def duel(
    sides: Sequence[Side],
    *,
    dtype: str,
    rounds: int,
    warmups: int = 2,
    tolerance: float | None = None,
    clock: Callable[[Callable[[], Any]], float] | None = None,
    differences: Sequence[Difference] | None = None,
) -> list[Row]:
    """Compare the outputs of all sides with the first one's, then time them.

    Args:
        sides: ours first.
        dtype: a key of ``TOLERANCES``.
        rounds: how often each side is timed.
        warmups: rounds before these, not counted; the comparison of outputs is one more.
        tolerance: instead of that of the dtype.
        clock: what times a call; by default :func:`timer` of the CPU.
        differences: of the others to the first, where they are known.
    """
    differences = [None, *(differences_of(sides) if differences is None else differences)]
    clock = clock or timer(torch.device('cpu'))
    timings = interleave(sides, rounds=rounds, warmups=warmups, clock=clock)
    rows = []
    for side, timing, difference in zip(sides, timings, differences, strict=True):
        same = difference is not None and difference.within(dtype, tolerance)
        ratio = timing.median / timings[0].median if same else None
        rows.append(Row(side.label, timing, difference, ratio, side.note, side.differs))
    return rows
