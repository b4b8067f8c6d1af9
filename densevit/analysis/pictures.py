"""Pictures of labels and predictions, and sheets of them; drawn by torchvision and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

__all__ = ['Color', 'contact_sheet', 'draw_instances', 'draw_labels', 'sheet']

Color = tuple[int, int, int]
_MARGIN, _HEADER = 6, 22  # pixels


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def draw_labels(image: np.ndarray, labels: np.ndarray, palette: Sequence[Color], alpha: float = 0.65) -> np.ndarray:
    """Tint an RGB image (H, W, 3) uint8 with the class colours of a label map (H, W); other labels stay untinted."""
    present = [index for index in np.unique(labels) if index < len(palette)]
    masks = torch.stack([torch.from_numpy(labels == index) for index in present])
    colors = [tuple(palette[index]) for index in present]
    return _array(draw_segmentation_masks(_tensor(image), masks, alpha=alpha, colors=colors))


def draw_instances(
    image: np.ndarray,
    labels: Sequence[int],
    palette: Sequence[Color],
    names: Sequence[str],
    *,
    masks: np.ndarray | Sequence[np.ndarray] | None = None,
    boxes: np.ndarray | None = None,
    alpha: float = 0.55,
) -> np.ndarray:
    """Draw instances on an RGB image (H, W, 3) uint8: masks, boxes, class names.

    Args:
        image: what to draw on; it is not changed.
        labels: class of each of the N instances.
        palette: colour of each class.
        names: name of each class.
        masks: (N, H, W) bool; an empty one is left out.
        boxes: (N, 4) as x1, y1, x2, y2 in pixels; by default those around the masks.
        alpha: opacity of the masks, 0 to 1.
    """
    drawn = _tensor(image)
    kept = range(len(labels)) if masks is None else [index for index, mask in enumerate(masks) if mask.any()]
    if not kept:
        return image.copy()
    colors = [tuple(palette[labels[index]]) for index in kept]
    if masks is not None:
        stacked = np.stack([masks[index] for index in kept])
        boxes = np.array([_box(mask) for mask in stacked])
        drawn = draw_segmentation_masks(drawn, torch.from_numpy(stacked), alpha=alpha, colors=colors)
    drawn = draw_bounding_boxes(drawn, torch.from_numpy(boxes), [names[labels[index]] for index in kept], colors=colors)
    return _array(drawn)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # torchvision refuses a box without extent, which a mask one pixel wide would have
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def sheet(path: str | Path, titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], scale: int = 1) -> Path:
    """Write rows of equally large RGB pictures (H, W, 3) under a line of column titles; return the path."""
    height, width = (side * scale for side in rows[0][0].shape[:2])
    page = Image.new(
        'RGB',
        (len(titles) * (width + _MARGIN) + _MARGIN, len(rows) * (height + _MARGIN) + _MARGIN + _HEADER),
        'white',
    )
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        left = _MARGIN + column * (width + _MARGIN)
        pen.text((left, _MARGIN), title, fill='black', font=ImageFont.load_default(14))
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
