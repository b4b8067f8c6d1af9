"""The pictures of a test report: thumbnails of every image, and large ones of a few with what the model looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from ..analysis.attention_pictures import attention_overlay, full_light
from ..analysis.detection_errors import Matches, Objects
from ..analysis.pictures import Color, draw_labels

__all__ = [
    'draw_attention', 'draw_boxes', 'draw_outcome', 'draw_wrong', 'label_thumbnails', 'recording', 'shrunk', 'to_array',
]  # fmt: skip

# Okabe and Ito's colours, see densevit/pages/figures.py; each also has a form of its own.
WRONG: Color = (255, 94, 0)
FOUND: Color = (86, 180, 233)  # thin frame
MISSED: Color = (240, 228, 66)  # filled
FALSE: Color = (255, 94, 0)  # crossed out


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """An image, or numbers (H, W), whose longer side is at most ``side``."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def label_thumbnails(
    image: np.ndarray, pred: np.ndarray, label: np.ndarray | None, palette: list[Color], ignore_index: int, side: int
) -> dict[str, np.ndarray]:
    """``'truth'``, ``'prediction'`` and ``'errors'`` of a label map (H, W) on its image, made in their final size."""
    photo = shrunk(image, side)
    maps = {'prediction': pred} if label is None else {'truth': label, 'prediction': pred}
    size = photo.shape[1::-1]
    drawn = {
        name: draw_labels(photo, cv2.resize(each.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST), palette)
        for name, each in maps.items()
    }
    return drawn if label is None else {**drawn, 'errors': draw_wrong(photo, pred, label, ignore_index)}


def draw_wrong(photo: np.ndarray, pred: np.ndarray, label: np.ndarray, ignore_index: int) -> np.ndarray:
    """The image in dark grey, what is wrong in bright orange, what is not scored in black; in the image's size."""
    size = photo.shape[1::-1]
    ignored = label == ignore_index
    wrong, left_out = (
        cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None]
        for mask in ((pred != label) & ~ignored, ignored)
    )
    grey = _dark(photo) * (1 - left_out)
    return (grey * (1 - wrong) + np.array(WRONG, np.float32) * wrong).round().astype(np.uint8)


def draw_boxes(photo: np.ndarray, objects: Objects, palette: list[Color], scale: float) -> np.ndarray:
    """Frames in the classes' colours; ``scale`` is the photo's size over that of the boxes' image."""
    drawn = photo.copy()
    for box, label in zip(objects.boxes, objects.labels):
        _frame(drawn, box * scale, palette[label], _line(photo))
    return drawn


def draw_outcome(photo: np.ndarray, truth: Objects, found: Objects, matches: Matches, scale: float) -> np.ndarray:
    """The image in dark grey; found objects in a thin blue frame, missed ones filled, false detections crossed out."""
    drawn = np.repeat(_dark(photo), 3, axis=2).round().astype(np.uint8)
    line = _line(photo)
    filled = drawn.copy()
    for box in truth.boxes[~matches.found] * scale:
        _frame(filled, box, MISSED, -1)
    drawn = cv2.addWeighted(filled, 0.5, drawn, 0.5, 0)
    for box, hit in zip(truth.boxes * scale, matches.found):
        _frame(drawn, box, FOUND if hit else MISSED, 1 if hit else 2 * line)
    for box in found.boxes[matches.false] * scale:
        left, top, right, bottom = _frame(drawn, box, FALSE, line)
        cv2.line(drawn, (left, top), (right, bottom), FALSE, 1, cv2.LINE_AA)
        cv2.line(drawn, (left, bottom), (right, top), FALSE, 1, cv2.LINE_AA)
    return drawn


def _dark(photo: np.ndarray) -> np.ndarray:
    return 0.55 * cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)


def _line(photo: np.ndarray) -> int:
    return max(1, round(max(photo.shape) / 320))


def _frame(image: np.ndarray, box: np.ndarray, color: Color, width: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = (int(round(float(value))) for value in box)
    cv2.rectangle(image, (left, top), (right, bottom), color, width)
    return left, top, right, bottom


# ------------------------------------------------------------------------------------------------------ attention
@contextmanager
def recording(model: nn.Module) -> Iterator[Any]:
    """Record the backbone's last attention layer where that stands for the image; gives the record or None.

    It does not where the model has a class attention of its own, where the backbone has no attention, and where the
    image passes in several pieces: sliding windows and test-time augmentation.
    """
    backbone = getattr(model, 'backbone', None)  # a model for test-time augmentation has none
    names = [name for name, *_ in getattr(backbone, 'attention_layers', list)()]
    mode = (getattr(model, 'test_cfg', None) or {}).get('mode', 'whole')
    if not names or mode != 'whole' or getattr(model, 'class_attention', None) is not None:
        yield None
        return
    with backbone.record_attention(names[-1]) as record:
        yield record


def draw_attention(
    sample: Any, record: Any, image: np.ndarray, names: Sequence[str], classes: Sequence[int]
) -> dict[str, np.ndarray]:
    """What the model looked at, drawn on the image, by a caption; empty where nothing is known of it.

    Args:
        sample: a predicted data sample; its ``class_attention`` is shown where it has one.
        record: of :func:`recording`.
        image: the original, (H, W, 3).
        names: of the classes.
        classes: of the truth, the most important first; without one, the class that is most surely present.
    """
    if 'class_attention' in sample:
        attention = sample.class_attention
        index = classes[0] if classes else int(attention.presence.argmax())
        seen = attention.upsampled([index])[0].float().cpu().numpy()
        caption = f'attention: {names[index]}, yellow: {full_light(seen, image.shape[:2])}'
        return {caption: attention_overlay(image, seen)}
    if not record:
        return {}
    layer = next(iter(record.values()))
    seen = layer.received().map.float().mean(1)[0].cpu().numpy()
    height, width = sample.get('img_shape', image.shape)[:2]
    given = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # as the model was given it
    drawn = attention_overlay(given, seen, extent=layer.key_extent)
    caption = f'attention of {layer.name}, yellow: {full_light(seen, given.shape[:2], layer.key_extent)}'
    return {caption: cv2.resize(drawn, image.shape[1::-1], interpolation=cv2.INTER_AREA)}


def to_array(values: Any) -> np.ndarray:
    """A tensor, or boxes that hold one, as an array."""
    values = getattr(values, 'tensor', values)
    return values.detach().cpu().numpy() if torch.is_tensor(values) else np.asarray(values)
