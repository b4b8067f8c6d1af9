"""Pictures of attention: light where attention is, in the right colour and in the right place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from densevit.analysis.attention_pictures import (
    HUES,
    attention_overlay,
    attention_sheet,
    beside,
    class_overlay,
    fit_map,
    in_own_colors,
    legend,
    light,
    mark,
    titled,
)

SIZE = (60, 100)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (*SIZE, 3), dtype=np.uint8)


def one_patch(row: int, column: int, size: tuple[int, int] = (6, 10)) -> np.ndarray:
    attention = np.zeros(size, np.float32)
    attention[row, column] = 1
    return attention


def test_a_map_lies_where_its_patches_are():
    fitted = fit_map(one_patch(2, 7), SIZE)
    assert fitted.shape == SIZE
    assert np.unravel_index(fitted.argmax(), SIZE) in [(y, x) for y in (24, 25) for x in (74, 75)]
    assert fitted.min() == 0  # linear interpolation overshoots nowhere
    assert not fitted[:10].any()
    assert not fitted[:, :60].any()


def test_what_a_map_covers_beyond_the_photo_is_cut_off_and_what_it_lacks_continued():
    padded = fit_map(one_patch(5, 9), SIZE, extent=(72, 120))  # patches of 12 x 12: the last is padding from 60 on
    assert padded.shape == SIZE
    assert padded.max() < 0.5
    assert np.array_equal(padded, cv2.resize(one_patch(5, 9), (120, 72))[:60, :100])
    short = fit_map(np.arange(60, dtype=np.float32).reshape(6, 10), SIZE, extent=(48, 80))
    assert (short[48:] == short[47]).all()
    assert (short[:, 80:] == short[:, 79:80]).all()


def test_light():
    even = light(np.full(SIZE, 0.01))
    assert (even == 1).all()  # no preference: no picture of noise
    assert not light(np.zeros(SIZE)).any()
    outlier = np.full((10, 10), 0.2)
    outlier[0, 0] = 50
    # the brightest is cut off at a third, not at the noise
    assert light(outlier)[0, 0] == 1
    assert light(outlier)[5, 5] == pytest.approx(0.2 * 3 / 50)
    ramp = light(np.linspace(0, 1, 1000).reshape(10, 100))
    assert ramp.min() == 0
    assert (ramp == 1).sum() == 20
    assert ramp.flat[490] == pytest.approx(0.5, abs=0.01)


def test_overlay_is_yellow_where_attention_is_and_dark_grey_elsewhere(photo):
    picture = attention_overlay(photo, one_patch(2, 7)).astype(int)
    assert picture.shape == photo.shape
    red, green, blue = picture[24:26, 74:76].mean((0, 1))
    assert red > green > 60
    assert blue < 5
    away = picture[:, :50]
    assert (away.max(-1) - away.min(-1) <= 1).all()
    assert away.mean() < 0.4 * photo[:, :50].mean()


def test_a_class_has_its_own_colour(photo):
    picture = class_overlay(photo, np.stack([one_patch(1, 1), one_patch(4, 8)])).astype(float)
    for (y, x), color in (((15, 15), HUES[0]), ((45, 85), HUES[1])):
        found, wanted = picture[y, x] / picture[y, x].max(), np.array(color) / max(color)
        assert np.allclose(found, wanted, atol=0.1)
    middle = picture[:, 40:60]
    assert (middle.max(-1) - middle.min(-1) <= 1).all()
    where_both = class_overlay(photo, np.stack([one_patch(1, 1), 0.5 * one_patch(1, 1) + one_patch(4, 8)]))
    found = where_both[15, 15] / where_both[15, 15].max()
    assert np.allclose(found, np.array(HUES[0]) / max(HUES[0]), atol=0.15)  # the stronger one


def test_own_colors(photo):
    picture = in_own_colors(photo, one_patch(2, 7))
    assert np.array_equal(picture[24:26, 74:76], photo[24:26, 74:76])
    assert not picture[:, :60].any()


def test_words_take_the_room_that_they_need(photo):
    wide = titled(photo, 'a name that is far too long for a picture of one hundred pixels')
    assert wide.shape[1] == 100
    assert wide.shape[0] > SIZE[0] + 3 * 18
    assert np.array_equal(wide[-60:], photo)
    row = beside([photo, photo], ['a name that is far too long for a picture', 'x'])
    assert row.shape[1] == 2 * 100 + 6
    assert np.array_equal(row[-60:, -100:], photo)
    named = legend(photo, ['tabby', 'tiger'])
    assert np.array_equal(named[:60], photo)
    assert tuple(named[60 + 6 + 8, 10]) == HUES[0]


def test_a_mark_is_around_its_pixel(photo):
    marked = mark(photo, 30, 70)
    changed = np.argwhere((marked != photo).any(-1))
    assert np.allclose(changed.mean(0), (30, 70), atol=0.5)
    assert np.array_equal(marked[30, 70], photo[30, 70])


def test_sheet(photo, tmp_path):
    rows = [('one layer', [('photo', photo), ('mean', photo)]), ('another', [('photo', photo)])]
    path = attention_sheet(tmp_path / 'new' / 'sheet.png', rows)
    with Image.open(path) as sheet:
        assert sheet.width == 2 * 100 + 6
        assert sheet.height > 2 * (60 + 18 + 18)
