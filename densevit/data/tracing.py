"""Watching a data pipeline: what each transform did to an image, and where in the original the result lies.

A transform says little of what it did. So the image before it is held against the one after it; and since a crop or a
flip is a view of the same memory, that tells which part of the image is left and which way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mmengine.dataset import Compose

__all__ = ['Placement', 'Trace', 'Watched', 'by_sides', 'watch']

# Transforms that draw every pixel anew and leave it in its place.
_COLOURS = re.compile(r'PhotoMetric|Colou?r|Bright|Contrast|Sharp|Equalize|Posterize|Solarize|Invert|CLAHE|Gamma|Gray')


@dataclass(frozen=True)
class Placement:
    """Where in the original a picture lies: its pixel (x, y) shows the original's (left + x * dx, top + y * dy)."""

    left: float = 0.0
    top: float = 0.0
    dx: float = 1.0  # original pixels for one of the picture; negative where it is flipped
    dy: float = 1.0

    def region(self, height: int, width: int) -> tuple[float, float, float, float]:
        """What a picture of this size shows of the original: x1, y1, x2, y2."""
        xs, ys = (self.left, self.left + width * self.dx), (self.top, self.top + height * self.dy)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass
class Trace:
    """What transforms did to an image."""

    placement: Placement | None = field(default_factory=Placement)
    steps: list[str] = field(default_factory=list)
    labels_at: tuple[int, int] | None = None  # size of the image when its labels were loaded

    def reset(self) -> None:
        """Begin with another image."""
        self.placement, self.steps, self.labels_at = Placement(), [], None


def watch(pipeline: Compose, trace: Trace) -> None:
    """Let the transforms of a pipeline note in ``trace`` what they do.

    Also those inside others: of ``RandomChoice``, which has pipelines in it, of ``RandomApply``, which has one.
    """
    inner = pipeline.transforms
    if not isinstance(inner, list):
        watch(inner, trace)
        return
    for position, step in enumerate(inner):
        if hasattr(step, 'transforms'):
            watch(step, trace)
        else:
            inner[position] = Watched(step, trace)


class Watched:
    """A transform that notes what it did."""

    def __init__(self, transform: Any, trace: Trace) -> None:
        self.transform = transform
        self.trace = trace
        self.name = type(transform).__name__

    def __call__(self, data: dict) -> dict | None:
        before = data.get('img')
        size = before.shape[:2] if before is not None else None
        if self.name == 'LoadAnnotations':
            self.trace.labels_at = size
        # a transform may write into the image it got
        kept = before.copy() if before is not None and _COLOURS.search(self.name) else before
        result = self.transform(data)
        if result is None:
            self.trace.steps.append(f'{self.name}: dropped the image')
        elif before is not None and result.get('img') is not None:
            self._note(kept, before, result['img'], result)
        return result

    def _note(self, kept: np.ndarray, before: np.ndarray, after: np.ndarray, result: dict) -> None:
        steps, old = self.trace.steps, self.trace.placement
        moved = _moved(before, after)
        height, width = after.shape[:2]
        if _COLOURS.search(self.name):
            steps.append(f'{self.name}: {"left as it was" if np.array_equal(kept, after) else "colours changed"}')
        elif after is before:
            if 'Flip' in self.name or 'Crop' in self.name:
                steps.append(f'{self.name}: left as it was')
        elif moved is not None:
            x, y, along, down = moved
            if along < 0 or down < 0:
                direction = {(-1, 1): 'horizontally', (1, -1): 'vertically'}.get((along, down), 'both ways')
                steps.append(f'{self.name}: flipped {direction}')
            if after.shape != before.shape:
                steps.append(f'{self.name}: {by_sides(after.shape)} of {by_sides(before.shape)}, from x {x} and y {y}')
            elif along > 0 and down > 0:
                steps.append(f'{self.name}: left as it was')
            # a flipped picture begins at the far edge of its first pixel
            x, y = x + (along < 0), y + (down < 0)
            if old is not None:
                self.trace.placement = Placement(
                    old.left + x * old.dx, old.top + y * old.dy, old.dx * along, old.dy * down
                )
        elif 'Resize' in self.name:
            ratio = height / before.shape[0], width / before.shape[1]
            factor = f'{by_sides(before.shape)} to {by_sides(after.shape)}, x {(ratio[0] * ratio[1]) ** 0.5:.2f}'
            steps.append(f'{self.name}: {"left as it was" if ratio == (1, 1) else factor}')
            if old is not None:
                self.trace.placement = replace(old, dx=old.dx / ratio[1], dy=old.dy / ratio[0])
        else:
            steps.append(f'{self.name}: {by_sides(before.shape)} to {by_sides(after.shape)}')
            self.trace.placement = None


def _moved(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int] | None:
    """Where in ``before`` the first pixel of its view ``after`` is (x, y), and which way its columns and rows run.

    None where ``after`` has memory of its own.
    """
    if not np.may_share_memory(before, after) or before.ndim != after.ndim:
        return None
    down, along = (new // old for new, old in zip(after.strides[:2], before.strides[:2], strict=True))
    if {abs(down), abs(along)} != {1}:
        return None
    offset = after.__array_interface__['data'][0] - before.__array_interface__['data'][0]
    row, column = before.strides[:2]
    # offset = y * row + x * column with less than a row in all x
    y = -(-offset // row) if (row < 0) != (column < 0) else offset // row
    return (offset - y * row) // column, y, along, down


def by_sides(shape: Any) -> str:
    """'480 x 640' of a shape."""
    return f'{shape[0]} x {shape[1]}'
