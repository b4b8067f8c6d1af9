"""What of a strange image file may be decoded, and what it would take: a small file can hold an image of gigabytes."""

from __future__ import annotations

import io
import os
import re
import struct
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

__all__ = ['MAX_BYTES', 'MAX_PIXELS', 'formats', 'opencv_reads', 'read_tags', 'size_for_opencv']

# Where Pillow sees a decompression bomb, twice Image.MAX_IMAGE_PIXELS: 537 MB as RGB.
MAX_PIXELS = 178_956_970
MAX_BYTES = 16 * MAX_PIXELS  # of a file: no format takes more for a pixel
# Left out are those that run Ghostscript (EPS), those that hold a file of another format, which is decoded while the
# header is read or has another size than it says (ICO, ICNS, FLI, MIC, FPX), and those without pixels.
_FORMATS = (
    'BMP', 'DIB', 'GIF', 'JPEG', 'MPO', 'JPEG2000', 'PCX', 'PNG', 'PPM', 'PSD', 'QOI', 'SGI', 'SPIDER', 'SUN', 'TGA',
    'TIFF', 'WEBP', 'AVIF', 'IM', 'XBM',
)  # fmt: skip


@cache
def formats() -> tuple[str, ...]:
    """Those of Pillow that images are read in, for ``Image.open(file, formats=formats())``."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def opencv_reads(path: str, *, sized: bool = False) -> bool:
    """Whether OpenCV can decode a file that Pillow cannot.

    Args:
        path: of the file.
        sized: its size is known and small enough; else one whose header does not tell is not tried.
    """
    import cv2

    try:
        if not sized:
            if os.path.getsize(path) > MAX_BYTES:
                return False
            size = size_for_opencv(Path(path).read_bytes())
            if size is None or size[0] * size[1] > MAX_PIXELS:
                return False
        return cv2.imread(path, cv2.IMREAD_UNCHANGED) is not None
    except (cv2.error, OSError):
        return False


def size_for_opencv(content: bytes) -> tuple[int, int] | None:
    """Width and height of an image that Pillow cannot open; None where OpenCV could not either, or nobody can tell.

    OpenCV itself allocates what the header says, up to 2^30 pixels. Of a text header, whose comments may hold
    anything, the largest numbers count.
    """
    if content.startswith(b'#?'):  # Radiance
        found = re.findall(rb'([XY]) +(\d{1,9}) ', re.sub(rb'\s', b' ', content))
        return _largest(found, b'X', b'Y')
    if content.startswith(b'P7'):  # PAM
        return _largest(re.findall(rb'(WIDTH|HEIGHT)\s+(\d{1,9})\s', content), b'WIDTH', b'HEIGHT')
    try:
        if content.startswith(b'\x89PNG') and content[12:16] == b'IHDR':
            return struct.unpack('>II', content[16:24])
        if content.startswith(b'BM'):
            width, height = struct.unpack('<ii', content[18:26])
            return abs(width), abs(height)
        if content.startswith((b'II', b'MM')):
            return _size_of_tiff(content)
        if content.startswith(b'\xff\xd8'):
            return _size_of_jpeg(content)
    except (SyntaxError, KeyError, TypeError, ValueError, OSError, struct.error):
        pass
    return None


def _largest(found: list[tuple[bytes, bytes]], width: bytes, height: bytes) -> tuple[int, int] | None:
    sides = [max((int(value) for name, value in found if name == each), default=0) for each in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None


def _size_of_tiff(content: bytes) -> tuple[int, int]:
    tags = read_tags(io.BytesIO(content))
    return int(tags[256]), int(tags[257])


def read_tags(file: IO[bytes]) -> ImageFileDirectory_v2:
    """The tags of a TIFF's first page."""
    file.seek(0)
    tags = ImageFileDirectory_v2(file.read(8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _size_of_jpeg(content: bytes) -> tuple[int, int] | None:
    """Of the largest frame: marker, length, bits, height, width; 0xc4, 0xc8 and 0xcc are no frames."""
    sizes = [
        struct.unpack('>HH', content[found.end() + 3 : found.end() + 7])[::-1]
        for found in re.finditer(rb'\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf](?=\0.{6})', content, re.DOTALL)
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=None)
