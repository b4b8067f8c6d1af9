"""Pictures as they travel in a page: WebP, as text."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

__all__ = ['Picture', 'picture']


class Picture(NamedTuple):
    """An encoded picture.

    Attributes:
        data: WebP in base64.
        width: in pixels.
        height: in pixels.
        caption: what it shows, in a word or two.
    """

    data: str
    width: int
    height: int
    caption: str


def picture(
    image: np.ndarray, caption: str, side: int | None = None, *, quality: int = 60, lossless: bool = False
) -> Picture:
    """Encode an image.

    Args:
        image: RGB (H, W, 3) or grey (H, W), uint8.
        caption: what it shows.
        side: make its longer side no longer than this, in pixels; by default it keeps its size.
        quality: of the lossy compression, 0 to 100.
        lossless: keep every pixel: smaller, too, where there are few colours, such as in a map of errors.
    """
    shown = Image.fromarray(image)
    if side is not None and max(shown.size) > side:
        scale = side / max(shown.size)
        size = tuple(max(1, round(length * scale)) for length in shown.size)
        shown = shown.resize(size, Image.Resampling.NEAREST if lossless else Image.Resampling.BOX)
    file = io.BytesIO()
    shown.save(file, 'WEBP', quality=quality, lossless=lossless, method=4)
    return Picture(base64.b64encode(file.getvalue()).decode('ascii'), *shown.size, caption)
