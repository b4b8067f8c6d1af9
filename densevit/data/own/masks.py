"""Masks as they come: what is in them, and label maps made of them.

Known are values (8 and 16 bit, one bit, grey saved as RGB), palettes, and colours. A label map is a PNG of 8 bit whose
values are the classes from 0, with 255 for pixels that are of no class.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UserError
from ..image_files import formats
from .pairs import Pair

__all__ = ['VOID', 'Seen', 'label_map', 'look_at', 'rgb']

VOID = 255
_MOST = 4096  # colours in one mask; a photo has more
_EXIF_ORIENTATION = 0x0112


@dataclass
class Seen:
    """What the masks of a data set hold."""

    colored: bool  # keys are 24-bit colours, else values
    counts: Counter[int]  # pixels of each value or colour
    files: dict[int, list[str]]  # the masks in which it is
    palette: dict[int, tuple[int, int, int]]  # of the values, where all masks have the same
    sizes: list[tuple[int, int]]  # of the images: height, width
    kinds: Counter[str]  # Pillow's modes of the masks
    depth: dict[str, bool] = field(default_factory=dict)  # by mask: whether it is a PNG of 8-bit values

    def text(self, key: int) -> str:
        """A value or colour for people to read."""
        return f'RGB {rgb(key)}' if self.colored else f'value {key}'


def rgb(key: int) -> tuple[int, int, int]:
    """The colour that a key of 24 bit is."""
    return key >> 16, key >> 8 & 255, key & 255


def look_at(pairs: Sequence[Pair], track: Callable[[Iterable], Iterable] = iter) -> Seen:
    """Read all masks and the heads of all images.

    Args:
        pairs: what to read.
        track: shows progress.

    Raises:
        UserError: a file cannot be read, a mask has another size than its image, or masks are photos.
    """
    with ThreadPoolExecutor(4) as pool:
        found = list(track(pool.map(_look_at, pairs)))
    # palettes that differ are their writer's business: then the colours are what counts
    palettes = [each.palette for each in found if each.palette]
    merged: dict[int, tuple[int, int, int]] = {}
    colored = any(each.colors is not None and not each.grey for each in found)
    for palette in palettes:
        for value, color in palette.items():
            colored |= merged.setdefault(value, color) != color
    if colored and any(each.colors is None for each in found):
        index = next(place for place, each in enumerate(found) if each.colors is None)
        raise UserError(
            f'{str(pairs[index].mask)!r} has values where other masks have colours; give masks of one kind.'
        )
    counts: Counter[int] = Counter()
    files: dict[int, list[str]] = {}
    for pair, each in zip(pairs, found):
        keys = each.colors if colored else each.values
        counts += keys
        for key in keys:
            files.setdefault(key, []).append(str(pair.mask))
    return Seen(
        colored,
        counts,
        files,
        {} if colored or len(palettes) < len(found) else merged,
        [each.size for each in found],
        Counter(each.mode for each in found),
        {str(pair.mask): each.plain for pair, each in zip(pairs, found)},
    )


@dataclass
class _Mask:
    mode: str
    size: tuple[int, int]
    values: Counter[int]
    colors: Counter[int] | None  # None: it has none
    grey: bool  # its colours are grey, so that they may be values
    palette: dict[int, tuple[int, int, int]]
    plain: bool


def _look_at(pair: Pair) -> _Mask:
    size = _image_size(pair.image)
    pixels, colors, mode, palette, plain = _read(pair.mask)
    if pixels.shape[:2] != size:
        (height, width), (rows, columns) = size, pixels.shape[:2]
        raise UserError(
            f'the mask {str(pair.mask)!r} is {columns} x {rows} pixels, but its image {pair.image.name!r} is '
            f'{width} x {height}; both must have one size.'
        )
    values = Counter(_counted(pixels)) if pixels.ndim == 2 else Counter()
    if colors is None:
        return _Mask(mode, size, values, None, False, {}, plain)
    by_color = _counted(_keys(colors)) if pixels.ndim == 3 else {}
    if len(by_color) > _MOST:
        raise UserError(
            f'the mask {str(pair.mask)!r} has {len(by_color)} colours, so it is a photo, or was saved as JPEG or with '
            'smooth edges; masks must hold the colours of the classes alone, as PNG.'
        )
    if pixels.ndim == 2:  # a palette
        used = {value: palette.get(value, (0, 0, 0)) for value in values}
        keys: Counter[int] = Counter()
        for value, count in values.items():
            red, green, blue = used[value]
            keys[red << 16 | green << 8 | blue] += count
        return _Mask(mode, size, values, keys, True, used, plain)
    grey = all(len(set(rgb(key))) == 1 for key in by_color)
    return _Mask(mode, size, Counter({key & 255: count for key, count in by_color.items()}) if grey else Counter(),
                 Counter(by_color), grey, {}, plain)  # fmt: skip


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=formats()) as image:
            width, height = image.size
            # OpenCV turns photos as their EXIF says
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception as error:  # pillow raises many kinds
        raise UserError(f'the image {str(path)!r} cannot be read: {error}; mend it or take it out.') from error
    return (width, height) if turned else (height, width)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None, str, dict[int, tuple[int, int, int]], bool]:
    """Pixels, (H, W) values or (H, W, 3) colours; the colours again or None; mode; palette; whether it is plain."""
    try:
        with Image.open(path, formats=formats()) as image:
            mode, form = image.mode, image.format
            if mode == 'P':
                flat = image.getpalette('RGB') or []
                palette = {place: tuple(flat[3 * place : 3 * place + 3]) for place in range(len(flat) // 3)}
                values = np.asarray(image)
                return values, values, mode, palette, form == 'PNG'
            if mode in ('1', 'L', 'I', 'I;16', 'I;16B', 'F'):
                values = np.asarray(image)
                return values.astype(np.int64), None, mode, {}, form == 'PNG' and mode == 'L'
            if mode == 'LA':
                return np.asarray(image)[..., 0].astype(np.int64), None, mode, {}, False
            colors = np.asarray(image.convert('RGB'))
            return colors, colors, mode, {}, False
    except Exception as error:  # pillow raises many kinds
        raise UserError(f'the mask {str(path)!r} cannot be read: {error}; mend it or take it out.') from error


def _keys(colors: np.ndarray) -> np.ndarray:
    return colors.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)


def _counted(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.astype(int).tolist(), counts.tolist()))


def label_map(path: Path, seen: Seen, to_class: dict[int, int]) -> bytes:
    """A mask as a PNG of 8 bit, its values the classes."""
    pixels, _, mode, palette, _ = _read(path)
    if seen.colored:
        if mode == 'P':
            table = np.zeros((256, 3), np.uint8)
            for value, color in palette.items():
                table[value] = color
            pixels = table[pixels]
        keys = _keys(pixels)
    else:
        keys = pixels if pixels.ndim == 2 else pixels[..., 0]
    found, places = np.unique(keys, return_inverse=True)
    classes = np.array([to_class[int(key)] for key in found], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(classes[places].reshape(keys.shape)).save(buffer, 'PNG')
    return buffer.getvalue()
