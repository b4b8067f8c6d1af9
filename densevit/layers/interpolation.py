"""Bilinear interpolation of a part of a map: what ``F.interpolate`` gives there, without the rest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ['Axis', 'Span', 'calculated_in', 'halves', 'interpolated_axis', 'on_cpu', 'rectangles']


class Span(NamedTuple):
    """The positions from ``start`` to before ``stop`` on an axis."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many they are; 0 or less: none."""
        return self.stop - self.start

    def shared_with(self, other: Span) -> Span:
        """The positions that are also in ``other``."""
        return Span(max(self.start, other.start), min(self.stop, other.stop))

    def moved(self, by: int) -> Span:
        """All positions plus ``by``."""
        return Span(self.start + by, self.stop + by)


def halves(rows: Span, cols: Span) -> Iterator[tuple[Span, Span]]:
    """The halves of a rectangle, cut across its longer side.

    Columns are cut into multiples of 64 where they are more: torch reduces other axes 64 columns at a time, and those
    that remain one by one.
    """
    if rows.size > cols.size:
        middle = (rows.start + rows.stop) // 2
        yield Span(rows.start, middle), cols
        yield Span(middle, rows.stop), cols
    else:
        width = cols.size // 2 if cols.size <= 64 else max(64, round(cols.size / 128) * 64)
        yield rows, Span(cols.start, cols.start + width)
        yield rows, Span(cols.start + width, cols.stop)


def rectangles(rows: Span, cols: Span, pixels: int) -> Iterator[tuple[Span, Span]]:
    """Cut a rectangle into rectangles of at most ``pixels``."""
    if rows.size * cols.size <= max(pixels, 1):
        yield rows, cols
    else:
        for half in halves(rows, cols):
            yield from rectangles(*half, pixels)


def calculated_in(x: Tensor) -> torch.dtype:
    """float32 for half precision, else the dtype of ``x``."""
    return torch.promote_types(x.dtype, torch.float32)


def on_cpu(x: Tensor) -> bool:
    """Whether small pieces that stay in the cache are best, and it costs nothing to look at a result."""
    return x.device.type == 'cpu'


class Axis:
    """Linear interpolation along one axis, from ``before`` to ``after`` positions.

    Maps are (H, C, W) here: a row of all channels is one piece of memory. Rows and columns are interpolated by products
    with small matrices, of which a rectangle needs only the part below it.

    Args:
        before: number of positions.
        after: number of positions to interpolate.
        align_corners: as in ``F.interpolate``.
        dtype: to calculate with.
        device: of the maps.
    """

    def __init__(self, before: int, after: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> None:
        position = torch.arange(after, dtype=dtype)
        # torch divides two numbers of the dtype; so does this, to have its positions
        if align_corners:
            position *= torch.tensor(before - 1, dtype=dtype) / max(after - 1, 1)
        else:
            position = (torch.tensor(before, dtype=dtype) / after * (position + 0.5) - 0.5).clamp_(min=0)
        lower = position.long().clamp_(max=before - 1)
        weight = (position - lower).clamp_(0, 1)  # of the upper neighbour
        upper = (lower + (weight > 0)).clamp_(max=before - 1)
        self.is_identity = before == after
        self._ends = lower.tolist(), upper.tolist()
        self._lower, self._upper, self._weight = (each.to(device) for each in (lower, upper, weight))
        self._matrices: dict[Span, Tensor] = {}

    def below(self, span: Span) -> Span:
        """The positions from which those of ``span`` are interpolated."""
        lower, upper = self._ends
        return Span(lower[span.start], upper[span.stop - 1] + 1)

    def matrix(self, span: Span) -> Tensor:
        """Weights of the positions ``below(span)`` in those of ``span``, (below, span); kept."""
        if span not in self._matrices:
            part, start = slice(*span), self.below(span).start
            index = torch.arange(span.size, device=self._weight.device)
            matrix = self._weight.new_zeros(self.below(span).size, span.size)
            matrix[self._lower[part] - start, index] = 1 - self._weight[part]
            matrix[self._upper[part] - start, index] += self._weight[part]
            self._matrices[span] = matrix
        return self._matrices[span]

    def rows(self, x: Tensor, span: Span) -> Tensor:
        """Interpolate rows: ``x`` holds those of ``below(span)``, (below, C, W); the result is (span, C, W).

        Rounds as torch's kernel for contiguous maps does on a CPU (which begins with the columns).
        """
        if self.is_identity:
            return x
        if not on_cpu(x):
            return self._gathered(x, span, 0)
        # backwards, as torch's kernel begins with the upper neighbour
        return (self.matrix(span).flip(0).t() @ x.flip(0).flatten(1)).unflatten(1, x.shape[1:])

    def cols(self, x: Tensor, span: Span) -> Tensor:
        """Interpolate columns in the same way: (H, C, below) to (H, C, span)."""
        if self.is_identity:
            return x
        return x.flip(2) @ self.matrix(span).flip(0) if on_cpu(x) else self._gathered(x, span, 2)

    def _gathered(self, x: Tensor, span: Span, dim: int) -> Tensor:
        # not a product of matrices, as a GPU may be set to round their elements to 10 bits
        part, start = slice(*span), self.below(span).start
        lower, upper = (x.index_select(dim, index[part] - start) for index in (self._lower, self._upper))
        weight = self._weight[part].reshape([-1 if axis == dim else 1 for axis in range(3)])
        return upper.mul_(weight).addcmul_(lower, 1 - weight)


@lru_cache(maxsize=16)
def interpolated_axis(before: int, after: int, align_corners: bool, dtype: torch.dtype, device: torch.device) -> Axis:
    """The :class:`Axis` of these arguments, kept for the next image of the same size."""
    with torch.inference_mode(False):  # what is made in inference mode cannot be used outside of it
        return Axis(before, after, align_corners, dtype, device)
