"""What of a data set is there, whether it is right, and moving it into place."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UserError
from .datasets import DataSet, Part

__all__ = ['PartState', 'check_content', 'install', 'look', 'refuse_links']

_LABELS = 32  # label maps of a part whose values are read
_MOST_JSON = 2**31  # bytes, in memory; instances_train2017.json has 0.45 GB


@dataclass(frozen=True)
class PartState:
    """How much of a part is there.

    Attributes:
        part: of the data set.
        found: number of files, or 1 for an annotation file that is there.
    """

    part: Part
    found: int

    @property
    def complete(self) -> bool:
        """Whether all of it is there; what a user has added does not matter."""
        return self.found >= (self.part.count if self.part.suffix else 1)

    def __str__(self) -> str:
        if not self.part.suffix:
            return 'there' if self.found else 'missing'
        more = ', more than the original has' if self.found > self.part.count else ''
        return f'{self.found} of {self.part.count} files{more}'


def look(dataset: DataSet, root: Path) -> list[PartState]:
    """Count what is there; it takes a fraction of a second."""
    return [PartState(part, _count(root / part.path, part)) for part in dataset.parts]


def _count(path: Path, part: Part) -> int:
    if not part.suffix:
        return int(path.is_file())
    return len(_names(path, part.suffix)) if path.is_dir() else 0


def _names(folder: Path, suffix: str) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix)}


def check_content(dataset: DataSet, part: Part, folder: Path) -> None:
    """Look into a complete part: into some of its label maps, or all of its annotation file.

    Raises:
        UserError: it is not what the configs need.
    """
    path = folder / part.path
    if not part.suffix:
        _check_annotations(dataset, part, path)
    elif part.labels is not None:
        files = sorted(path.glob(f'*{part.suffix}'))
        for file in files[:: -(-len(files) // _LABELS)]:
            _check_labels(part, file)


def _check_labels(part: Part, file: Path) -> None:
    try:
        with Image.open(file) as image:
            mode, labels = image.mode, np.asarray(image)
    except Exception as error:  # pillow raises many kinds
        raise UserError(f'the label map {str(file)!r} cannot be read ({error}); get the archive again.') from error
    if labels.ndim != 2:
        raise UserError(f'the label map {str(file)!r} is a {mode} picture, not one with a class number per pixel.')
    largest = int(labels[labels != 255].max(initial=0))
    if largest > part.labels:
        raise UserError(f'the label map {str(file)!r} has the value {largest}, but at most {part.labels} is right.')


def _check_annotations(dataset: DataSet, part: Part, file: Path) -> None:
    if file.stat().st_size > _MOST_JSON:
        raise UserError(f'{str(file)!r} has {file.stat().st_size / 1e9:.1f} GB; it is no annotation file of COCO.')
    try:
        content = json.loads(file.read_bytes())
        found = {key: len(content.get(key, ())) for key in ('images', 'annotations', 'categories')}
        first = content['annotations'][0] if found['annotations'] else {}
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f'{str(file)!r} is no annotation file in the format of COCO: {error}.') from error
    if 'segments_info' in first:
        raise UserError(f'{str(file)!r} has panoptic segments, not instances, whatever its name says.')
    if 'segmentation' not in first or 'bbox' not in first:
        raise UserError(f'{str(file)!r} has no instances with masks and boxes; its annotations have {sorted(first)}.')
    if (found['images'], found['categories']) != (part.count, part.categories):
        raise UserError(
            f'{str(file)!r} lists {found["images"]} images and {found["categories"]} categories, but {dataset.title} '
            f'has {part.count} and {part.categories}.'
        )


def refuse_links(part: Part, root: Path) -> None:
    """Keep from writing into what a user has linked here.

    Raises:
        UserError: an incomplete part is a link, or lies below one.
    """
    path = root
    for step in part.path.split('/'):
        path = path / step
        if path.is_symlink():
            raise UserError(
                f'{str(path)!r} is a link to {os.readlink(path)!r}, where {part.path} is not complete: it was not '
                'touched; complete the data there, or remove the link, and run the same command again.'
            )


def install(dataset: DataSet, staging: Path, root: Path) -> list[Part]:
    """Check what is whole in the staging folder, together with what is there, and move it into place.

    Returns:
        the parts that are complete by this.

    Raises:
        UserError: a part is not what the configs need, or images and label maps do not belong together.
    """
    done = []
    for state in look(dataset, root):
        part, fresh = state.part, staging / state.part.path
        if state.complete or not fresh.exists():
            continue
        if part.suffix:
            names = _names(fresh, part.suffix)
            if (root / part.path).is_dir():
                names |= _names(root / part.path, part.suffix)
            if len(names) < part.count:
                continue
        check_content(dataset, part, staging)
        _check_pairs(dataset, part, staging, root)
        done.append(part)
    for part in done:
        _move(staging / part.path, root / part.path)
    return done


def _check_pairs(dataset: DataSet, part: Part, staging: Path, root: Path) -> None:
    for images, labels in dataset.pairs:
        if part.path != labels:
            continue
        sets = []
        for each in (images, labels):
            suffix = next(other.suffix for other in dataset.parts if other.path == each)
            folders = [folder / each for folder in (staging, root) if (folder / each).is_dir()]
            sets.append(set().union(*(_names(folder, suffix) for folder in folders)))
        # images may come in a later archive
        if len(sets[0]) >= part.count and (alone := sorted(sets[0] ^ sets[1])):
            raise UserError(
                f'{len(alone)} files of {images} and {labels} have no partner in the other, the first is {alone[0]!r}; '
                'they are not from the same data set.'
            )


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and target.is_dir():
        for path in source.iterdir():
            if not os.path.lexists(target / path.name):
                os.replace(path, target / path.name)
    else:
        os.replace(source, target)
