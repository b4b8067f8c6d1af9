"""Polygons and run-length codes of masks in COCO's files: whether they are sound, their area and extent."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ['Extent', 'MaskError', 'measure']

_SLACK = 2.0  # pixels by which a polygon may leave its image


class Extent(NamedTuple):
    """What a mask covers, in pixels."""

    area: float
    box: tuple[float, float, float, float]  # x1, y1, x2, y2


class MaskError(Exception):
    """What is wrong with a mask: a kind and details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def measure(segmentation: Any, width: int, height: int) -> Extent:
    """Area and extent of a mask in an image of this size.

    Raises:
        MaskError: it is no sound mask.
    """
    if isinstance(segmentation, dict):
        return _measure_runs(segmentation, width, height)
    if not isinstance(segmentation, list) or not segmentation:
        raise MaskError('segmentation-missing', f'segmentation is {segmentation!r:.60}')
    return _measure_polygons(segmentation, width, height)


def _measure_polygons(polygons: list, width: int, height: int) -> Extent:
    if not all(isinstance(polygon, list) for polygon in polygons):
        raise MaskError('polygon-format', 'segmentation is one list of numbers, not a list of polygons [[x, y, ...]]')
    area, boxes, faults = 0.0, [], []
    for polygon in polygons:
        if any(isinstance(value, list) for value in polygon):
            raise MaskError('polygon-format', 'points are pairs [[x, y], ...], not numbers in a row [x, y, ...]')
        if len(polygon) % 2 or len(polygon) < 6:
            faults.append(f'a polygon has {len(polygon)} numbers')
            continue
        try:
            points = np.array(polygon)
        except (ValueError, TypeError, OverflowError):
            points = np.array(None)
        if points.dtype.kind not in 'iuf' or not np.isfinite(points).all():
            raise MaskError('polygon-format', 'a polygon has values that are not numbers')
        x, y = points[::2].astype(float), points[1::2].astype(float)
        area += abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        boxes.append((x.min(), y.min(), x.max(), y.max()))
    if faults:
        raise MaskError('polygon-points', faults[0])
    lows, highs = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
    if (lows < -_SLACK).any() or (highs > (width + _SLACK, height + _SLACK)).any():
        raise MaskError(
            'polygon-outside',
            f'it goes from ({lows[0]:g}, {lows[1]:g}) to ({highs[0]:g}, {highs[1]:g}) in {width}x{height} pixels',
        )
    if area == 0:
        raise MaskError('mask-empty', 'its polygons enclose nothing')
    return Extent(float(area), (float(lows[0]), float(lows[1]), float(highs[0]), float(highs[1])))


def _measure_runs(code: dict, width: int, height: int) -> Extent:
    counts, size = code.get('counts'), code.get('size')
    if isinstance(counts, str):
        runs = _decode(counts)
    elif isinstance(counts, list):
        try:
            runs = np.array(counts, dtype=np.int64) if all(type(run) is int for run in counts) else None
        except OverflowError:
            runs = None
    else:
        raise MaskError('rle-broken', f'counts is {counts!r:.40}')
    if runs is None or not len(runs) or (runs < 0).any() or (runs > 2**31).any():
        raise MaskError('rle-broken', f'counts cannot be decoded: {counts!r:.40}')
    if size != [height, width]:
        swapped = ', width before height' if size == [width, height] else ''
        raise MaskError('rle-size', f'size is {size!r:.40}{swapped}, where the image has [{height}, {width}]')
    if (total := int(runs.sum())) != width * height:
        raise MaskError('rle-broken', f'counts are of {total} pixels, where size says {width * height}')
    ends = np.cumsum(runs)
    starts, ends = ends[:-1:2], ends[1::2]  # of the ones; in columns
    starts, ends = starts[starts < ends], ends[starts < ends]
    if not len(starts):
        raise MaskError('mask-empty', 'no pixel is set')
    first, last = starts // height, (ends - 1) // height
    whole = first != last  # a run over the end of a column touches the top or the bottom
    top = 0 if whole.any() else (starts % height).min()
    bottom = height if whole.any() else ((ends - 1) % height).max() + 1
    box = (float(first.min()), float(top), float(last.max() + 1), float(bottom))
    return Extent(float((ends - starts).sum()), box)


def _decode(text: str) -> np.ndarray | None:
    """Run lengths of a string as :func:`densevit.detection.rle.compress_runs` writes it; None for a broken one."""
    try:
        codes = np.frombuffer(text.encode('ascii'), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.insert(ends[:-1] + 1, 0, 0)
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 6:  # 35 bits
        return None
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    # from the fourth on, a run is the difference to the one before the last
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
