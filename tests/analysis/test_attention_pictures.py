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
    full_light,
    in_own_colors,
    legend,
    light,
    mark,
    titled,
    with_scale,
)

SIZE = (60, 100)
NARROWEST = 168  # of pictures with words


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


def test_only_attention_is_bright():
    """A white wall that nobody looks at against a black one that is looked at."""
    halves = np.zeros((*SIZE, 3), np.uint8)
    halves[:, :50] = 255
    seen = np.zeros(SIZE, np.float32)
    seen[:, 50:] = 1
    for picture in (attention_overlay(halves, seen), class_overlay(halves, seen[None])):
        white, black = picture[:, :40].max(), picture[:, 60:].max(-1).min()
        assert white < 110 and black > 1.6 * white
    own = in_own_colors(halves, seen)  # black on black but for its outline
    assert (own.reshape(-1, 3) == (255, 221, 0)).all(-1).sum() > 100


def test_the_scale_says_what_full_light_is(photo):
    ramp = np.linspace(0, 2, 60 * 100, dtype=np.float32).reshape(SIZE)  # full light at 1.96, the mean 1
    assert full_light(ramp, SIZE) == '2.0 x the mean'
    assert full_light(one_patch(2, 7), SIZE).endswith('x the mean')
    assert full_light(np.zeros(SIZE, np.float32), SIZE) == '0.0 x the mean'
    wide = np.concatenate([photo, photo, photo], axis=1)
    picture = with_scale(wide, ramp, color=(0, 0, 200))
    assert picture.shape[1] == 300 and np.array_equal(picture[:60], wide)
    bar = picture[68]
    assert not bar[0].any() and tuple(bar[-1]) == (0, 0, 200) and (np.diff(bar[:, 2].astype(int)) >= 0).all()
    assert (picture[75:] < 100).any(), 'numbers'


def test_overlay_is_yellow_where_attention_is_and_dark_grey_elsewhere(photo):
    picture = attention_overlay(photo, one_patch(2, 7)).astype(int)
    assert picture.shape == photo.shape
    red, green, blue = picture[24:26, 74:76].mean((0, 1))
    assert red > green > 60
    assert blue < 5
    away = picture[:, :50]
    assert (away.max(-1) - away.min(-1) <= 1).all()
    assert away.mean() < 0.6 * photo[:, :50].mean()


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
    assert wide.shape[1] == NARROWEST
    assert wide.shape[0] > SIZE[0] + 3 * 18
    assert np.array_equal(wide[-60:, :100], photo) and (wide[-60:, 100:] == 255).all()
    assert (wide[:, -2:] == 255).all(), 'no letter is cut'
    cut = titled(photo, 'Donaudampfschifffahrtsgesellschaftskapitaen')
    assert (cut[:, -2:] == 255).all() and (cut[26:38] < 100).any(), 'the rest of the word is on a line of its own'
    row = beside([photo, photo[:30]], ['a name that is far too long for a picture', 'x'])
    assert row.shape[1] == 2 * NARROWEST + 6
    right = row[:, NARROWEST + 6 :]
    assert np.array_equal(right[-60:-30, :100], photo[:30]) and (right[-30:] == 255).all()
    named = legend(photo, ['tabby', 'tiger'])
    assert np.array_equal(named[:60, :100], photo)
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
        assert sheet.width == 2 * NARROWEST + 6
        assert sheet.height > 2 * (60 + 18 + 18)
