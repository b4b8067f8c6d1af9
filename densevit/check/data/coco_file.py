"""Reading a COCO file, and telling it from what looks like one."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Sequence
from typing import Any

from ...data.coco_values import is_number
from .report import DatasetReport
from .text import first, short

__all__ = ['read_coco']

# keys of other formats, and what those are
_FOREIGN = {
    'shapes': "LabelMe's format, one file per image",
    '_via_img_metadata': "the project of VGG's annotator",
    'version': 'a file of a labelling tool',
}


def read_coco(report: DatasetReport, file: str, test_mode: bool) -> dict | None:
    """The content of a COCO file with lists of sound items; None where it is something else, which is noted.

    Args:
        test_mode: whether there may be no annotations.
    """
    collecting = gc.isenabled()
    gc.disable()  # COCO's millions of objects have no cycles: looking for some costs more than reading
    try:
        if not os.path.isfile(file):  # a named pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, 'there is no such file')
        with open(file, encoding='utf-8') as opened:
            content = json.load(opened)
    except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
        report.add('error', 'json-broken', f'{file!r} is not JSON ({_why(file, error)}', [file])
        return None
    except OSError as error:
        report.add('error', 'json-broken', f'{file!r} cannot be read ({error.strerror}).', [file])
        return None
    finally:
        if collecting:
            gc.enable()
    kind, why = _foreign(content)
    if kind:
        report.add('error', kind, f'{file!r} {why}', [file])
        return None
    needed = {'images': ('id', 'file_name', 'height', 'width'), 'categories': ('id', 'name'), 'annotations': ()}
    if test_mode:
        content.setdefault('annotations', [])
    for key, entries in needed.items():
        if not isinstance(content.get(key), list):
            there = first(list(content), 8) or 'nothing'
            report.add('error', 'json-not-coco', f'{file!r} is not a COCO file: no list {key!r}; there is: {there}.')
            return None
        for item in content[key]:
            if why := _fault(item, entries):
                message = f'an item of {key!r} in {file!r} {why}: {short(item)}; mend the file.'
                report.add('error', 'json-entry', message, [file])
                return None
    return content


def _why(file: str, error: Exception) -> str:
    """The end of the sentence."""
    with open(file, 'rb') as opened:
        head = opened.read(16)
    if not head:
        return 'the file is empty); was the download cut short?'
    if head.startswith(b'version https://'):
        return 'it stands in for a file of Git LFS); get the file itself: git lfs pull.'
    if head.startswith((b'\xef\xbb\xbf', b'\xff\xfe', b'\xfe\xff')):
        return 'it begins with a byte order mark, as Windows writes it); save it as UTF-8 without BOM.'
    if head.lstrip()[:1] == b'<':
        return 'it is a web page or XML); download the file itself, or export it as COCO.'
    return f'{error}); was the download cut short?'


def _foreign(content: Any) -> tuple[str, str]:
    """The kind of the fault and what the file is, where it is of another format; else two empty strings."""
    instances = (
        'instances are needed: annotations/instances_train2017.json in annotations_trainval2017.zip; '
        '"python tools/prepare_data.py coco" can get it.'
    )
    if isinstance(content, list):
        item = content[0] if content and isinstance(content[0], dict) else {}
        what = 'predictions, a list of results' if 'score' in item else 'a list'
        return 'json-not-coco', f"is not a COCO file: it is {what}; needed are 'images', 'annotations', 'categories'."
    if not isinstance(content, dict):
        return 'json-not-coco', f'is not a COCO file: it is a {type(content).__name__}.'
    some = content.get('annotations')
    item = some[0] if isinstance(some, list) and some and isinstance(some[0], dict) else {}
    if 'segments_info' in item:
        return 'panoptic-json', f'is of panoptic segmentation (its annotations have segments_info); {instances}'
    if 'caption' in item and 'bbox' not in item:
        return 'json-not-coco', f'is of captions; {instances}'
    for key, what in _FOREIGN.items():
        if key in content and 'images' not in content:
            there = first(list(content), 8)
            return 'json-not-coco', (
                f"is not a COCO file: no list 'images'; there is: {there}, as in {what}: export it as COCO."
            )
    return '', ''


def _fault(item: Any, entries: Sequence[str]) -> str:
    """What is wrong with an image, a category or an annotation; an empty string for a sound one."""
    if not isinstance(item, dict):
        return 'is no dict'
    for entry in entries:
        value = item.get(entry)
        if entry not in item:
            return f'has no {entry!r}'
        if entry == 'id' and not isinstance(value, int | str):
            return 'has an id that is neither number nor text'
        if entry in ('file_name', 'name') and not (isinstance(value, str) and value):
            return f'has a {entry} that is no text'
        if entry in ('height', 'width') and not (is_number(value) and value > 0):
            return f'has a {entry} that is no number of pixels'
    if not entries and not all(isinstance(item.get(key), int | str | None) for key in ('image_id', 'category_id')):
        return 'has an image_id or category_id that is neither number nor text'
    return ''
