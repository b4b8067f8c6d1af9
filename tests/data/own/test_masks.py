"""Masks of every kind become label maps with the right classes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from densevit.data.own.classes import Class
from densevit.data.own.labels import name_labels
from densevit.data.own.masks import label_map, look_at
from densevit.data.own.pairs import Pair
from densevit.errors import UserError

COLORS = np.array([[0, 0, 0], [128, 64, 128], [0, 128, 0]], np.uint8)
BASE = np.array([[0, 1, 2, 2, 1], [0, 0, 1, 1, 2], [1, 1, 1, 0, 0]], np.uint8)  # (3, 5)


def paletted(values: np.ndarray, colors: np.ndarray) -> Image.Image:
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


def jumbled() -> list[Image.Image]:
    """The same colours, numbered by each file in its own way."""
    return [paletted(BASE, COLORS), paletted(np.array([2, 0, 1])[BASE], COLORS[[1, 2, 0]])]


@pytest.fixture
def pairs(tmp_path):
    def make(*masks: Image.Image | np.ndarray, suffix: str = '.png') -> list[Pair]:
        made = []
        for index, mask in enumerate(masks):
            image, path = tmp_path / f'{index}.jpg', tmp_path / f'{index}_mask{suffix}'
            mask = Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask
            Image.new('RGB', mask.size).save(image)
            mask.save(path)
            made.append(Pair(str(index), image, path))
        return made

    return make


def converted(pairs: list[Pair], table: list[Class] | None = None, void: tuple[str, ...] = ()):
    seen = look_at(pairs)
    labels = name_labels(seen, table, void)
    maps = [Image.open(io.BytesIO(label_map(pair.mask, seen, labels.to_class))) for pair in pairs]
    assert {image.mode for image in maps} == {'L'}
    return [each.name for each in labels.classes], [np.asarray(image) for image in maps], labels


NAMES = [Class('void'), Class('road'), Class('tree')]
VALUES = [Class('road', 1), Class('tree', 2)]
TABLE = [Class('void', None, (0, 0, 0)), Class('road', None, (128, 64, 128)), Class('tree', None, (0, 128, 0))]
EXPECTED = np.array([255, 0, 1], np.uint8)[BASE]
# masks, table: all of them say the same
KINDS = {
    'values': ([BASE], NAMES),
    'values by number': ([BASE], VALUES),
    '16 bit': ([BASE.astype(np.uint16)], VALUES),
    '32 bit': ([BASE.astype(np.int32)], VALUES),
    'grey as RGB': ([np.repeat(BASE[..., None], 3, 2)], VALUES),
    'palette': ([paletted(BASE, COLORS)], VALUES),
    'palette that says the colours': ([paletted(BASE, COLORS)], TABLE[::-1]),
    'palettes that differ': (jumbled(), TABLE),
    'colours': ([COLORS[BASE]], TABLE),
    'colours with alpha': ([np.dstack([COLORS[BASE], np.full((3, 5), 255, np.uint8)])], TABLE),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kinds(pairs, kind):
    masks, table = KINDS[kind]
    names, maps, _ = converted(pairs(*masks, suffix='.tif' if kind == '32 bit' else '.png'), table)
    order = [['road', 'tree'].index(name) for name in names]
    table = np.full(256, 255, np.uint8)
    table[order] = range(len(order))
    for each in maps:
        np.testing.assert_array_equal(each, table[EXPECTED])


def test_binary(pairs):
    for mask in (BASE.clip(max=1) * 255, Image.fromarray(BASE > 0)):
        names, maps, labels = converted(pairs(mask))
        assert names == (['background', 'foreground'] if isinstance(mask, np.ndarray) else ['class_0', 'class_1'])
        np.testing.assert_array_equal(maps[0], BASE.clip(max=1))
    names, maps, labels = converted(pairs(BASE.clip(max=1) * 255), [Class('cell')])
    assert names == ['background', 'cell']
    assert 'values 0 and 255' in labels.notes[0]


def test_without_a_table(pairs):
    values = np.array([0, 7, 255], np.uint8)[BASE]
    names, maps, labels = converted(pairs(values))
    assert names == ['class_0', 'class_7']
    np.testing.assert_array_equal(maps[0], np.array([0, 1, 255], np.uint8)[BASE])
    assert 'value 255 is taken as void' in labels.notes[0]
    names, maps, _ = converted(pairs(COLORS[BASE]), void=('0,0,0',))
    assert names == ['color_0_128_0', 'color_128_64_128']
    np.testing.assert_array_equal(maps[0], np.array([255, 1, 0], np.uint8)[BASE])


def test_numbers_from_one(pairs):
    """Two names for 1 and 2: 0 is void, as in ADE20K."""
    names, maps, labels = converted(pairs(BASE), [Class('road'), Class('tree')])
    assert names == ['road', 'tree']
    np.testing.assert_array_equal(maps[0], EXPECTED)
    assert any('values 1 to 2' in note for note in labels.notes) and any('value 0' in note for note in labels.notes)


def test_void_by_name_and_value(pairs):
    names, maps, _ = converted(pairs(BASE), [Class('sky'), Class('road'), Class('tree')], ('road', '2'))
    assert names == ['sky', 'tree']
    np.testing.assert_array_equal(maps[0], np.array([0, 255, 255], np.uint8)[BASE])


def test_a_photo_is_turned_as_its_exif_says(pairs, tmp_path):
    (pair,) = pairs(BASE)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (3, 5)).save(pair.image, exif=exif)
    assert look_at([pair]).sizes == [(3, 5)]


@pytest.mark.parametrize(
    ('mask', 'table', 'void', 'message'),
    [
        (COLORS[BASE], TABLE[:2], (), r'1 colours .* RGB \(0, 128, 0\) \(20.00% of the pixels\), in 1 of 1 masks'),
        (COLORS[BASE], NAMES, (), 'the table of --classes has none: write each class as "name r g b"'),
        (BASE, [Class('only', 1)], (), r'1 values of the masks are not in the table .* value 2'),
        (BASE, [Class('a', 1), Class('b')], (), 'some classes have a value and others have none'),
        (BASE, None, ('road',), "--void 'road' is neither a value"),
        (BASE, None, ('0', '1', '2'), 'nothing but what is void'),
        (np.arange(300, dtype=np.uint16).reshape(3, 100), None, (), '299 different values, more than 255 classes'),
    ],
)
def test_refused(pairs, mask, table, void, message):
    with pytest.raises(UserError, match=message):
        name_labels(look_at(pairs(mask)), table, void)


def test_photos_and_other_sizes_are_refused(pairs, tmp_path):
    (pair,) = pairs(np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8))
    with pytest.raises(UserError, match='colours, so it is a photo'):
        look_at([pair])
    Image.new('L', (90, 81)).save(pair.mask)
    with pytest.raises(UserError, match="90 x 81 pixels, but its image '0.jpg' is 90 x 80"):
        look_at([pair])
    pair.mask.write_bytes(b'no image')
    with pytest.raises(UserError, match='cannot be read'):
        look_at([pair])
    with pytest.raises(UserError, match='masks of one kind'):
        look_at(pairs(BASE, COLORS[BASE]))
