"""Naming the file that a data pipeline could not read."""

from __future__ import annotations

import os
from typing import Any

from mmengine.dataset import Compose
from PIL import Image

from ..errors import UserError

__all__ = ['NamingPipeline', 'name_unreadable_files']


class NamingPipeline(Compose):
    """A dataset's pipeline whose error for a file that cannot be read has the file's path.

    mmcv decodes bytes that it has read before, so its errors know none, and in a data worker nobody else does.

    Raises:
        UserError: on a file that is missing, cut short or no image.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        paths = [data[key] for key in ('img_path', 'seg_map_path') if isinstance(data.get(key), str)]
        try:
            return super().__call__(data)
        except (OSError, AssertionError) as error:  # mmcv asserts that cv2 has returned an image
            for path in paths:
                if reason := _why_unreadable(path):
                    raise UserError(
                        f'cannot read {path!r} ({reason}); copy it again or take it out of the dataset.'
                    ) from error
            raise


def name_unreadable_files(dataset: Any) -> None:
    """Let a dataset, and those that it wraps, name the files that they cannot read."""
    for inner in (getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())):
        if inner is not None:
            name_unreadable_files(inner)
    pipeline = getattr(dataset, 'pipeline', None)
    if type(pipeline) is Compose:
        dataset.pipeline = NamingPipeline(pipeline)


def _why_unreadable(path: str) -> str:
    if not os.path.isfile(path):
        return 'there is no such file'
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # pillow raises many kinds
        return str(error)
    return ''
