"""What a predictor has found in one image, in that image's own pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import mask as coco_mask

from ..analysis.pictures import Color, draw_instances, draw_labels
from ..detection.rle import encode_crops
from ..errors import UserError

__all__ = ['Detection', 'Prediction', 'Segmentation', 'decode_masks', 'encode_masks']


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Of one image; its kinds are :class:`Segmentation` and :class:`Detection`.

    Attributes:
        image: what was looked at, RGB, (H, W, 3) uint8, upright; all else here is in its pixels.
        path: the file that it was read from, or None.
        classes: names of the classes.
        palette: their colours, RGB.
    """

    image: np.ndarray
    path: str | None
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.image.shape[0], self.image.shape[1]

    def overlay(self) -> np.ndarray:
        """The image with what was found drawn on it, RGB, (H, W, 3) uint8."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Prediction):
    """The class of every pixel.

    Attributes:
        labels: (H, W), uint8, or uint16 of more than 256 classes: indices into ``classes``.
    """

    labels: np.ndarray
    _logits: Any = None  # the data sample's PixelData

    def __repr__(self) -> str:
        present = ', '.join(self.classes[label] for label in np.unique(self.labels))
        return f'Segmentation({self.path!r}, {self.size[0]} x {self.size[1]}: {present})'

    @property
    def probabilities(self) -> np.ndarray:
        """Of each class at each pixel, (C, H, W) float32, computed at every call: 4 C H W bytes.

        The prediction keeps what they come from, the logits as small as the head gives them, on the model's device.

        Raises:
            UserError: the image was predicted in windows, whose logits are not kept.
        """
        if self._logits is None:
            raise UserError(
                'there are no probabilities of an image that was predicted in windows, as the memory for the logits '
                'of a large image is what windows save; leave window out, or predict a part of the image.'
            )
        with torch.no_grad():
            source = getattr(self._logits, 'logit_map', None)
            data = (self._logits.data if source is None else source.whole()[0]).float()
            # a network with one channel has a probability already, that of the second class
            found = torch.cat((1 - data, data)) if len(data) == 1 else data.softmax(dim=0)
        return found.cpu().numpy()

    def overlay(self) -> np.ndarray:
        """The image tinted with the classes' colours, RGB, (H, W, 3) uint8."""
        return draw_labels(self.image, self.labels, self.palette)


@dataclass(frozen=True, eq=False, repr=False)
class Detection(Prediction):
    """N objects, best first.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels, from the upper left corner of the image.
        scores: (N,) float32, 0 to 1.
        labels: (N,) int64, indices into ``classes``.
        rles: COCO's run-length codes of the masks, ``size`` and ``counts``, or None of a detector without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    rles: list[dict[str, Any]] | None = None

    def __repr__(self) -> str:
        found = ', '.join(f'{count} {name}' for name, count in Counter(self.names).most_common())
        return f'Detection({self.path!r}, {self.size[0]} x {self.size[1]}: {found or "nothing"})'

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The objects' classes."""
        return [self.classes[label] for label in self.labels]

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool, decoded at every call; None of a detector without masks."""
        if self.rles is None:
            return None
        masks = np.zeros((len(self), *self.size), bool)
        for mask, decoded in zip(masks, decode_masks(self.rles)):
            mask[:] = decoded
        return masks

    def overlay(self) -> np.ndarray:
        """The image with masks, boxes, class names and scores, RGB, (H, W, 3) uint8."""
        masks = None if self.rles is None else decode_masks(self.rles)
        return draw_instances(
            self.image,
            self.labels.tolist(),
            self.palette,
            self.classes,
            masks=masks,
            boxes=self.boxes,
            scores=self.scores.tolist(),
        )


def decode_masks(rles: Sequence[dict[str, Any]]) -> Iterator[np.ndarray]:
    """Masks (H, W) bool of run-length codes, one after the other."""
    for rle in rles:
        yield coco_mask.decode(rle).astype(bool)


def encode_masks(masks: Any) -> list[dict[str, Any]]:
    """COCO's run-length codes of a detector's masks, (N, H, W): a tensor, which may know a shorter way."""
    if hasattr(masks, 'encode'):
        return masks.encode()
    height, width = masks.shape[1:]
    columns = torch.nn.functional.pad(masks.cpu().bool().transpose(1, 2), (0, 1)).flatten().numpy()
    return encode_crops(columns, [(0, 0, width, height)] * len(masks), (height, width))
