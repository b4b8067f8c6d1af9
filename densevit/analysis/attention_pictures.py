"""Pictures of attention on photos, as in Touvron et al., https://arxiv.org/abs/2112.13692, and sheets of them.

The kinds of picture are the paper's: the photo in grey with a yellow light where attention is, one hue per class on the
photo in grey, and the photo's own colours where attention is and black elsewhere. How its authors made a map visible
is not known, so this is ours:

* A map is resized to the photo by linear interpolation between the middles of its patches. Cubic interpolation would be
  smoother, and draw faint patches around a bright one where there is nothing.
* It is divided by its 98th percentile, or by a third of its largest value where that is more, and cut off at 1. So one
  bright patch does not hide all others. Attention of 0 stays 0: a map without a preference is evenly light, not a
  picture of its noise. :func:`with_scale` says below a picture what full light stands for.
* Only attention is bright. The photo is grey, dim and of little contrast below it, and gives the light a texture of at
  most a fifth: a white wall that nobody looks at stays darker than a black one that is looked at.

Arrays are numpy's: photos (H, W, 3) uint8 in RGB, maps (h, w) of any non-negative numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pictures import Color

__all__ = [
    'HUES', 'attention_overlay', 'attention_sheet', 'beside', 'class_overlay', 'fit_map', 'in_own_colors', 'legend',
    'full_light', 'light', 'mark', 'save', 'titled', 'with_scale',
]  # fmt: skip

YELLOW = (255, 221, 0)
# Okabe and Ito's colours, which people with any colour vision can tell apart: https://jfly.uni-koeln.de/color/
HUES: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178),
)  # fmt: skip
_BLACK, _WHITE = 0.06, 0.40  # how bright black and white of the photo are left where there is no attention
_TEXTURE = 0.2  # how much darker than the light a black pixel is where all attention is
_EDGE = 0.5  # of full light: where a picture in the photo's own colours has its outline
_MARGIN = 6  # pixels
_NARROWEST = 168  # pixels of a picture with words: a narrower one has white beside it
_LINE = 18  # pixels


def fit_map(attention: np.ndarray, size: tuple[int, int], extent: tuple[float, float] | None = None) -> np.ndarray:
    """A map in the size of its photo: (h, w) -> (H, W) float32.

    Args:
        attention: the map.
        size: H and W of the photo.
        extent: height and width, in pixels of the photo, of the part of it that the map covers from the upper left
            corner; by default all of it. What is beyond it is cut off, what it does not reach goes on as at its edge.
    """
    (H, W), (down, right) = size, extent or size
    down, right = max(1, round(down)), max(1, round(right))
    whole = cv2.resize(attention.astype(np.float32), (right, down), interpolation=cv2.INTER_LINEAR)[:H, :W]
    missing = ((0, H - whole.shape[0]), (0, W - whole.shape[1]))
    return np.pad(whole, missing, mode='edge')


def light(attention: np.ndarray) -> np.ndarray:
    """How bright each place is drawn, 0 to 1; see the top of this file."""
    return _relative(attention).clip(0, 1)


def _relative(attention: np.ndarray) -> np.ndarray:
    top = _full(attention)
    return (attention / top if top > 0 else attention).astype(np.float32)


def _full(attention: np.ndarray) -> float:
    """What is drawn in full light: the map's 98th percentile, or a third of its largest value."""
    return max(float(np.percentile(attention, 98)), float(attention.max()) / 3)


def attention_overlay(
    photo: np.ndarray, attention: np.ndarray, extent: tuple[float, float] | None = None, color: Color = YELLOW
) -> np.ndarray:
    """The photo in dim grey, lit in one colour where attention is high: (H, W, 3) uint8.

    Args:
        photo: (H, W, 3) uint8.
        attention: map (h, w).
        extent: see :func:`fit_map`.
        color: of the light.
    """
    strength = light(fit_map(attention, photo.shape[:2], extent))[..., None]
    grey = _grey(photo)
    return _picture(_dim(grey) * (1 - strength) + _lit(grey) * np.asarray(color, np.float32) / 255 * strength)


def class_overlay(
    photo: np.ndarray,
    attention: np.ndarray,
    extent: tuple[float, float] | None = None,
    colors: Sequence[Color] = HUES,
) -> np.ndarray:
    """The photo in dim grey with each class's attention in its own colour: (H, W, 3) uint8.

    Where several classes attend to a place, it has the colour of the strongest, mixed in proportion.

    Args:
        photo: (H, W, 3) uint8.
        attention: maps (K, h, w), one per class.
        extent: see :func:`fit_map`.
        colors: of the classes, at least K.
    """
    strength = np.stack([_relative(fit_map(each, photo.shape[:2], extent)) for each in attention])  # (K, H, W)
    share = strength**4  # the strongest decides, the border between two is soft
    share /= share.sum(axis=0).clip(min=1e-12)
    hues = np.asarray(colors[: len(strength)], np.float32) / 255  # (K, 3)
    hue = np.einsum('khw,kc->hwc', share, hues)
    alpha = strength.max(axis=0).clip(max=1)[..., None]
    grey = _grey(photo)
    return _picture(_dim(grey) * (1 - alpha) + _lit(grey) * hue * alpha)


def in_own_colors(photo: np.ndarray, attention: np.ndarray, extent: tuple[float, float] | None = None) -> np.ndarray:
    """The photo multiplied by its attention: its own colours where that is high, black where it is low.

    A yellow line goes around what has half of the light or more, as what is black itself could not be seen otherwise.
    """
    strength = light(fit_map(attention, photo.shape[:2], extent))
    picture = _picture(photo.astype(np.float32) / 255 * strength[..., None])
    outlines, _ = cv2.findContours((strength >= _EDGE).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, outlines, -1, YELLOW, max(1, round(min(photo.shape[:2]) / 250)))


def _grey(photo: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) / 255


def _dim(grey: np.ndarray) -> np.ndarray:
    return _BLACK + (_WHITE - _BLACK) * grey


def _lit(grey: np.ndarray) -> np.ndarray:
    return 1 - _TEXTURE * (1 - grey)


def _picture(image: np.ndarray) -> np.ndarray:
    return (image * 255).round().clip(0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ words on pictures
def mark(picture: np.ndarray, y: float, x: float) -> np.ndarray:
    """A copy with a ring around a pixel: the query whose attention is shown."""
    radius = max(4, min(picture.shape[:2]) // 40)
    center, drawn = (round(x), round(y)), picture.copy()
    for color, width in (((255, 255, 255), 4), ((220, 0, 0), 2)):
        cv2.circle(drawn, center, radius, color, width, cv2.LINE_AA)
    return drawn


def titled(picture: np.ndarray, title: str, lines: int | None = None) -> np.ndarray:
    """The picture with a title above it, broken into lines where it is wide.

    Args:
        picture: (H, W, 3) uint8; a narrow one gets white on its right.
        title: text.
        lines: room for so many, so that pictures beside each other stay level; by default as many as there are.
    """
    rows = _lines(title, max(picture.shape[1], _NARROWEST))
    height = _MARGIN + _LINE * (lines or len(rows))
    page = Image.fromarray(_padded(picture, top=height))
    pen = ImageDraw.Draw(page)
    for index, row in enumerate(rows[:lines]):
        pen.text((2, 2 + _LINE * index), row, fill='black', font=_font())
    return np.array(page)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def _padded(picture: np.ndarray, top: int = 0, bottom: int = 0) -> np.ndarray:
    """White above and below, and on the right of what is too narrow for words."""
    right = max(0, _NARROWEST - picture.shape[1])
    return np.pad(picture, ((top, bottom), (0, right), (0, 0)), constant_values=255)


def _lines(text: str, width: int) -> list[str]:
    """The text in lines that are no wider than ``width`` pixels; a word that is wider by itself is cut."""
    font, room = _font(), width - 4
    rows = ['']
    for word in text.split():
        if rows[-1] and font.getlength(f'{rows[-1]} {word}') > room:
            rows.append('')
        rows[-1] = f'{rows[-1]} {word}'.strip()
        while font.getlength(rows[-1]) > room:
            fits = max(n for n in range(1, len(rows[-1])) if n == 1 or font.getlength(rows[-1][:n]) <= room)
            rows[-1:] = [rows[-1][:fits], rows[-1][fits:]]
    return rows


def beside(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures in a row, each under its title; below lower ones there is white."""
    lines = max(
        len(_lines(title, max(each.shape[1], _NARROWEST))) for each, title in zip(pictures, titles, strict=True)
    )
    height = max(len(each) for each in pictures)
    named = [titled(_padded(each, bottom=height - len(each)), title, lines) for each, title in zip(pictures, titles)]
    gap = np.full((named[0].shape[0], _MARGIN, 3), 255, np.uint8)
    return np.concatenate([part for each in named for part in (each, gap)][:-1], axis=1)


def with_scale(
    picture: np.ndarray,
    attention: np.ndarray,
    extent: tuple[float, float] | None = None,
    color: Color = YELLOW,
) -> np.ndarray:
    """The picture of a map with its scale below: a bar from no attention to full light, and what that stands for.

    Args:
        picture: what :func:`attention_overlay` or :func:`in_own_colors` has drawn.
        attention, extent: what it was drawn from.
        color: of full light.
    """
    drawn = _padded(picture, bottom=_MARGIN + 8 + _LINE)
    ramp = np.linspace(0, 1, drawn.shape[1])[:, None] * np.asarray(color)
    drawn[len(picture) + _MARGIN : len(picture) + _MARGIN + 8] = ramp.round().astype(np.uint8)
    page = Image.fromarray(drawn)
    pen, font, text = ImageDraw.Draw(page), _font(), full_light(attention, picture.shape[:2], extent)
    top = len(picture) + _MARGIN + 9
    pen.text((2, top), '0', fill='black', font=font)
    pen.text((page.width - 2 - font.getlength(text), top), text, fill='black', font=font)
    return np.array(page)


def full_light(attention: np.ndarray, size: tuple[int, int], extent: tuple[float, float] | None = None) -> str:
    """What the full light of a map on its photo of ``size`` (H, W) stands for: ``'12 x the mean'``, or more."""
    fitted = fit_map(attention, size, extent)
    mean = float(fitted.mean())
    times = _full(fitted) / mean if mean > 0 else 0.0
    return f'{times:.1f} x the mean' if times < 9.95 else f'{times:.0f} x the mean'


def legend(picture: np.ndarray, names: Sequence[str], colors: Sequence[Color] = HUES) -> np.ndarray:
    """The picture with the classes' colours and names below it."""
    rows = [_lines(name, max(picture.shape[1], _NARROWEST) - 24) for name in names]
    height = sum(_LINE * len(row) + 4 for row in rows) + _MARGIN
    page = Image.fromarray(_padded(picture, bottom=height))
    pen, top = ImageDraw.Draw(page), picture.shape[0] + _MARGIN
    for row, color in zip(rows, colors, strict=False):
        pen.rectangle((4, top + 2, 18, top + 16), fill=tuple(color))
        for line in row:
            pen.text((24, top), line, fill='black', font=_font())
            top += _LINE
        top += 4
    return np.array(page)


def attention_sheet(path: str | Path, rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]]) -> Path:
    """Write rows of small pictures, each row under a line of text and each picture under its title; return the path.

    Args:
        path: of a PNG; its folder is made.
        rows: per row its text, and its pictures with their titles.
    """
    blocks = [titled(beside([each for _, each in some], [title for title, _ in some]), text) for text, some in rows]
    widest = max(block.shape[1] for block in blocks)
    padded = [np.pad(each, ((0, _MARGIN), (0, widest - each.shape[1]), (0, 0)), constant_values=255) for each in blocks]
    return save(np.concatenate(padded), path)


def save(picture: np.ndarray, path: str | Path) -> Path:
    """Write a picture, in a folder that is made where it is missing; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
