"""Label maps of images that are too large for the network, from overlapping windows and in little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from ..layers.interpolation import Span
from ..layers.label_map import LogitMap, MeanOfWindows, label_map, window_starts

__all__ = ['labels_by_windows']


def labels_by_windows(
    image: np.ndarray,
    window: tuple[int, int],
    stride: tuple[int, int],
    logits_of: Callable[[list[np.ndarray]], Sequence[LogitMap]],
    *,
    at_once: int = 1,
    threshold: float = 0.5,
    dtype: type[np.integer] = np.uint8,
) -> np.ndarray:
    """The label map of an image, (H, W), from logits that are averaged where windows overlap.

    Windows go through the network row by row. Once a row of windows is done, the labels above the next one are final:
    they are written, and windows that reach no further are forgotten. So what is held at a time is the logits, as small
    as the head gives them, of the windows that one line of pixels touches::

        ceil(window height / stride) rows of windows x W / stride windows x C x (h / 4) x (w / 4) x 4 bytes

    for a head at a quarter of the window's size, however high the image is.

    Args:
        image: (H, W, 3).
        window: height and width of the windows, in pixels; larger than the image: as large as it.
        stride: from one window to the next, down and across.
        logits_of: the logits of some windows, each as large as its window.
        at_once: windows for one call of ``logits_of``.
        threshold: of a network with a single channel, whose probabilities are averaged instead.
        dtype: of the labels.
    """
    height, width = (min(side, whole) for side, whole in zip(window, image.shape))
    tops, lefts = (window_starts(*each) for each in zip(image.shape, (height, width), stride))
    labels = np.empty(image.shape[:2], dtype)
    kept: list[tuple[LogitMap, int, int]] = []
    for top, following in zip(tops, [*tops[1:], len(image)]):
        for first in range(0, len(lefts), at_once):
            some = lefts[first : first + at_once]
            logits = logits_of([image[top : top + height, left : left + width] for left in some])
            kept += [(each, top, left) for each, left in zip(logits, some)]
        band = MeanOfWindows([(each, row - top, left) for each, row, left in kept], (following - top, image.shape[1]))
        labels[top:following] = _labels(band, threshold).cpu().numpy()
        kept = [each for each in kept if each[1] + height > following]
    return labels


def _labels(logits: LogitMap, threshold: float) -> Tensor:
    if len(logits.logits) > 1:
        return label_map(logits)
    rows, cols = (Span(0, side) for side in logits.size)
    return logits.block(rows, cols)[:, 0] > threshold
