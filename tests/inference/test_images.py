"""Images of any mode."""

from __future__ import annotations

import io
import warnings
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image, features

from densevit.errors import UserError
from densevit.inference.images import as_rgb, read_image

H, W = 37, 53
GREY = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
THREE = np.repeat(GREY[..., None], 3, axis=2)
COLOR = Image.fromarray(RGB)


def pillow(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv(array, suffix):
    array = array if array.ndim == 2 else np.ascontiguousarray(array[..., ::-1])
    flags = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if suffix == '.tif' else []  # or floating point loses bits
    return cv2.imencode(suffix, array, flags)[1].tobytes()


def alpha(image):
    layers = [*image.split(), Image.new('L', image.size, 90)]
    return Image.merge(image.mode + 'A', layers)


WIDE = GREY.astype(np.uint16) * 257
FILES = {
    'grey.png': (pillow(Image.fromarray(GREY), 'PNG'), THREE),
    'grey_alpha.png': (pillow(alpha(Image.fromarray(GREY)), 'PNG'), THREE),
    'alpha.png': (pillow(alpha(COLOR), 'PNG'), RGB),
    'alpha.webp': (pillow(alpha(COLOR), 'WEBP', lossless=True, exact=True), RGB),
    'palette.png': (pillow(COLOR.quantize(64), 'PNG'), np.array(COLOR.quantize(64).convert('RGB'))),
    'bits.png': (pillow(Image.fromarray(GREY > 99), 'PNG'), (THREE > 99) * np.uint8(255)),
    'bits.tif': (pillow(Image.fromarray(GREY > 99), 'TIFF', compression='group4'), (THREE > 99) * np.uint8(255)),
    'cmyk.tif': (pillow(COLOR.convert('CMYK'), 'TIFF'), RGB),
    'wide.png': (opencv(WIDE, '.png'), THREE),
    'wide.tif': (opencv(WIDE, '.tif'), THREE),
    'wide_rgb.png': (opencv(RGB.astype(np.uint16) * 257, '.png'), RGB),
    'wide_rgb.tif': (opencv(RGB.astype(np.uint16) * 257, '.tif'), RGB),
    'float.tif': (opencv(GREY.astype(np.float32) / 255, '.tif'), THREE),
    'float_rgb.tif': (opencv(RGB.astype(np.float32) / 255, '.tif'), RGB),
    'float_255.tif': (pillow(Image.fromarray(GREY.astype(np.float32)), 'TIFF'), THREE),
    'integers.tif': (pillow(Image.fromarray(GREY.astype(np.int32) * 1000 - 7), 'TIFF'), THREE),
    'first.gif': (pillow(Image.fromarray(GREY), 'GIF', save_all=True, append_images=[Image.new('L', (W, H))]), THREE),
    'first.png': (pillow(COLOR, 'PNG', save_all=True, append_images=[Image.new('RGB', (W, H))]), RGB),
    'plain.bmp': (pillow(COLOR, 'BMP'), RGB),
    'plain.tga': (pillow(COLOR, 'TGA'), RGB),
    'one.png': (pillow(COLOR.crop((0, 0, 1, 1)), 'PNG'), RGB[:1, :1]),
}


@pytest.mark.parametrize('name', FILES)
def test_modes(tmp_path, name):
    content, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize('mode', ['RGB', 'CMYK', 'L'])
def test_jpegs_are_those_of_the_test_pipeline(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    path = tmp_path / 'image.jpg'
    Image.fromarray(noise).resize((301, 203)).convert(mode).save(path, quality=83)
    np.testing.assert_array_equal(read_image(path), mmcv.imread(str(path))[..., ::-1])


@pytest.mark.parametrize('orientation', range(2, 9))
@pytest.mark.parametrize(
    'kind', ['jpg', 'png', 'tif', *(kind for kind in ('webp', 'avif') if kind in features.get_supported_modules())]
)
def test_images_are_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f'turned.{kind}'
    best = dict(quality=100)
    options = dict(jpg=best, webp=dict(lossless=True), avif=best).get(kind, {})
    smooth = Image.fromarray(np.add.outer(np.arange(H) * 3, np.arange(W) * 2).clip(0, 255).astype(np.uint8))
    smooth.convert('RGB').save(path, exif=exif, **options)
    image = np.asarray(smooth)
    ways = {2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.T, 6: image[::-1].T,
            7: image[::-1, ::-1].T, 8: image[:, ::-1].T}  # fmt: skip
    for found in (read_image(path), as_rgb(Image.open(path))):
        assert found.shape[:2] == ways[orientation].shape
        assert abs(found[..., 0].astype(int) - ways[orientation]).max() <= 2


def test_arrays_and_pillow_images():
    for given in (RGB, COLOR, np.dstack([RGB, GREY]), alpha(COLOR), RGB.astype(np.uint16) * 257):
        np.testing.assert_array_equal(as_rgb(given), RGB)
    for given in (GREY, GREY[..., None], Image.fromarray(GREY), WIDE, Image.fromarray(WIDE)):
        np.testing.assert_array_equal(as_rgb(given), THREE)
    assert as_rgb(GREY > 99).max() == 255


def test_both_byte_orders(tmp_path):
    big, path = WIDE.astype('>u2'), tmp_path / 'big.tif'
    picture = Image.frombytes('I;16B', (W, H), big.tobytes())
    picture.save(path)
    for given in (big, big[..., None], picture, path):
        np.testing.assert_array_equal(as_rgb(given), THREE)


def test_not_finite_values_are_the_smallest():
    values = GREY.astype(np.float32) * 10
    values[0, :3] = np.nan, np.inf, -np.inf
    assert (as_rgb(Image.fromarray(values))[0, :3] == 0).all()
    assert as_rgb(Image.fromarray(np.full((3, 4), np.nan, np.float32))).max() == 0


@pytest.mark.parametrize(
    'given, says',
    [
        (RGB / 255, r'uint8, 0 to 255, not of float64'),
        (RGB.astype(np.int64), 'not of int64'),
        (np.zeros((2, 3, 4, 3), np.uint8), r'not of shape \(2, 3, 4, 3\)'),
        (np.zeros((3, 40, 50), np.uint8), r'not of shape \(3, 40, 50\)'),
        (np.zeros((0, 5, 3), np.uint8), r'not of shape \(0, 5, 3\)'),
        ([[1, 2]], 'not list'),
        (None, 'not NoneType'),
    ],
)
def test_what_is_no_image(given, says):
    with pytest.raises(UserError, match=says):
        as_rgb(given)


def png_of(width, height):
    """A PNG that claims a size and holds one row."""

    def chunk(kind, data):
        return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')

    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + b'\x08\x00\x00\x00\x00'
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(99))) + chunk(b'IEND', b'')
    )


JPEG = pillow(Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)), 'JPEG')
BAD = {
    'missing.png': (None, 'there is no such file'),
    'empty.jpg': (b'', 'the file is empty'),
    'text.png': (b'no image at all', 'no image that Pillow or OpenCV knows'),
    'cut.jpg': (JPEG[: len(JPEG) // 2], 'cut short or damaged'),
    'cut.png': (FILES['alpha.png'][0][:-200], 'cut short or damaged'),
    'cut.tif': (FILES['cmyk.tif'][0][:-2000], 'cut short or damaged'),
    'huge.png': (png_of(100_000, 90_000), '100000 x 90000 = 9000 million pixels.*179 million.*--max-pixels'),
}


@pytest.mark.parametrize('name', BAD)
def test_what_cannot_be_read_is_named(tmp_path, name):
    content, says = BAD[name]
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(UserError, match=f'{name}.*{says}') as caught:
            read_image(path)
    assert str(caught.value).count('\n') == 0
    assert Image.MAX_IMAGE_PIXELS is not None


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(UserError, match='it is a folder'):
        read_image(tmp_path)


def test_the_limit_can_be_moved(tmp_path):
    path = tmp_path / 'image.png'
    COLOR.save(path)
    with pytest.raises(UserError, match='53 x 37'):
        read_image(path, max_pixels=H * W - 1)
    assert read_image(path, max_pixels=H * W).shape == (H, W, 3)
