"""Which mask belongs to which image, and which of them are for validation."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ...errors import UserError

__all__ = ['IMAGE_SUFFIXES', 'Pair', 'Pairs', 'find_pairs', 'images_below', 'split_names']

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
_MASK_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.gif', '.jpg', '.jpeg')
# What is before or behind an image's name in the name of its mask, where both are in one folder.
_AFFIX = re.compile(
    r'[_.-]?(masks?|labels?|label_?ids|gt|seg(mentation)?|annotations?|ann|lbl|matte|L|P)', re.IGNORECASE
)  # fmt: skip
_SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev'),
    'test': ('test', 'testing'),
}


@dataclass(frozen=True)
class Pair:
    """An image and its mask; ``name`` is unique in the data set and has no suffix."""

    name: str
    image: Path
    mask: Path
    split: str | None = None  # where their folders say it


@dataclass
class Pairs:
    """What was found in two folders."""

    pairs: list[Pair]
    affix: str  # that the masks' names have and the images' have not
    lonely_images: list[Path] = field(default_factory=list)
    lonely_masks: list[Path] = field(default_factory=list)


def images_below(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> list[Path]:
    """All image files below a folder, hidden ones and those of macOS's archives left out, in order.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f'{str(folder)!r} is no folder; give the one that holds the files.')
    found = (path for path in folder.rglob('*') if path.suffix.lower() in suffixes and path.is_file())
    return sorted(
        path
        for path in found
        if not any(part.startswith('.') or part == '__MACOSX' for part in path.relative_to(folder).parts)
    )


def find_pairs(images: Path, masks: Path) -> Pairs:
    """Pair the files below two folders, or below one that holds both, by their names.

    The names may differ by one and the same addition, as ``0001.jpg`` and ``0001_mask.png``.

    Raises:
        UserError: no pair was found, or two images have the same name.
    """
    image_files, mask_files = images_below(images), images_below(masks, _MASK_SUFFIXES)
    if images.resolve() == masks.resolve():
        mask_files = _masks_among(image_files)
        own = set(mask_files)
        image_files = [path for path in image_files if path not in own]
    for what, folder, files in (('image', images, image_files), ('mask', masks, mask_files)):
        if not files:
            raise UserError(f'there is no {what} below {str(folder)!r}; give its folder.')
    by_key = _by_key(images, image_files)
    by_stem: dict[str, list] = {}
    for key in by_key:
        by_stem.setdefault(key[1], []).append(key)
    affix = _common_affix([path.stem for path in image_files], [path.stem for path in mask_files])
    found, lonely_masks = {}, []
    for mask in mask_files:
        stem = _without(mask.stem, affix)
        key = None if stem is None else _key(mask.relative_to(masks).with_name(stem + mask.suffix))
        if key not in by_key and stem is not None:  # folders of another structure
            same = by_stem.get(stem, ())
            key = same[0] if len(same) == 1 else None
        if key in by_key and key not in found:
            found[key] = mask
        else:
            lonely_masks.append(mask)
    if not found:
        raise UserError(
            f'no image has a mask: {len(image_files)} images, such as {image_files[0].name!r}, and {len(mask_files)} '
            f'masks, such as {mask_files[0].name!r}, have no names in common; rename the masks like their images.'
        )
    pairs = [
        Pair(_flat(images, by_key[key]), by_key[key], mask, _split_of(by_key[key].relative_to(images).parts[:-1]))
        for key, mask in sorted(found.items())
    ]
    lonely = [path for key, path in by_key.items() if key not in found]
    return Pairs(pairs, affix, lonely, lonely_masks)


def _key(path: PurePath) -> tuple[tuple[str, ...], str]:
    """Folders and name by which files of two trees are compared: folders that say what is in them do not count."""
    ignored = ('images', 'image', 'img', 'imgs', 'masks', 'mask', 'labels', 'label', 'annotations', 'gt')
    return tuple(part for part in path.parts[:-1] if part.lower() not in ignored), path.stem


def _by_key(folder: Path, files: Iterable[Path]) -> dict[tuple[tuple[str, ...], str], Path]:
    found: dict[tuple[tuple[str, ...], str], Path] = {}
    for path in files:
        key = _key(path.relative_to(folder))
        if key in found:
            raise UserError(
                f'{str(found[key])!r} and {str(path)!r} have the same name, so a mask could be of either; rename one.'
            )
        found[key] = path
    return found


def _flat(folder: Path, path: Path) -> str:
    """A name without folders; those of splits and kinds are not needed in it."""
    parts = [part for part in _key(path.relative_to(folder))[0] if _split_of([part]) is None]
    return '__'.join([*parts, path.stem])


def _masks_among(files: Sequence[Path]) -> list[Path]:
    """Masks that lie beside their images: of the same name but another suffix, or with an addition that says it."""
    stems = Counter((path.parent, path.stem) for path in files)
    masks = []
    for path in files:
        folder = any(_AFFIX.fullmatch(part) for part in path.parent.parts[-1:])
        twin = stems[path.parent, path.stem] > 1 and path.suffix.lower() == '.png'
        longer = any(
            path.stem != stem
            and (
                (path.stem.startswith(stem) and _AFFIX.fullmatch(path.stem[len(stem) :]))
                or (path.stem.endswith(stem) and _AFFIX.fullmatch(path.stem[: -len(stem)].rstrip('_-.')))
            )
            for parent, stem in _shorter(stems, path)
        )
        if folder or twin or longer:
            masks.append(path)
    return masks


def _shorter(stems: Counter, path: Path) -> Iterable[tuple[Path, str]]:
    """The stems in a file's folder that its own begins or ends with."""
    stem = path.stem
    cuts = {stem[:end] for end in range(1, len(stem))} | {stem[start:] for start in range(1, len(stem))}
    return [(path.parent, cut) for cut in cuts if (path.parent, cut) in stems]


def _common_affix(images: Sequence[str], masks: Sequence[str]) -> str:
    """What most masks' names have more than an image's: ``'*_mask'``, ``'gt_*'``, or ``'*'``."""
    known = set(images)
    counts: Counter[str] = Counter()
    for mask in masks[:2000]:
        if mask in known:
            counts['*'] += 1
            continue
        for end in range(len(mask) - 1, 0, -1):
            if mask[:end] in known:
                counts['*' + mask[end:]] += 1
                break
            if mask[-end:] in known:
                counts[mask[:-end] + '*'] += 1
                break
    return counts.most_common(1)[0][0] if counts else '*'


def _without(stem: str, affix: str) -> str | None:
    """The image's name in a mask's."""
    before, _, behind = affix.partition('*')
    if not stem.startswith(before) or not stem.endswith(behind) or len(stem) <= len(before) + len(behind):
        return None
    return stem[len(before) : len(stem) - len(behind)]


# ----------------------------------------------------------------------------------------------------------- splits
def _split_of(folders: Iterable[str]) -> str | None:
    """The split that folders name: ``train/``, ``images/validation/``."""
    for folder in folders:
        for split, names in _SPLITS.items():
            if re.fullmatch(rf'(?:{"|".join(names)})(?:[-_]?\d*)?(?:[-_](?:images|masks|labels))?', folder.lower()):
                return split
    return None


def split_names(names: Sequence[str], val: str, seed: int) -> set[str]:
    """The names that are for validation.

    Args:
        names: of all images, without suffixes.
        val: a fraction such as ``'0.2'``, or a text file with a name per line.
        seed: of the choice by chance; it depends on the names and on nothing else.

    Raises:
        UserError: ``val`` is neither, or leaves training or validation without an image.
    """
    path = Path(os.path.expanduser(val))
    if os.path.isfile(path):
        try:
            lines = path.read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'--val {val!r} cannot be read as text: {error}.') from error
        listed = {PurePath(line.strip()).stem for line in lines if line.strip()}
        chosen = {name for name in names if name in listed or name.rpartition('__')[2] in listed}
        if not chosen:
            raise UserError(f'--val {val!r}: none of its lines is the name of an image, such as {names[0]!r}.')
    else:
        try:
            fraction = float(val)
        except ValueError as error:
            raise UserError(f'--val {val!r} is neither a file nor a fraction such as 0.2.') from error
        if not 0 < fraction < 1:
            raise UserError(f'--val {val}: give a fraction between 0 and 1, such as 0.2.')
        count = min(max(1, round(fraction * len(names))), max(len(names) - 1, 0))
        chosen = set(sorted(names, key=lambda name: hashlib.sha256(f'{seed}:{name}'.encode()).digest())[:count])
    if not 0 < len(chosen) < len(names):
        raise UserError(
            f'of {len(names)} images {len(chosen)} are for validation: training and validation need at least one each.'
        )
    return chosen
