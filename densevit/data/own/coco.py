"""COCO files as they come: what is in them, and one split into two."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from PIL import Image

from ...errors import UserError
from ..coco_values import is_number
from ..image_files import formats
from .classes import Class
from .pairs import images_below

__all__ = ['CocoSet', 'name_of', 'read_coco', 'split_coco']


@dataclass
class CocoSet:
    """A COCO file whose images were found."""

    content: dict[str, Any]
    classes: list[Class]
    counts: Counter[str]  # objects of each class
    sizes: list[tuple[int, int]]  # of the images: height, width
    notes: list[str] = field(default_factory=list)


def read_coco(file: Path, images: Path) -> CocoSet:
    """Read a COCO file, and find its images below a folder.

    Sizes that the file does not have are read from the images, names are made paths below the folder.

    Raises:
        UserError: it is no COCO file with outlines, or images are missing.
    """
    content = _content(file)
    found: dict[str, list[Path]] = {}
    for path in images_below(images):
        found.setdefault(path.name, []).append(path.relative_to(images))
    missing: list[str] = []
    for image in content['images']:
        name = str(image.get('file_name', ''))
        path = _place(images, name, found.get(PurePosixPath(name.replace('\\', '/')).name, []))
        if path is None:
            missing.append(name)
            continue
        image['file_name'] = path.as_posix()
        if not image.get('width') or not image.get('height'):
            try:
                with Image.open(images / path, formats=formats()) as opened:
                    image['width'], image['height'] = opened.size
            except Exception as error:  # pillow raises many kinds
                raise UserError(f'the image {str(images / path)!r} cannot be read: {error}.') from error
    if missing:
        raise UserError(
            f'{len(missing)} of {len(content["images"])} images of {str(file)!r} are not below {str(images)!r}, such '
            f'as {missing[0]!r}; give the folder that they are in.'
        )
    return _checked(file, content)


def _content(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():  # a named pipe would be waited for
            raise FileNotFoundError('there is no such file')
        content = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'--coco {str(file)!r} cannot be read as JSON: {error}.') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'--coco {str(file)!r} has no list {key!r}, as COCO files of instances have.')
        if not content[key]:
            raise UserError(f'--coco {str(file)!r}: the list {key!r} is empty.')
        for each in content[key]:
            if isinstance(each, dict) and key != 'annotations' and 'id' not in each:
                raise UserError(f'--coco {str(file)!r}: an item of {key!r} has no id: {each!r:.200}; export it anew.')
            if not isinstance(each, dict) or any(not _fits(name, value) for name, value in each.items()):
                wrong = each if not isinstance(each, dict) else {
                    name: value for name, value in each.items() if not _fits(name, value)
                }  # fmt: skip
                raise UserError(
                    f'--coco {str(file)!r}: an item of {key!r} is not what COCO files have there: {wrong!r:.200}; '
                    'mend the file, or export it anew.'
                )
    return content


def _fits(name: str, value: Any) -> bool:
    """Whether a value of an item is of the kind that is calculated with below."""
    if name in ('id', 'image_id', 'category_id'):
        return isinstance(value, int | str)
    if name == 'file_name':
        return isinstance(value, str)
    if name in ('width', 'height'):
        return value is None or is_number(value) and 0 <= value < 1e6
    if name == 'bbox':
        return not value or (isinstance(value, list) and len(value) == 4 and all(map(is_number, value)))
    return True


def _place(images: Path, name: str, same: list[Path]) -> PurePath | None:
    """Where an image is, below the folder: by its path, by the path's end, or by a name that is there once."""
    parts = PurePosixPath(name.replace('\\', '/')).parts
    for start in range(len(parts)):
        inside = Path(*parts[start:])
        if '..' not in inside.parts and not inside.is_absolute() and os.path.isfile(images / inside):
            return inside
    return same[0] if len(same) == 1 else None


def _checked(file: Path, content: dict[str, Any]) -> CocoSet:
    names = {each.get('id'): str(each.get('name', '')).strip() for each in content['categories']}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or len(names) < len(content['categories']) or not all(names.values()):
        raise UserError(
            f'--coco {str(file)!r}: two categories have one name or id{f": {twice[0]!r}" if twice else "."}'
        )
    for each in content['categories']:
        each['name'] = names[each['id']]
    ids = {image.get('id') for image in content['images']}
    if len(ids) < len(content['images']):
        raise UserError(f'--coco {str(file)!r}: two images have one id.')
    outlined, notes = [], []
    for each in content['annotations']:
        if each.get('image_id') not in ids or each.get('category_id') not in names:
            raise UserError(
                f'--coco {str(file)!r}: annotation {each.get("id")!r} is of image {each.get("image_id")!r} and '
                f'category {each.get("category_id")!r}, of which one is not in the file.'
            )
        if each.get('segmentation') and each.get('bbox'):
            outlined.append(each)
    if not outlined:
        raise UserError(
            f'--coco {str(file)!r}: no annotation has an outline ("segmentation" and "bbox"), which Mask R-CNN learns.'
        )
    if left := len(content['annotations']) - len(outlined):
        notes.append(f'{left} annotations of {file.name} have no outline and are left out')
    content['annotations'] = outlined
    for number, each in enumerate(outlined, 1):
        each.setdefault('id', number)
        each.setdefault('iscrowd', 0)
        each.setdefault('area', each['bbox'][2] * each['bbox'][3])
    counts = Counter({name: 0 for name in names.values()})
    counts.update(names[each['category_id']] for each in outlined)
    ordered = list(names)
    if ordered != sorted(ordered, key=str):
        notes.append(f'ids of categories: {", ".join(map(str, ordered[:8]))}{", ..." if len(ordered) > 8 else ""}')
    if empty := len(ids - {each['image_id'] for each in outlined}):
        notes.append(f'{empty} images have no object; they are scored, but not trained on')
    sizes = [(int(image['height']), int(image['width'])) for image in content['images']]
    return CocoSet(content, [Class(names[key]) for key in ordered], counts, sizes, notes)


def split_coco(content: dict[str, Any], chosen: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two files' content: of the images that are not chosen by their names without suffix, and of those that are."""
    parts = []
    for wanted in (False, True):
        images = [each for each in content['images'] if (name_of(each) in chosen) is wanted]
        ids = {each['id'] for each in images}
        part = copy.copy(content)
        part |= dict(images=images, annotations=[each for each in content['annotations'] if each['image_id'] in ids])
        parts.append(part)
    return parts[0], parts[1]


def name_of(image: dict[str, Any]) -> str:
    """The path of an entry's image, without suffix."""
    return '__'.join(PurePosixPath(image['file_name']).with_suffix('').parts)
