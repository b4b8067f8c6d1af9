"""Naming the file that a data pipeline could not read, or whose labels no class stands for."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from PIL import Image

from ..errors import UserError

__all__ = ['NamingPipeline', 'name_unreadable_files', 'why_unreadable']

_VOID = 255  # what mmseg's loader, crops and pads write, whatever the dataset's ignore_index


class NamingPipeline(Compose):
    """A dataset's pipeline whose error for a file that is of no use has the file's path.

    mmcv decodes bytes that it has read before, so its errors know none, and in a data worker nobody else does. A
    label without a class would end in a device-side assert of the loss.

    Args:
        pipeline: what the dataset had.
        num_classes: of a dataset for semantic segmentation; None: labels are not looked at.
        ignore_index: the dataset's void label, allowed like 255.

    Raises:
        UserError: on a file that is missing, cut short or no image, and on a label outside the classes.
    """

    def __init__(self, pipeline: Compose, num_classes: int | None = None, ignore_index: int = _VOID) -> None:
        self.transforms = pipeline.transforms
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, data: dict) -> dict | None:
        paths = [data[key] for key in ('img_path', 'seg_map_path') if isinstance(data.get(key), str)]
        try:
            result = super().__call__(data)
        except (OSError, AssertionError) as error:  # mmcv asserts that cv2 has returned an image
            for path in paths:
                if reason := why_unreadable(path):
                    raise UserError(
                        f'cannot read {path!r} ({reason}); copy it again or take it out of the dataset.'
                    ) from error
            raise
        labels = _labels(result) if self.num_classes else None
        if labels is not None:
            # 0.4 ms for 512 x 512
            outside = (labels >= self.num_classes) & (labels != _VOID) & (labels != self.ignore_index)
            if outside.any():
                raise UserError(
                    f'the label {data.get("seg_map_path")!r} has class {labels[outside].max()}, counted from 0 '
                    f'(reduce_zero_label={data.get("reduce_zero_label", False)}, ignore_index={self.ignore_index}), '
                    f'but there are {self.num_classes} classes; give dataset and num_classes more, or write {_VOID} '
                    'into such pixels.'
                )
        return result


def _labels(result: Any) -> np.ndarray | None:
    """The label map that a pipeline has made, packed or not; None where it has made none."""
    if not isinstance(result, dict):
        return None
    packed = getattr(result.get('data_samples'), 'gt_sem_seg', None)
    return result.get('gt_seg_map') if packed is None else packed.data.numpy()


def name_unreadable_files(dataset: Any) -> None:
    """Let a dataset, and those that it wraps, name the files that they cannot read or use."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            name_unreadable_files(inner)
    pipeline = getattr(dataset, 'pipeline', None)
    if type(pipeline) is Compose:
        # mmdet's datasets may load maps too, of stuff that is not among their classes
        semantic = hasattr(dataset, 'seg_map_suffix') and hasattr(dataset, 'reduce_zero_label')
        classes = dataset.metainfo.get('classes') if semantic else None
        void = getattr(dataset, 'ignore_index', _VOID)
        dataset.pipeline = NamingPipeline(pipeline, len(classes) if classes else None, void)


def why_unreadable(path: str, decode: bool = True) -> str:
    """An empty string for a readable image; a cut JPEG shows only when its pixels are decoded."""
    if not os.path.isfile(path):
        return 'there is no such file'
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter('ignore')  # huge images, odd EXIF
            if decode:
                image.draft('L', (64, 64))  # JPEG: all the bytes are read but few pixels computed
                image.load()
    except Image.DecompressionBombError:
        return ''
    except Exception as error:  # pillow raises many kinds
        import cv2

        if cv2.imread(path, cv2.IMREAD_UNCHANGED) is None or 'truncated' in str(error):
            return str(error)
    return ''
