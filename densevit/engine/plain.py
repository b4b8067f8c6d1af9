"""Batches as plain containers of tensors and values, which a file can hold that no code has to run for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from ..errors import UserError

__all__ = ['from_plain', 'to_plain']

# Under this key a dict has the name of what it stands for.
_KIND = '<kind>'
_ELEMENTS = {
    'BaseDataElement': 'mmengine.structures',
    'InstanceData': 'mmengine.structures',
    'PixelData': 'mmengine.structures',
    'LabelData': 'mmengine.structures',
    'SegDataSample': 'mmseg.structures',
    'DetDataSample': 'mmdet.structures',
    'HorizontalBoxes': 'mmdet.structures.bbox',
    'BitmapMasks': 'mmdet.structures.mask',
    'PolygonMasks': 'mmdet.structures.mask',
}


def to_plain(value: Any) -> Any:
    """Tensors, numbers, texts, lists, tuples and dicts instead of data samples, boxes and masks.

    What it does not know becomes a text, and :func:`from_plain` refuses it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        # torch's reader refuses an array without elements
        return {_KIND: 'array', 'values': torch.from_numpy(value.copy())}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, int) else str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, list | np.ndarray | set):
        return [to_plain(each) for each in value]
    if isinstance(value, tuple):
        return tuple(to_plain(each) for each in value)
    name = type(value).__name__
    if name in _ELEMENTS and type(value).__module__.startswith(_ELEMENTS[name]):
        return {_KIND: name, **_parts(value, name)}
    return {_KIND: 'unknown', 'text': repr(value)[:500]}


def _parts(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, BaseDataElement):
        return {'metainfo': to_plain(value.metainfo), 'data': {key: to_plain(each) for key, each in value.items()}}
    if name == 'HorizontalBoxes':
        return {'tensor': value.tensor.detach()}
    return {'masks': to_plain(value.masks), 'height': int(value.height), 'width': int(value.width)}


def from_plain(value: Any) -> Any:
    """The batch that :func:`to_plain` was given.

    Raises:
        UserError: it had a part that cannot be rebuilt.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(from_plain, value))
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: from_plain(each) for key, each in value.items()}
    name = value[_KIND]
    if name == 'array':
        return value['values'].numpy()
    if name not in _ELEMENTS:
        raise UserError(f'the batch holds {value.get("text", name)!r}, which cannot be rebuilt from a file.')
    made = getattr(import_module(_ELEMENTS[name]), name)
    if 'tensor' in value:
        return made(value['tensor'])
    if 'masks' in value:
        return made(from_plain(value['masks']), value['height'], value['width'])
    element = made(metainfo=from_plain(value['metainfo']))
    for key, each in value['data'].items():
        element.set_field(from_plain(each), key)
    return element
