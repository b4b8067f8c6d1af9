"""Image files as the fuzz tests begin with, and bombs: small files of large images."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIDE = 30_000  # of a bomb: 900 million pixels


def encoded(size: tuple[int, int] = (21, 13)) -> dict[str, bytes]:
    """A small sound file of each format and kind that data sets are made of, by name."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    palette = rgb.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    files: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, kind: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.copy().save(buffer, kind, **options)  # a copy, as saving leaves options in it
        files[name] = buffer.getvalue()

    add('rgb.png', rgb, 'PNG', exif=exif)
    add('alpha.png', rgba, 'PNG')
    add('palette.png', palette, 'PNG', transparency=3)
    add('deep.png', deep, 'PNG')
    add('bits.png', rgb.convert('1'), 'PNG')
    add('rgb.jpg', rgb, 'JPEG', exif=exif)
    add('progressive.jpg', rgb.convert('L'), 'JPEG', progressive=True)
    add('cmyk.jpg', rgb.convert('CMYK'), 'JPEG')
    add('plain.tif', rgb, 'TIFF')
    add('lzw.tif', deep, 'TIFF', compression='tiff_lzw')
    add('deflate.tif', Image.fromarray(pixels[..., 0].astype(np.float32)), 'TIFF', compression='tiff_adobe_deflate')
    add('pages.tif', rgb, 'TIFF', save_all=True, append_images=[rgba])
    add('rgb.bmp', rgb, 'BMP')
    add('palette.bmp', palette, 'BMP')
    add('lossy.webp', rgb, 'WEBP', exif=exif)
    add('lossless.webp', rgba, 'WEBP', lossless=True)
    add('frames.gif', palette, 'GIF', save_all=True, append_images=[rgb.convert('P')])
    add('rgb.ppm', rgb, 'PPM')
    add('grey.pgm', deep, 'PPM')
    add('rgb.jp2', rgb, 'JPEG2000')
    add('icon.ico', rgb, 'ICO')
    add('rgb.tga', rgb, 'TGA', compression='tga_rle')
    add('rgb.pcx', rgb, 'PCX')
    files['light.hdr'] = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n' % (height, width) + pixels.tobytes()
    files['rgb.pam'] = (
        b'P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n' % (width, height)
        + pixels[..., :3].tobytes()
    )
    return files


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, pixels: bytes = b'') -> bytes:
    """A grey PNG; without pixels it is a header alone."""
    header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    parts = [chunk(b'IHDR', header), *chunks, chunk(b'IDAT', pixels or zlib.compress(b'')), chunk(b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def zeros(count: int) -> bytes:
    """So many zero bytes, compressed: a million once, and its code again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    million = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count % 2**20)) + packer.flush()
    return b'\x78\xda' + million * (count // 2**20) + rest + struct.pack('>I', count % 65521 << 16 | 1)  # Adler-32


def bombs() -> dict[str, bytes]:
    """Files of at most some hundred kB that would fill gigabytes, by name."""
    whole = zeros((SIDE // 8 + 1) * SIDE)
    large = png(SIDE, SIDE, bits=1, pixels=whole)
    files = {
        'pixels.png': large,
        'header.png': png(2**31 - 1, 2**31 - 1),
        'wide.png': png(SIDE, SIDE),
        'profile.png': png(4, 4, chunk(b'iCCP', b'x\0\0' + zeros(2**30)), pixels=zeros(20)),
        'text.png': png(4, 4, *[chunk(b'zTXt', b'x\0\0' + zeros(2**28)) for _ in range(8)], pixels=zeros(20)),
        # a folder of one entry that says 16 x 16, and is a PNG of another size
        'inside.ico': struct.pack('<HHHBBBBHHII', 0, 1, 1, 16, 16, 0, 0, 1, 1, len(large), 22) + large,
        'inside.icns': struct.pack('>4sI4sI', b'icns', len(large) + 16, b'ic07', len(large) + 8) + large,
        'header.pgm': b'P5\n%d %d\n255\n' % (SIDE, SIDE),
        'header.pam': b'P7\nWIDTH %d\nHEIGHT %d\nDEPTH 4\nMAXVAL 65535\nTUPLTYPE RGB_ALPHA\nENDHDR\n' % (SIDE, SIDE),
        'header.pfm': b'PF\n%d %d\n-1.0\n' % (SIDE, SIDE),
    }
    # Radiance, run by run: 128 equal bytes take two
    width = 32_000
    runs = b''.join(bytes([128 + 127, 9]) for _ in range(width // 127)) + bytes([128 + width % 127, 9])
    row = bytes([2, 2, width >> 8, width & 255]) + runs * 4
    files['light.hdr'] = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n' % (width, width) + row * 100
    # header of a BMP of 8 bits with runs, whose table of colours Pillow does not accept
    head = struct.pack('<IiiHHIIiiII', 40, SIDE, SIDE, 1, 8, 1, 0, 1, 1, 300, 0)
    files['runs.bmp'] = b'BM' + struct.pack('<IHHI', 0, 0, 0, 14 + 40 + 1200) + head + bytes(1200) + b'\xff\0' * 90_000
    buffer = io.BytesIO()
    Image.new('L', (16, 16)).save(buffer, 'JPEG')
    jpeg = bytearray(buffer.getvalue())
    place = jpeg.index(b'\xff\xc0')
    jpeg[place + 5 : place + 9] = struct.pack('>HH', SIDE, SIDE)
    files['header.jpg'] = bytes(jpeg)
    buffer = io.BytesIO()
    Image.new('P', (16, 16)).save(buffer, 'GIF')
    gif = bytearray(buffer.getvalue())
    place = gif.index(b',', 13 + 3)
    gif[place + 5 : place + 9] = struct.pack('<HH', SIDE, SIDE)
    files['frame.gif'] = bytes(gif)  # a frame larger than its screen
    buffer = io.BytesIO()
    Image.new('L', (16, 16)).save(buffer, 'TIFF', compression='tiff_adobe_deflate')
    tiff = bytearray(buffer.getvalue())
    for tag in (256, 257, 278):  # width, height, rows of a strip
        for kind in (3, 4):
            place = tiff.find(struct.pack('<HHI', tag, kind, 1))
            if place >= 0:
                tiff[place : place + 12] = struct.pack('<HHII', tag, 4, 1, SIDE)
    files['header.tif'] = bytes(tiff)
    return files
