"""What a file holds: an image's header and whether its pixels can be decoded, a label map's values.

These run in worker processes, once per file: a file is read once, and nothing of it is kept but a few numbers.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from ...data.image_files import MAX_PIXELS, formats, opencv_reads, read_tags
from ...data.loading import why_unreadable

__all__ = ['MOST_PIXELS', 'ImageFacts', 'LabelFacts', 'look_at_header', 'look_at_image', 'look_at_label']

MOST_PIXELS = MAX_PIXELS  # of an image that is decoded
_ORIENTATION = 0x0112  # the tag of EXIF
_COMMON = ('JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'PPM')  # formats that OpenCV reads wherever Pillow does
_MOST_VALUES = 512  # different values of a label map that are kept from either end


@dataclass(frozen=True)
class ImageFacts:
    """An image file.

    Attributes:
        error: why it cannot be read; empty for a sound one.
        format: as Pillow names it, ``'JPEG'``.
        mode: as Pillow names it, ``'RGB'``; empty where Pillow does not know it.
        size: width and height in pixels, turned as EXIF says, as OpenCV reads it; zeros where it alone knows the
            format.
        turned: EXIF's orientation, 2 to 8; 1 is upright.
        channels: of the file.
        bits: per channel.
        pages: of a TIFF.
        digest: of its size in bytes and its first MiB.
    """

    error: str = ''
    format: str = ''
    mode: str = ''
    size: tuple[int, int] = (0, 0)
    turned: int = 1
    channels: int = 0
    bits: int = 8
    pages: int = 1
    digest: bytes = b''


@dataclass(frozen=True)
class LabelFacts:
    """A file with the classes of an image's pixels.

    Attributes:
        error, format, mode, size, bits: as of :class:`ImageFacts`; the size is as stored, as mmseg reads it.
        channels: of the file; with more than one there are no values.
        values: which occur, ascending: the class numbers, or a palette's indices.
        counts: how many pixels have each.
        colours: of a file with several channels: those that occur, at most 512.
        grey: of a file with several channels: whether the first three are equal.
        palette: digest of the colours of the values that occur.
        whole: whether all values are whole numbers.
    """

    error: str = ''
    format: str = ''
    mode: str = ''
    size: tuple[int, int] = (0, 0)
    bits: int = 8
    channels: int = 1
    values: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    colours: tuple[tuple[int, ...], ...] = ()
    grey: bool = False
    palette: bytes = b''
    whole: bool = True


def look_at_image(path: str) -> ImageFacts:
    """Read all of an image; of a JPEG, all bytes are decoded but few pixels computed."""
    return _look(path, decode=True)


def look_at_header(path: str) -> ImageFacts:
    """Read an image's header."""
    return _look(path, decode=False)


def _look(path: str, decode: bool) -> ImageFacts:
    if error := _no_content(path):
        return ImageFacts(error)
    facts: dict = {}
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # huge images, odd EXIF
            if decode:
                start = hashlib.blake2b(str(os.path.getsize(path)).encode(), digest_size=16)
                start.update(file.read(2**20))
                facts['digest'] = start.digest()
                file.seek(0)
            with Image.open(file, formats=formats()) as image:
                facts |= dict(format=image.format, mode=image.mode, channels=len(image.getbands()))
                facts['bits'] = _bits(file, image)
                facts['pages'] = image.n_frames if image.format == 'TIFF' else 1
                turned = image.getexif().get(_ORIENTATION, 1) if image.format in ('JPEG', 'PNG', 'WEBP') else 1
                facts['turned'] = turned if turned in range(2, 9) else 1
                facts['size'] = image.size[::-1] if facts['turned'] >= 5 else image.size
                if decode and image.size[0] * image.size[1] <= MOST_PIXELS:
                    image.draft('L', (64, 64))
                    image.load()
            if decode and facts['format'] not in _COMMON:
                facts['error'] = _unknown_to_opencv(path, facts['format'])
    except Image.DecompressionBombError:
        facts['size'] = _size_of_bomb(path)
    except Exception as error:  # pillow raises many kinds
        return _look_at_tiff(path, facts) or ImageFacts(**facts | dict(error=_reason(path, error)))
    return ImageFacts(**facts)


def _no_content(path: str) -> str:
    if not os.path.isfile(path):
        return 'there is no such file'
    if not os.access(path, os.R_OK):
        return 'this user may not read it'
    return '' if os.path.getsize(path) else 'the file is empty'


def _reason(path: str, error: Exception) -> str:
    """Why Pillow could not read a file; a format that OpenCV alone knows has no reason, and is read by it."""
    try:
        return why_unreadable(path)
    except Exception:  # OpenCV refuses some broken headers with an error of its own
        return str(error)


def _bits(file: IO[bytes], image: Image.Image) -> int:
    """Per channel, in the file: Pillow's mode does not tell a PNG with three times 16 bits from one with 8."""
    if image.format == 'PNG':
        place = file.tell()
        file.seek(24)  # IHDR: signature 8, length and name 8, width and height 8
        bits = file.read(1)[0]
        file.seek(place)
        return bits
    if image.format == 'TIFF':
        return max(image.tag_v2.get(258, (8,)))
    return {'1': 1, 'I': 32, 'F': 32}.get(image.mode, 16 if '16' in image.mode else 8)


def _size_of_bomb(path: str) -> tuple[int, int]:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path, formats=formats()) as image:
            return image.size
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _look_at_tiff(path: str, facts: dict) -> ImageFacts | None:
    """A TIFF with channels that Pillow has no mode for, as satellites and microscopes make them."""
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tags = read_tags(file)
        channels, size = int(tags.get(277, 1)), (int(tags[256]), int(tags[257]))
        bits = int(max(tags.get(258, (8,))))
    except (SyntaxError, KeyError, TypeError, ValueError, OSError, struct.error):
        return None
    if channels <= 4 and bits <= 8:
        return None
    return ImageFacts(**facts | dict(format='TIFF', size=size, channels=channels, bits=bits))


def _unknown_to_opencv(path: str, format: str) -> str:
    return (
        ''
        if opencv_reads(path, sized=True)
        else f'Pillow reads it as {format}, but OpenCV, with which the images are loaded, cannot'
    )


def look_at_label(path: str) -> LabelFacts:
    """Read a label map as mmseg does: a palette image gives its indices."""
    if error := _no_content(path):
        return LabelFacts(error)
    try:
        with open(path, 'rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(file, formats=formats()) as image:
                facts = dict(format=image.format, mode=image.mode, size=image.size, channels=len(image.getbands()))
                facts['bits'] = _bits(file, image)
                if image.size[0] * image.size[1] > MOST_PIXELS:
                    return LabelFacts(**facts)
                pixels = np.asarray(image)
                palette = image.getpalette('RGB') if image.mode == 'P' else None
    except Image.DecompressionBombError:
        return LabelFacts(size=_size_of_bomb(path))
    except Exception as error:  # pillow raises many kinds
        found = _look_at_tiff(path, {})
        if found:
            return LabelFacts(format='TIFF', size=found.size, bits=found.bits, channels=found.channels)
        return LabelFacts(_reason(path, error) or str(error))  # mmseg reads labels with Pillow
    if pixels.ndim != 2:
        return LabelFacts(**facts, **_colours(pixels))
    if pixels.dtype.kind == 'f':
        facts['whole'] = bool(np.isfinite(pixels).all() and (pixels == np.trunc(pixels)).all())
        pixels = np.nan_to_num(pixels).astype(np.int64)
    if pixels.dtype.kind in 'ub' and pixels.dtype.itemsize <= 2:
        counts = np.bincount(pixels.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(pixels, return_counts=True)
    if palette:
        table = np.resize(np.array(palette, np.uint8), (256, 3))
        facts['palette'] = table[values].tobytes()
    if len(values) > 2 * _MOST_VALUES:
        ends = np.r_[:_MOST_VALUES, len(values) - _MOST_VALUES : len(values)]
        values, counts = values[ends], counts[ends]
    return LabelFacts(**facts, values=tuple(values.tolist()), counts=tuple(counts.tolist()))


def _colours(pixels: np.ndarray) -> dict:
    flat = pixels.reshape(-1, pixels.shape[-1])
    grey = pixels.shape[-1] < 3 or bool((flat[:, :1] == flat[:, :3]).all())
    packed = np.unique(flat[:, :3].astype(np.int64) @ (256 ** np.arange(min(3, flat.shape[1]))[::-1]))[:512]
    colours = zip(*((packed >> shift & 255).tolist() for shift in (16, 8, 0)), strict=True)
    return dict(grey=grey, colours=tuple(colours))
