"""Run-length codes of masks as COCO writes them, for many masks at once.

COCO counts pixels column after column: so many zeros, so many ones, and so on. ``counts`` is a string with six bits of
payload per character (``rleToString`` in https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ['compress_runs', 'encode_crops', 'runs_to_rle']


def compress_runs(runs: np.ndarray, lengths: np.ndarray) -> list[bytes]:
    """The strings of some masks' run lengths.

    From its fourth on, a run is written as the difference to the one before the last; a number takes five bits per
    character, lowest first, and the sixth says that more follow.

    Args:
        runs: (sum of lengths,) integers, one mask after the other, each beginning with a run of zeros.
        lengths: (N,), runs per mask.
    """
    ends = np.cumsum(lengths)
    values = runs.astype(np.int64)
    if len(values) > 2:
        place = np.arange(len(values)) - np.repeat(ends - lengths, lengths)
        values[2:] -= np.where(place[2:] > 2, runs[:-2], 0)
    columns, written, more = [], [], np.ones(len(values), bool)
    while more.any():
        written.append(more)
        digit = values & 31
        values >>= 5
        more = more & np.where(digit & 16, values != -1, values != 0)
        columns.append((digit + 32 * more + 48).astype(np.uint8))
    if not columns:
        return [b''] * len(lengths)
    keep = np.stack(written, axis=1)
    text = np.stack(columns, axis=1)[keep].tobytes()
    number = np.zeros(len(keep) + 1, np.int64)  # characters before each run
    for each in written:
        number[1:] += each
    bounds = np.cumsum(number)[np.concatenate(([0], ends))].tolist()
    return [text[low:high] for low, high in zip(bounds, bounds[1:])]


def runs_to_rle(changes: np.ndarray, number: np.ndarray, size: tuple[int, int]) -> list[dict[str, list[int] | bytes]]:
    """Run-length codes of masks that are given by the places where their value changes.

    Args:
        changes: ascending places in column-major order, one mask after the other; ones begin at the first of a mask,
            zeros at its second, and so on. A last change at H * W, after the last pixel, is allowed.
        number: (N,), changes per mask.
        size: (H, W) of all masks.
    """
    area, number = size[0] * size[1], np.asarray(number)
    ends = np.cumsum(number)
    bounds = np.insert(changes, np.concatenate(([0], ends)), 0)  # a 0 before every mask, and one too many at the end
    starts = np.concatenate(([0], ends)) + np.arange(len(number) + 1)
    following = np.append(bounds[1:], area)
    following[starts[1:] - 1] = area  # after the last change of a mask
    runs = (following - bounds)[:-1]
    last = starts[1:] - 1
    keep = np.ones(len(runs), bool)
    keep[last] = (runs[last] > 0) | (number == 0)
    return [
        {'size': [int(size[0]), int(size[1])], 'counts': counts}
        for counts in compress_runs(runs[keep], number + 1 - ~keep[last])
    ]


def encode_crops(
    crops: np.ndarray, boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]
) -> list[dict[str, list[int] | bytes]]:
    """Run-length codes of masks that are zero but for a rectangle; the cost is that of the rectangles.

    Args:
        crops: (sum of w * (h + 1),) bool or uint8 of zeros and ones, the rectangles one after the other, each by
            columns and each column followed by one zero.
        boxes: (left, top, width, height) of each rectangle, inside the mask.
        size: (H, W) of the masks.
    """
    left, top, width, height = np.asarray(boxes, np.int64).reshape(-1, 4).T
    ends = np.cumsum(width * (height + 1))
    crops = crops.view(np.uint8)
    changes = np.flatnonzero(crops[1:] != crops[:-1]) + 1
    if len(crops) and crops[0]:
        changes = np.insert(changes, 0, 0)
    number = np.diff(np.searchsorted(changes, ends), prepend=0)
    begin, top, left, step = (np.repeat(each, number) for each in (ends - width * (height + 1), top, left, height + 1))
    column, row = np.divmod(changes - begin, step)
    places = (left + column) * size[0] + top + row
    # where a rectangle is as high as the mask, ones at the end of a column may go on in the next
    goes_on = (places[1:-1:2] == places[2::2]) & (begin[1:-1:2] == begin[2::2])
    if goes_on.any():
        keep = np.ones(len(places), bool)
        keep[1:-1:2] = keep[2::2] = ~goes_on
        owner = np.repeat(np.arange(len(number)), number)[keep]
        places, number = places[keep], np.bincount(owner, minlength=len(number))
    return runs_to_rle(places, number, size)
