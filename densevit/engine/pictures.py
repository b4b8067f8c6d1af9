"""Drawing what a model predicts beside what is true, image by image, while it is tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.hooks import Hook

from ..analysis.pictures import Color, class_colors, draw_instances, draw_labels, sheet
from ..registry import HOOKS

__all__ = ['PictureHook', 'draw_sample']


@HOOKS.register_module()
class PictureHook(Hook):
    """Writes ``<image's name>.png`` for every test image: the image, the truth, where it is known, the prediction.

    mmsegmentation's and mmdetection's own hooks differ in what they draw, where they write and how they name it.

    Args:
        folder: where to; it is made.
        score: detections below it are not drawn.
    """

    def __init__(self, folder: str, score: float = 0.5) -> None:
        self.folder = Path(folder)
        self.score = score

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw a batch."""
        meta = runner.test_loop.dataloader.dataset.metainfo
        names = [str(name) for name in meta.get('classes') or ()]
        palette = class_colors(meta.get('palette'), len(names))
        for sample in outputs or ():
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            pictures = {'image': image, **draw_sample(sample, image, palette, names, self.score)}
            sheet(self.folder / f'{Path(sample.img_path).stem}.png', list(pictures), [list(pictures.values())])


def draw_sample(
    sample: Any, image: np.ndarray, palette: list[Color], names: list[str], score: float
) -> dict[str, np.ndarray]:
    """``'truth'``, where it is known, and ``'prediction'`` of a data sample, drawn on its image (H, W, 3)."""
    if 'pred_sem_seg' in sample:
        return _draw_labels(sample, image, palette)
    return _draw_instances(sample, image, palette, names, score)


def _draw_labels(sample: Any, image: np.ndarray, palette: list[Color]) -> dict[str, np.ndarray]:
    pictures = {}
    for title, key in (('truth', 'gt_sem_seg'), ('prediction', 'pred_sem_seg')):
        if 'data' in sample.get(key, ()):
            labels = _resized(sample.get(key).data.squeeze(0).cpu().numpy(), image.shape)
            # with nothing but void there is nothing to tint
            pictures[title] = draw_labels(image, labels, palette) if (labels < len(palette)).any() else image
    return pictures


def _draw_instances(
    sample: Any, image: np.ndarray, palette: list[Color], names: list[str], score: float
) -> dict[str, np.ndarray]:
    pictures = {}
    for title, key in (('truth', 'gt_instances'), ('prediction', 'pred_instances')):
        instances = sample.get(key, ())
        if 'labels' not in instances:
            continue
        if 'scores' in instances:
            instances = instances[instances.scores >= score]
        outlines: dict[str, Any] = {}
        if 'masks' in instances:
            masks = instances.masks
            masks = masks.cpu().numpy() if torch.is_tensor(masks) else masks.to_ndarray()
            outlines['masks'] = [_resized(mask, image.shape).astype(bool) for mask in masks]
        else:
            outlines['boxes'] = getattr(instances.bboxes, 'tensor', instances.bboxes).cpu().numpy()
        pictures[title] = draw_instances(image, instances.labels.tolist(), palette, names, **outlines)
    return pictures


def _resized(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return cv2.resize(labels.astype(np.uint8), shape[1::-1], interpolation=cv2.INTER_NEAREST)
