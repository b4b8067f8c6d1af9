"""Pictures of attention on photos, as in Touvron et al., https://arxiv.org/abs/2112.13692, and sheets of them.

The kinds of picture are the paper's: the photo in grey with a yellow light where attention is, one hue per class on the
photo in grey, and the photo's own colours where attention is and black elsewhere. How its authors made a map visible
is not known, so this is ours:

* A map is resized to the photo by linear interpolation between the middles of its patches. Cubic interpolation would be
  smoother, and draw faint patches around a bright one where there is nothing.
* It is divided by its 98th percentile, or by a third of its largest value where that is more, and cut off at 1. So one
  bright patch does not hide all others. Attention of 0 stays 0: a map without a preference is evenly light, not a
  picture of its noise.

Arrays are numpy's: photos (H, W, 3) uint8 in RGB, maps (h, w) of any non-negative numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .pictures import Color

__all__ = [
    'HUES', 'attention_overlay', 'attention_sheet', 'beside', 'class_overlay', 'fit_map', 'in_own_colors', 'legend',
    'light', 'mark', 'save', 'titled',
]  # fmt: skip

YELLOW = (255, 221, 0)
# Okabe and Ito's colours, which people with any colour vision can tell apart: https://jfly.uni-koeln.de/color/
HUES: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178),
)  # fmt: skip
_DARK = 0.35  # how bright a grey photo is left where there is no attention
_MARGIN = 6  # pixels


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
    """The map over its 98th percentile, or over a third of its largest value."""
    top = max(float(np.percentile(attention, 98)), float(attention.max()) / 3)
    return (attention / top if top > 0 else attention).astype(np.float32)


def attention_overlay(
    photo: np.ndarray, attention: np.ndarray, extent: tuple[float, float] | None = None, color: Color = YELLOW
) -> np.ndarray:
    """The photo in grey, dark where attention is low and lit in one colour where it is high: (H, W, 3) uint8.

    Args:
        photo: (H, W, 3) uint8.
        attention: map (h, w).
        extent: see :func:`fit_map`.
        color: of the light.
    """
    strength = light(fit_map(attention, photo.shape[:2], extent))[..., None]
    grey = _grey(photo)
    lit = (0.35 + 0.65 * grey) * np.asarray(color, np.float32) / 255
    return _picture(_DARK * grey * (1 - strength) + lit * strength)


def class_overlay(
    photo: np.ndarray,
    attention: np.ndarray,
    extent: tuple[float, float] | None = None,
    colors: Sequence[Color] = HUES,
) -> np.ndarray:
    """The photo in grey with each class's attention in its own colour: (H, W, 3) uint8.

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
    return _picture(0.8 * grey * (1 - alpha) + (0.25 + 0.75 * grey) * hue * alpha)


def in_own_colors(photo: np.ndarray, attention: np.ndarray, extent: tuple[float, float] | None = None) -> np.ndarray:
    """The photo multiplied by its attention: its own colours where that is high, black where it is low."""
    strength = light(fit_map(attention, photo.shape[:2], extent))[..., None]
    return _picture(photo.astype(np.float32) / 255 * strength)


def _grey(photo: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) / 255


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
        picture: (H, W, 3) uint8.
        title: text.
        lines: room for so many, so that pictures beside each other stay level; by default as many as there are.
    """
    font = ImageFont.load_default(14)
    rows = _lines(title, picture.shape[1], font)
    height = _MARGIN + 18 * (lines or len(rows))
    page = Image.new('RGB', (picture.shape[1], picture.shape[0] + height), 'white')
    pen = ImageDraw.Draw(page)
    for index, row in enumerate(rows[:lines]):
        pen.text((2, 2 + 18 * index), row, fill='black', font=font)
    page.paste(Image.fromarray(picture), (0, height))
    return np.array(page)


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    letters = max(8, int(width / max(font.getlength(text) / max(len(text), 1), 1)) - 1)
    return wrap(text, letters) or ['']


def beside(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures of one height in a row, each under its title."""
    font = ImageFont.load_default(14)
    lines = max(len(_lines(title, each.shape[1], font)) for each, title in zip(pictures, titles, strict=True))
    named = [titled(each, title, lines) for each, title in zip(pictures, titles, strict=True)]
    gap = np.full((named[0].shape[0], _MARGIN, 3), 255, np.uint8)
    return np.concatenate([part for each in named for part in (each, gap)][:-1], axis=1)


def legend(picture: np.ndarray, names: Sequence[str], colors: Sequence[Color] = HUES) -> np.ndarray:
    """The picture with the classes' colours and names below it."""
    font = ImageFont.load_default(14)
    rows = [_lines(name, picture.shape[1] - 24, font) for name in names]
    height = sum(18 * len(row) + 4 for row in rows) + _MARGIN
    page = Image.new('RGB', (picture.shape[1], picture.shape[0] + height), 'white')
    page.paste(Image.fromarray(picture), (0, 0))
    pen, top = ImageDraw.Draw(page), picture.shape[0] + _MARGIN
    for row, color in zip(rows, colors, strict=False):
        pen.rectangle((4, top + 2, 18, top + 16), fill=tuple(color))
        for line in row:
            pen.text((24, top), line, fill='black', font=font)
            top += 18
        top += 4
    return np.array(page)


def attention_sheet(path: str | Path, rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]]) -> Path:
    """Write rows of small pictures, each row under a line of text and each picture under its title; return the path.

    Args:
        path: of a PNG; its folder is made.
        rows: per row its text, and its pictures with their titles, all of one size.
    """
    blocks = []
    for text, pictures in rows:
        row = beside([picture for _, picture in pictures], [title for title, _ in pictures])
        blocks.append(titled(row, text))
    widest = max(block.shape[1] for block in blocks)
    padded = [np.pad(each, ((0, _MARGIN), (0, widest - each.shape[1]), (0, 0)), constant_values=255) for each in blocks]
    return save(np.concatenate(padded), path)


def save(picture: np.ndarray, path: str | Path) -> Path:
    """Write a picture, in a folder that is made where it is missing; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path
