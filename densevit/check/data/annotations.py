"""The annotations of a COCO file, one by one: boxes, areas, masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from ...data.coco_values import is_number
from .masks import Extent, MaskError, measure
from .parallel import Crew
from .report import DatasetReport
from .text import short

__all__ = ['check_annotations']

_CHUNK = 2000  # annotations that a worker takes at once
_SLACK = 2.0  # pixels by which a box may leave its image
_READ_AS = {
    'xywh': 'x, y, width, height',
    'xyxy': 'x1, y1, x2, y2',
    'cxcywh': 'the centre, width, height',
    'yxhw': 'y, x, height, width',
}

# kind: level, what it has or is, what to do; mmdet's CocoDataset.parse_data_info says what is left out
_KINDS: dict[str, tuple[Literal['error', 'warning', 'note'], str, str]] = {
    'bbox-missing': ('error', "no 'bbox'", 'write [x, y, width, height] in pixels'),
    'bbox-format': ('error', 'a bbox that is not four numbers', 'write [x, y, width, height] in pixels'),
    'bbox-empty': ('warning', 'a box narrower or lower than a pixel', 'it is left out; mend or remove it'),
    'bbox-outside': (
        'warning',
        'a box that leaves its image',
        'mend it: [x, y, width, height], in its pixels',
    ),
    'area-missing': ('error', "no 'area'", "write the mask's or the box's area in pixels"),
    'area-zero': ('warning', 'an area that is not above 0', "it is left out; write the mask's or the box's area"),
    'area-mismatch': (
        'warning',
        'an area that is not that of its mask or box',
        'AP of small, medium and large objects goes by it: write the area in pixels',
    ),
    'segmentation-missing': (
        'error',
        "no 'segmentation'",
        'the pipeline loads masks: write polygons or RLE, or set with_mask=False and train boxes alone',
    ),
    'polygon-format': ('error', 'a segmentation that is not a list of polygons', 'write [[x1, y1, x2, y2, ...], ...]'),
    'polygon-points': (
        'warning',
        'a polygon with an odd count of numbers or fewer than 3 points',
        'it is left out; write x1, y1, x2, y2, ... of at least 3 points',
    ),
    'polygon-outside': ('warning', 'a polygon that leaves its image', 'mend it: points are in pixels of this image'),
    'mask-empty': ('warning', 'a mask without a pixel', 'mend or remove it'),
    'rle-broken': ('error', 'a broken RLE', 'encode the mask again, with pycocotools.mask.encode of a Fortran array'),
    'rle-size': ('error', 'an RLE of another size than its image', 'size is [height, width]; encode the mask again'),
    'box-mask-mismatch': ('warning', 'a box that does not fit its mask', 'compute the box from the mask'),
    'iscrowd-missing': ('note', "no 'iscrowd'", 'it counts as 0, a single object'),
    'crowd-polygon': (
        'warning',
        'iscrowd=1 but polygons',
        'a crowd has RLE; set iscrowd=0 for a single object',
    ),
    'score': ('warning', 'a score', 'these look like predictions, not like the truth'),
}
_LEFT_OUT = ('bbox-empty', 'bbox-outside', 'area-zero', 'polygon-points', 'mask-empty')


@dataclass
class _Found:
    """What is wrong in some annotations.

    Attributes:
        faults: kind to (annotation id, image id, details).
        boxes: how many there are with numbers.
        leaving: how many leave their image.
        corners: how many would not, were they two corners.
        fractions: how many lie within 0 to 1.
        masks: how many have a mask beside them.
        small: how many of those masks lie within 0 to 1, which boxes do not.
        fits: for each way of reading a box, how many fit their mask.
    """

    faults: dict[str, list[tuple[Any, Any, str]]] = field(default_factory=dict)
    boxes: int = 0
    leaving: int = 0
    corners: int = 0
    fractions: int = 0
    masks: int = 0
    small: int = 0
    fits: Counter[str] = field(default_factory=Counter)

    def add(self, other: _Found) -> None:
        for kind, each in other.faults.items():
            self.faults.setdefault(kind, []).extend(each)
        for name in ('boxes', 'leaving', 'corners', 'fractions', 'masks', 'small'):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.fits += other.fits


def check_annotations(
    report: DatasetReport,
    annotations: Sequence[dict],
    images: Mapping[Any, tuple[int, int, str]],
    masks: bool,
    crew: Crew,
) -> None:
    """Look at each annotation by itself and note what is wrong.

    Args:
        annotations: of images that are there.
        images: id to width, height and path.
        masks: whether the pipeline loads them.
    """
    chunks = [annotations[start : start + _CHUNK] for start in range(0, len(annotations), _CHUNK)]
    total = _Found()
    look = partial(_look, images=images, masks=masks)
    for found in crew.run(look, chunks, f'annotations of {report.path}, by {_CHUNK}', 1):
        total.add(found)
    wrong = _box_format(total)
    if wrong:
        report.add('error', 'bbox-format', wrong, sorted({images[each['image_id']][2] for each in annotations}))
    if total.small > total.masks / 2:
        message = f'{total.small} of {total.masks} polygons lie within 0 to 1: they are fractions; write pixels.'
        report.add('error', 'polygon-format', message, sorted({images[each['image_id']][2] for each in annotations}))
        wrong = wrong or message
    for kind, faults in total.faults.items():
        if wrong and kind in ('bbox-outside', 'bbox-empty', 'box-mask-mismatch', 'area-mismatch'):
            continue
        level, what, cure = _KINDS[kind]
        number, image, detail = faults[0]
        name = images[image][2]
        if kind in _LEFT_OUT and len(faults) > len(annotations) / 2:
            level = 'error'
        more = f' (and {len(faults) - 1} more of {len(annotations)})' if len(faults) > 1 else ''
        report.add(
            level,
            kind,
            f'annotation {number!r:.60} of {name!r}{more} has {what}{": " if detail else ""}{detail}; {cure}.',
            list(dict.fromkeys(images[image][2] for _, image, _ in faults)),
        )


def _box_format(found: _Found) -> str:
    """What the boxes are instead of x, y, width and height; empty where they are that."""
    if found.boxes and found.fractions == found.boxes and found.boxes > 1:
        return (
            f'all {found.boxes} boxes lie within 0 to 1: they are fractions of the image; write '
            '[x, y, width, height] in pixels.'
        )
    best = max(found.fits, key=found.fits.__getitem__, default='xywh')
    if best != 'xywh' and found.fits[best] > 0.8 * found.masks and found.fits['xywh'] < 0.5 * found.masks:
        return (
            f'{found.fits[best]} of {found.masks} boxes fit their masks when read as {_READ_AS[best]}, '
            f'{found.fits["xywh"]} as {_READ_AS["xywh"]}: write [x, y, width, height].'
        )
    if found.leaving > 0.3 * found.boxes and found.corners > 0.95 * found.boxes and found.boxes > 1:
        return (
            f'{found.leaving} of {found.boxes} boxes leave their image, but none would if they were '
            f'{_READ_AS["xyxy"]}: write [x, y, width, height].'
        )
    return ''


def _look(annotations: Sequence[dict], images: Mapping[Any, tuple[int, int, str]], masks: bool) -> _Found:
    found = _Found()
    for annotation in annotations:
        width, height, _ = images[annotation['image_id']]
        for kind, detail in _faults(annotation, width, height, masks, found):
            found.faults.setdefault(kind, []).append((annotation.get('id'), annotation['image_id'], detail))
    return found


def _faults(annotation: dict, width: int, height: int, masks: bool, found: _Found) -> Iterator[tuple[str, str]]:
    box = annotation.get('bbox')
    sound = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    if not box:
        yield 'bbox-missing', ''
    elif not sound:
        yield 'bbox-format', short(box)
    else:
        yield from _box_faults(box, width, height, found)
    extent = None
    if masks:
        segmentation = annotation.get('segmentation')
        try:
            extent = measure(segmentation, width, height)
        except MaskError as fault:
            yield fault.kind, '' if fault.kind == 'segmentation-missing' else str(fault)
        if annotation.get('iscrowd') and isinstance(segmentation, list) and segmentation:
            yield 'crowd-polygon', ''
    if sound and extent is not None:
        overlaps = {way: _overlap(_corners(box, way), extent.box) for way in _READ_AS}
        found.masks += 1
        found.small += max(extent.box) <= 1 < max(box[2:])
        found.fits.update(way for way, overlap in overlaps.items() if overlap > 0.8)
        # boxes of thin or tiny objects are rounded
        off = max(abs(a - b) for a, b in zip(_corners(box, 'xywh'), extent.box, strict=True))
        if overlaps['xywh'] < 0.5 and off > 2 * _SLACK and min(box[2:]) >= 1:
            mask_box = ', '.join(f'{side:g}' for side in _to_box(extent.box))
            yield 'box-mask-mismatch', f'{short(box)}, where the mask has [{mask_box}]'
    yield from _area_faults(annotation.get('area'), box if sound else None, extent)
    if 'iscrowd' not in annotation:
        yield 'iscrowd-missing', ''
    if 'score' in annotation:
        yield 'score', short(annotation['score'])


def _box_faults(box: list, width: int, height: int, found: _Found) -> Iterator[tuple[str, str]]:
    x, y, w, h = box
    found.boxes += 1
    found.corners += w > x and h > y and w <= width + _SLACK and h <= height + _SLACK
    found.fractions += 0 <= min(box) and max(box) <= 1
    if min(x, y) < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
        found.leaving += 1
        yield 'bbox-outside', f'{short(box)} in {width}x{height} pixels'
    elif w < 1 or h < 1:
        yield 'bbox-empty', short(box)


def _area_faults(area: Any, box: list | None, extent: Extent | None) -> Iterator[tuple[str, str]]:
    if area is None:
        yield 'area-missing', ''
    elif not is_number(area) or area <= 0:
        yield 'area-zero', short(area)
    elif extent is not None:
        if not extent.area / 2 - 16 <= area <= extent.area * 2 + 16:
            yield 'area-mismatch', f'{short(area)}, where its mask covers {extent.area:g}'
    elif box is not None and min(box[2:]) > 0 and area > box[2] * box[3] * 1.05 + 16:
        yield 'area-mismatch', f'{short(area)}, where its box covers {box[2] * box[3]:g}'


def _corners(box: Sequence[float], way: str) -> tuple[float, float, float, float]:
    a, b, c, d = box
    if way == 'xyxy':
        return a, b, c, d
    if way == 'yxhw':
        return b, a, b + d, a + c
    if way == 'cxcywh':
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return a, b, a + c, b + d


def _to_box(corners: Sequence[float]) -> tuple[float, float, float, float]:
    return corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes given by their corners."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    union = sum(max(x2 - x1, 0) * max(y2 - y1, 0) for x1, y1, x2, y2 in (one, other)) - both
    return both / union if union > 0 else 0.0
