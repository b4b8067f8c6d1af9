"""Pictures of labels and predictions, and sheets of them; drawn by OpenCV and Pillow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ['Color', 'class_colors', 'contact_sheet', 'draw_instances', 'draw_labels', 'sheet', 'with_names']

Color = tuple[int, int, int]
_MARGIN, _HEADER = 6, 22  # pixels
_LONGEST = 2  # widths of its box that an object's caption may take


def class_colors(given: Any, count: int) -> list[Color]:
    """A colour per class: the dataset's, and where it has none, or too few, random ones, always the same."""
    colors = [tuple(int(value) for value in color) for color in given] if isinstance(given, (list, tuple)) else []
    rest = np.random.default_rng(0).integers(40, 256, (count, 3)).tolist()
    return [colors[index] if index < len(colors) else tuple(rest[index]) for index in range(count)]


def draw_labels(image: np.ndarray, labels: np.ndarray, palette: Sequence[Color], alpha: float = 0.65) -> np.ndarray:
    """Tint an RGB image (H, W, 3) uint8 with the class colours of a label map (H, W); other labels stay untinted."""
    colors = np.array(palette, np.uint8).reshape(-1, 3)
    known = (labels >= 0) & (labels < len(colors))
    if known.all():
        return cv2.addWeighted(colors[labels], alpha, image, 1 - alpha, 0)
    tinted = image.copy()
    tinted[known] = colors[labels[known]]
    return cv2.addWeighted(tinted, alpha, image, 1 - alpha, 0)


def with_names(picture: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A drawn label map (H, W, 3) with the name of each class in the middle of its largest region.

    Regions that are too small for a name go without.
    """
    drawn = picture.copy()
    scale = max(picture.shape[:2]) / 900
    for index in np.unique(labels):
        if not 0 <= index < len(names):
            continue
        mask = np.pad((labels == index).astype(np.uint8), 1)  # the image's edge is an edge, too
        _, inside, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(mask, cv2.DIST_L2, 3))
        if inside < 14 * scale:
            continue
        (width, height), _ = cv2.getTextSize(names[index], cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left = min(max(x - width // 2, 0), max(0, picture.shape[1] - width))
        for color, thickness in (((0, 0, 0), max(3, round(4 * scale))), ((255, 255, 255), max(1, round(1.5 * scale)))):
            origin = (int(left), int(y + height // 2))
            cv2.putText(
                drawn, names[index], origin, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA
            )  # fmt: skip
    return drawn


def draw_instances(
    image: np.ndarray,
    labels: Sequence[int],
    palette: Sequence[Color],
    names: Sequence[str],
    *,
    masks: np.ndarray | Iterable[np.ndarray] | None = None,
    boxes: np.ndarray | None = None,
    scores: Sequence[float] | None = None,
    alpha: float = 0.55,
) -> np.ndarray:
    """Draw instances on an RGB image (H, W, 3) uint8: masks, boxes, class names; lines and letters grow with the image.

    Args:
        image: what to draw on; it is not changed.
        labels: class of each of the N instances.
        palette: colour of each class.
        names: name of each class.
        masks: (N, H, W) bool, looked at one after the other; an empty one is left out.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels; by default those around the masks.
        scores: (N,), 0 to 1, written behind the names.
        alpha: opacity of the masks, 0 to 1.
    """
    drawn, framed = image, {index: tuple(box) for index, box in enumerate([] if boxes is None else boxes.tolist())}
    if masks is not None:
        layer, given, framed = image.copy(), framed, {}
        for index, mask in enumerate(masks):
            if mask.any():
                layer[mask] = palette[labels[index]]
                framed[index] = given.get(index) or _box(mask)
        drawn = cv2.addWeighted(layer, alpha, image, 1 - alpha, 0)
    if not framed:
        return image.copy()
    page = Image.fromarray(drawn)
    pen = ImageDraw.Draw(page)
    short = min(image.shape[:2])
    width, font = max(1, round(short / 300)), ImageFont.load_default(max(10, round(short / 40)))
    for index, (left, top, right, bottom) in framed.items():
        color = tuple(palette[labels[index]])
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=color, width=width)
    for index, (left, top, right, _) in framed.items():  # above all boxes
        color = tuple(palette[labels[index]])
        text = names[labels[index]] + ('' if scores is None else f' {scores[index]:.2f}')
        _, _, wide, high = pen.textbbox((0, 0), text, font=font)
        if wide > _LONGEST * (right - left):  # many small things would disappear under their names
            continue
        x, y = max(0, min(left, image.shape[1] - wide - 2)), max(0, top - high - 2)
        pen.rectangle((x, y, x + wide + 2, y + high + 2), fill=color)
        dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 128
        pen.text((x + 1, y), text, fill='white' if dark else 'black', font=font)
    return np.array(page)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def sheet(path: str | Path, titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], scale: int = 1) -> Path:
    """Write rows of equally large RGB pictures (H, W, 3) under a line of column titles; return the path."""
    height, width = (side * scale for side in rows[0][0].shape[:2])
    font = ImageFont.load_default(14)
    step = _MARGIN + max(width, *(math.ceil(font.getlength(title)) for title in titles))
    page = Image.new('RGB', (len(titles) * step + _MARGIN, len(rows) * (height + _MARGIN) + _MARGIN + _HEADER), 'white')
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        left = _MARGIN + column * step
        pen.text((left, _MARGIN), title, fill='black', font=font)
        for row, pictures in enumerate(rows):
            picture = Image.fromarray(pictures[column]).resize((width, height), Image.Resampling.BILINEAR)
            page.paste(picture, (left, _HEADER + _MARGIN + row * (height + _MARGIN)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path


def contact_sheet(path: str | Path, files: Sequence[str | Path], columns: int = 2) -> Path:
    """Write pictures of one size from ``files``, ``columns`` beside each other, as one picture; return the path."""
    pictures = [Image.open(file).convert('RGB') for file in files]
    width, height = pictures[0].size
    page = Image.new('RGB', (width * columns, height * -(-len(pictures) // columns)), 'white')
    for index, picture in enumerate(pictures):
        page.paste(picture, (index % columns * width, index // columns * height))
    page.save(path)
    return Path(path)
