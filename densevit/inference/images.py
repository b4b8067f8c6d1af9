"""Any image as what the networks see: three channels, 8 bits, upright."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..data.image_files import MAX_BYTES, MAX_PIXELS, formats, size_for_opencv
from ..data.loading import why_unreadable
from ..errors import UserError

__all__ = ['MAX_PIXELS', 'as_rgb', 'read_image']

# What OpenCV reads wrongly or not at all: 32 bits, floating point, CIE Lab.
_FOR_PILLOW = ('F', 'I', 'LAB')
_ORIENTATION = 0x0112  # the EXIF tag


def as_rgb(image: str | os.PathLike[str] | Image.Image | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A file, a Pillow image or an array as RGB, (H, W, 3) uint8.

    Arrays are RGB (``cv2.imread`` gives BGR), RGBA or grey: (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), of uint8,
    uint16 or bool. What becomes of other modes is said at :func:`read_image`.

    Raises:
        UserError: it cannot be read, or it is no such array.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise UserError(f'an image has pixels, and the Pillow image is of {image.size[0]} x {image.size[1]}.')
        try:
            return _from_pillow(image)
        except Exception as error:  # pillow raises many kinds, where it has not read the pixels yet
            raise UserError(f'the Pillow image of mode {image.mode!r} cannot be made RGB: {error}.') from error
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, max_pixels=max_pixels)
    raise UserError(
        f'an image is a path, a Pillow image or a numpy array of RGB, (H, W, 3) uint8, not {type(image).__name__}.'
    )


def read_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as RGB, (H, W, 3) uint8.

    Pixels are those of mmcv's ``LoadImageFromFile``, which decodes with OpenCV, so a prediction does not depend on the
    way in. EXIF orientation is applied: the image is as a viewer shows it. Transparency is dropped. Of 16 bits the
    upper 8 count. Floating point is taken as 0 to 1 or as 0 to 255 where it lies there, and is else stretched from its
    smallest value to its largest, as are 32 bit integers; what is not finite counts as the smallest. Of an animation
    the first frame is read.

    Args:
        path: of the file.
        max_pixels: a larger image is refused before it is decoded, as a small file can hold one that fills the memory.

    Raises:
        UserError: there is no such file, it is empty, cut short, no image, or too large; the message names it.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise UserError(
            f'cannot read {name!r}: {"it is a folder" if os.path.isdir(name) else "there is no such file"}.'
        )
    try:
        if os.path.getsize(name) > max(MAX_BYTES, 16 * max_pixels):
            raise UserError(f'cannot read {name!r}: the file is larger than any image that is allowed.')
        content = Path(name).read_bytes()
    except OSError as error:
        raise UserError(f'cannot read {name!r}: {error.strerror}.') from error
    if not content:
        raise UserError(f'cannot read {name!r}: the file is empty.')
    with _without_pillows_limit():
        header = _header(content)
        size = header.size if header is not None else size_for_opencv(content)
        if size is None:
            raise UserError(f'cannot read {name!r}: it is no image that Pillow or OpenCV knows.')
        if size[0] * size[1] > max_pixels:
            raise UserError(
                f'{name!r} has {size[0]} x {size[1]} = {size[0] * size[1] / 1e6:.0f} million pixels, more than the '
                f'{max_pixels / 1e6:.0f} million that are allowed, as a small file can hold an image that fills the '
                'memory; where you trust it, raise max_pixels (--max-pixels).'
            )
        reason = why_unreadable(name)
        if not reason:
            try:
                image = _decoded(content, header)
            except Exception as error:  # pillow raises many kinds, of broken EXIF too
                image, reason = None, ' '.join(str(error).split()) or type(error).__name__
            if image is not None:
                return image
    known = f'it is cut short or damaged: {reason}' if header is not None and reason else ''
    raise UserError(f'cannot read {name!r}: {known or "it is no image that Pillow or OpenCV knows"}.')


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow refuses to open what is too large for its limit, and would not say how large it is."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _header(content: bytes) -> Image.Image | None:
    """The image without its pixels; None where Pillow does not know the format."""
    try:
        return Image.open(io.BytesIO(content), formats=formats())
    except Exception:  # pillow raises many kinds
        return None


def _decoded(content: bytes, header: Image.Image | None) -> np.ndarray | None:
    unturned = header is not None and header.format in ('WEBP', 'AVIF') and header.getexif().get(_ORIENTATION, 1) != 1
    if header is None or not (unturned or header.mode in _FOR_PILLOW):
        coded = np.frombuffer(content, np.uint8)
        try:
            exact = None if header is not None else cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
            if exact is not None and exact.dtype.kind == 'f':
                return _three_channels(_to_bytes(exact if exact.ndim == 2 else exact[..., 2::-1]))
            image = cv2.imdecode(coded, cv2.IMREAD_COLOR_RGB)
        except cv2.error:  # above its own limit of 2^30 pixels
            image = None
        if image is not None:
            return image
    return None if header is None else _from_pillow(header)


def _from_pillow(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ('F', 'I') or image.mode.startswith('I;16'):
        return _three_channels(_to_bytes(np.asarray(image)))
    if image.mode == 'LAB':
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB')
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode='RGB')
    return np.array(image.convert('RGB'))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim not in (2, 3) or (*array.shape, 1)[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f'an image is an array of RGB, (H, W, 3), not of shape {array.shape}; several are a list.')
    if array.dtype.newbyteorder('=') not in (np.uint8, np.uint16, np.bool_):
        raise UserError(
            f'an image is an array of uint8, 0 to 255, not of {array.dtype}; of values from 0 to 1 make it '
            '(255 * image).round().astype(np.uint8).'
        )
    return _three_channels(_to_bytes(array))


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Values of any kind as uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == 'u' and pixels.dtype.itemsize == 2:  # of either byte order
        return (pixels >> 8).astype(np.uint8)
    values = pixels.astype(np.float32)
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    values = np.where(finite, values, low)
    if low >= 0 and high <= 1 and pixels.dtype.kind == 'f':
        values *= 255
    elif not (low >= 0 and high <= 255):
        values = (values - low) * (255 / (high - low) if high > low else 0)
    return values.round().astype(np.uint8)


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2 or pixels.shape[-1] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
