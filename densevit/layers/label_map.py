"""From the logits of a head to the label map of an image, without the logits of every pixel in between.

A head gives logits at a quarter of the input's size. They are resized to the input, its padding is cut off, it is
flipped back, and the rest is resized to the original image; where windows were slid over the input, the logits of
overlapping windows are averaged before that. Only then comes the largest of the classes: 1.8 GB of logits for 24 MB of
labels, with 150 classes and 1500 x 2000 pixels.

Each step is an object that reads from the one before it (:class:`LogitMap`). :meth:`LogitMap.whole` computes all of it,
:meth:`LogitMap.block` only a rectangle, from what lies below the rectangle. :func:`label_map` goes over blocks that fit
the cache.

A block rarely needs all classes. Every step is a mean whose weights are at least 0 and add up to 1, so a logit of the
block is never above the largest, nor below the smallest, of its class below the block. A class whose largest is less
than the smallest of another one wins nowhere in the block; where one class is left, the block is done. Rounding keeps
the order of numbers, so this holds for the rounded values too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .interpolation import Axis, Span, calculated_in, halves, interpolated_axis, on_cpu

__all__ = ['CroppedMap', 'LogitMap', 'MeanOfWindows', 'ResizedMap', 'StoredMap', 'label_map', 'window_starts']

# Logits in a block: on a CPU they and what they are computed from fit the L2 cache, on a GPU they are worth a launch.
_CPU_BLOCK, _GPU_BLOCK = 800_000, 2**24
# A rectangle of more blocks than this is halved before any class is looked at, as few could be left out.
_WORTH_LOOKING = 16
# Stands for infinity, of which 0 times is not 0.
_LARGEST = 1e30


class LogitMap:
    """Logits of one image, each computed when it is asked for.

    Attributes:
        size: height and width.
        logits: those that it is computed from, (C, h, w), or the first of several.
    """

    size: tuple[int, int]
    logits: Tensor

    def whole(self) -> Tensor:
        """All logits, (1, C, H, W), as ``F.interpolate`` computes them."""
        raise NotImplementedError

    def block(self, rows: Span, cols: Span, channels: Tensor | None = None) -> Tensor:
        """Those of a rectangle, (rows, C, cols), or of the given channels only; float32, or float64 where given."""
        raise NotImplementedError

    def bounds(self, rows: Span, cols: Span, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For each channel a number that none of the rectangle is below, and one that none is above."""
        raise NotImplementedError


class StoredMap(LogitMap):
    """Logits that a head has computed.

    Args:
        logits: (C, H, W). In half precision they stay so, and are calculated with in float32.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits.contiguous()
        self.size = (logits.shape[1], logits.shape[2])

    def whole(self) -> Tensor:
        """All logits, (1, C, H, W)."""
        return self.logits[None]

    def block(self, rows: Span, cols: Span, channels: Tensor | None = None) -> Tensor:
        """Those of a rectangle, (rows, C, cols)."""
        part = self._part(rows, cols, channels).transpose(0, 1)
        return part.to(calculated_in(part)).clamp(-_LARGEST, _LARGEST)

    def bounds(self, rows: Span, cols: Span, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of each channel."""
        part = self._part(rows, cols, channels).flatten(1)  # a copy, over which a reduction is several times faster
        return part.amin(1), part.amax(1)

    def _part(self, rows: Span, cols: Span, channels: Tensor | None) -> Tensor:
        part = self.logits[:, slice(*rows), slice(*cols)]
        return part if channels is None else part.index_select(0, channels)


class ResizedMap(LogitMap):
    """Another map, resized bilinearly.

    Args:
        source: the other map.
        size: height and width to resize to.
        align_corners: as in ``F.interpolate``.
    """

    def __init__(self, source: LogitMap, size: tuple[int, int], align_corners: bool) -> None:
        self.source, self.size, self.align_corners = source, (int(size[0]), int(size[1])), align_corners
        self.logits = source.logits

    def whole(self) -> Tensor:
        """All logits, (1, C, H, W)."""
        whole = self.source.whole()
        if self.size == self.source.size:
            return whole
        return F.interpolate(whole, self.size, mode='bilinear', align_corners=self.align_corners)

    def block(self, rows: Span, cols: Span, channels: Tensor | None = None) -> Tensor:
        """Those of a rectangle, (rows, C, cols)."""
        down, across = self._axes()
        x = self.source.block(down.below(rows), across.below(cols), channels)
        return down.rows(across.cols(x, cols), rows)

    def bounds(self, rows: Span, cols: Span, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Those of the other map below the rectangle."""
        down, across = self._axes()
        return self.source.bounds(down.below(rows), across.below(cols), channels)

    def _axes(self) -> list[Axis]:
        kind = (self.align_corners, calculated_in(self.logits), self.logits.device)
        return [interpolated_axis(before, after, *kind) for before, after in zip(self.source.size, self.size)]


class CroppedMap(LogitMap):
    """A rectangle of another map, flipped where asked for.

    Args:
        source: the other map.
        rows: of the rectangle.
        cols: of the rectangle.
        flip: ``'horizontal'`` or ``'vertical'``, or None.
    """

    def __init__(self, source: LogitMap, rows: Span, cols: Span, flip: str | None = None) -> None:
        self.source, self.rows, self.cols, self.flip = source, rows, cols, flip
        self.size = (rows.size, cols.size)
        self.logits = source.logits

    def whole(self) -> Tensor:
        """All logits, (1, C, H, W)."""
        part = self.source.whole()[:, :, slice(*self.rows), slice(*self.cols)]
        return part.flip({'horizontal': 3, 'vertical': 2}[self.flip]) if self.flip else part

    def block(self, rows: Span, cols: Span, channels: Tensor | None = None) -> Tensor:
        """Those of a rectangle, (rows, C, cols)."""
        part = self.source.block(*self._below(rows, cols), channels)
        return part.flip({'horizontal': 2, 'vertical': 0}[self.flip]) if self.flip else part

    def bounds(self, rows: Span, cols: Span, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Those of the other map below the rectangle."""
        return self.source.bounds(*self._below(rows, cols), channels)

    def _below(self, rows: Span, cols: Span) -> tuple[Span, Span]:
        if self.flip == 'vertical':
            rows = Span(self.size[0] - rows.stop, self.size[0] - rows.start)
        elif self.flip == 'horizontal':
            cols = Span(self.size[1] - cols.stop, self.size[1] - cols.start)
        return rows.moved(self.rows.start), cols.moved(self.cols.start)


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First positions of the windows along an axis, as mmsegmentation slides them: the last one ends with the axis."""
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


class MeanOfWindows(LogitMap):
    """The mean of the windows at each position.

    Args:
        windows: (map, first row, first column) of each; together they cover all.
        size: height and width of what they cover.
    """

    def __init__(self, windows: list[tuple[LogitMap, int, int]], size: tuple[int, int]) -> None:
        self.windows, self.size = windows, size
        self.logits = windows[0][0].logits

    def whole(self) -> Tensor:
        """All logits, (1, C, H, W)."""
        total = self.logits.new_zeros(1, len(self.logits), *self.size)
        count = self.logits.new_zeros(1, 1, *self.size)
        for window, row, col in self.windows:
            place = (..., slice(row, row + window.size[0]), slice(col, col + window.size[1]))
            total[place] += window.whole()
            count[place] += 1
        return total.div_(count)

    def block(self, rows: Span, cols: Span, channels: Tensor | None = None) -> Tensor:
        """Those of a rectangle, (rows, C, cols)."""
        depth = len(self.logits) if channels is None else len(channels)
        total = torch.zeros(rows.size, depth, cols.size, dtype=calculated_in(self.logits), device=self.logits.device)
        count = total.new_zeros(rows.size, 1, cols.size)
        for window, rows_here, cols_here, row, col in self._windows_in(rows, cols):
            place = (slice(*rows_here.moved(-rows.start)), slice(None), slice(*cols_here.moved(-cols.start)))
            total[place] += window.block(rows_here.moved(-row), cols_here.moved(-col), channels)
            count[place] += 1
        return total.div_(count)

    def bounds(self, rows: Span, cols: Span, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of the windows'."""
        bounds = [
            window.bounds(rows_here.moved(-row), cols_here.moved(-col), channels)
            for window, rows_here, cols_here, row, col in self._windows_in(rows, cols)
        ]
        lower, upper = (torch.stack(each) for each in zip(*bounds))
        return lower.amin(0), upper.amax(0)

    def _windows_in(self, rows: Span, cols: Span) -> Iterator[tuple[LogitMap, Span, Span, int, int]]:
        """The windows that reach into the rectangle: what they share with it, and their first row and column."""
        for window, row, col in self.windows:
            rows_here = rows.shared_with(Span(row, row + window.size[0]))
            cols_here = cols.shared_with(Span(col, col + window.size[1]))
            if rows_here.size > 0 and cols_here.size > 0:
                yield window, rows_here, cols_here, row, col


@torch.no_grad()
def label_map(logits: LogitMap) -> Tensor:
    """The class of the largest logit at each position, the first one where several are, as ``argmax`` has it.

    Returns:
        int64, (H, W).
    """
    labels = torch.empty(logits.size, dtype=torch.int64, device=logits.logits.device)
    count = len(logits.logits)
    kind = dict(dtype=calculated_in(logits.logits), device=labels.device)
    # what a sum over the classes of a block multiplies them with, see _argmax
    sums = torch.stack((torch.arange(count, **kind), torch.ones(count, **kind)))
    with torch.autocast(labels.device.type, enabled=False):
        _fill(labels, logits, Span(0, logits.size[0]), Span(0, logits.size[1]), None, sums)
    return labels


def _fill(
    labels: Tensor,
    logits: LogitMap,
    rows: Span,
    cols: Span,
    classes: Tensor | None,
    sums: Tensor,
    look: bool = True,
) -> None:
    """Write the labels of a rectangle.

    Args:
        labels: of the whole map.
        logits: of the whole map.
        rows: of the rectangle.
        cols: of the rectangle.
        classes: those that can win there; None: all.
        sums: see :func:`_argmax`; as long as ``classes``.
        look: whether to look for classes to leave out before the rectangle is as small as a block.
    """
    limit = _CPU_BLOCK if on_cpu(labels) else _GPU_BLOCK
    pixels = rows.size * cols.size
    is_block = pixels * sums.shape[1] <= limit or pixels == 1
    # a GPU would wait for the bounds
    if on_cpu(labels) and (is_block or look and pixels * sums.shape[1] <= _WORTH_LOOKING * limit):
        lower, upper = logits.bounds(rows, cols, classes)
        kept = (~(upper < lower.max())).nonzero()[:, 0]
        look = len(kept) < sums.shape[1]
        if look:
            classes = kept if classes is None else classes[kept]
            sums = sums[:, : len(classes)]
            is_block = pixels * len(classes) <= limit or pixels == 1
    if sums.shape[1] == 1:
        labels[slice(*rows), slice(*cols)] = 0 if classes is None else classes
    elif is_block:
        found = _argmax(logits.block(rows, cols, classes), sums)
        labels[slice(*rows), slice(*cols)] = found if classes is None else classes[found]
    else:
        for half in halves(rows, cols):
            _fill(labels, logits, *half, classes, sums, look)


def _argmax(x: Tensor, sums: Tensor) -> Tensor:
    """``x.argmax(1)`` of (H, C, W), whose values are lost.

    torch's is ten times slower on a CPU than a maximum, a comparison and a product with the numbers of the classes,
    which gives the number of the only class that has the maximum.
    """
    if not on_cpu(x):
        return x.argmax(1)
    largest = x.eq_(x.amax(1, keepdim=True))
    number, winners = (sums @ largest).unbind(1)
    return number.long() if (winners == 1).all() else largest.argmax(1)
