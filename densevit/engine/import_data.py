"""From the images and labels that somebody has to a data set and a config; tools/import_data.py calls it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from ..analysis.pictures import class_colors
from ..config.reading import configs_dir, find_config, read_config
from ..data.own.classes import Class, read_classes
from ..data.own.coco import CocoSet, name_of, read_coco, split_coco
from ..data.own.config_file import OwnData, config_text
from ..data.own.labels import Labels, name_labels
from ..data.own.masks import VOID, Seen, label_map, look_at
from ..data.own.pairs import Pair, Pairs, find_pairs, split_names
from ..data.own.target import Target
from ..errors import UserError, did_you_mean

__all__ = ['import_data']

_FOLDERS = {'train': 'training', 'val': 'validation'}


def import_data(args: argparse.Namespace) -> None:
    """Look at the data, bring them into the layout of the configs, write a config, and say how to go on.

    Args:
        args: of tools/import_data.py: ``images``, ``masks``, ``coco``, ``classes``, ``void``, ``val``, ``seed``,
            ``model``, ``out``, ``copy``.

    Raises:
        UserError: the data are not as they must be, or an option does not fit them.
    """
    images = [Path(each).expanduser() for each in args.images]
    out = Path(args.out).expanduser().absolute()
    for folder in (*images, *([Path(args.masks).expanduser()] if args.masks else [])):
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f'--out {str(args.out)!r} lies in {str(folder)!r}, where your own files are; give another.')
    task = 'mmdet' if args.coco else 'mmseg'
    base_file, base = _model(args.model or ('mask_rcnn_swin' if args.coco else 'upernet_swin'), task)
    target = Target(out, args.copy)
    try:
        data = (_import_coco if args.coco else _import_masks)(args, images, target)
        file = _write_config(target, data, base_file, base)
        target.finish()
    except OSError as error:
        raise UserError(
            f'{str(out)!r} cannot be written: {error.strerror or error}; make room, or change --out.'
        ) from error
    _say_next(file, base_file, task)


def _model(name: str, task: str) -> tuple[Path, Config]:
    """The shipped config that ``--model`` means: its whole name, or without the data set."""
    names = sorted(file.stem for file in configs_dir().glob('*.py'))
    fitting = [each for each in names if each.rpartition('_')[0] == name]
    if name not in names and not fitting and not Path(name).expanduser().is_file():
        models = {each.rpartition('_')[0] for each in names}
        raise UserError(
            f'--model {name!r}: there is no such config{did_you_mean(name, models) or f"; see {configs_dir()}."}'
        )
    file = find_config(fitting[0] if fitting and name not in names else name).resolve()
    base = read_config(file)
    if base.default_scope != task:
        what, takes = ('a detector', 'COCO files: --coco') if task == 'mmseg' else ('a segmentor', 'masks: --masks')
        raise UserError(f'--model {name!r} is {what}, which takes {takes}.')
    return file, base


# ------------------------------------------------------------------------------------------------------ segmentation
def _import_masks(args: argparse.Namespace, images: Sequence[Path], target: Target) -> OwnData:
    if len(images) > 1:
        raise UserError('--images: give one folder; training and validation may be folders in it.')
    image_folder, mask_folder = _folders(images[0], args.masks)
    found = find_pairs(image_folder, mask_folder)
    console = Console(stderr=True)
    seen = look_at(
        found.pairs,
        lambda each: track(
            each, 'reading masks', len(found.pairs), console=console, transient=True, disable=not console.is_terminal
        ),
    )
    table = read_classes(args.classes) if args.classes else None
    labels = name_labels(seen, table, args.void)
    split, how = _split(found.pairs, args.val, args.seed)
    colors = class_colors([], len(labels.classes))
    palette = [each.color or color for each, color in zip(labels.classes, colors)]
    if len(set(palette)) < len(palette):  # a palette of one colour is none
        palette = colors
    _describe(found, seen, labels)
    notes = [*labels.notes, *_lonely(found), *_absent(found.pairs, seen, labels, split)]
    print(*(f'note: {note}' for note in notes), sep='\n', end='\n' if notes else '')
    suffixes = {pair.image.suffix for pair in found.pairs}
    suffix = suffixes.pop() if len(suffixes) == 1 else ''
    _place(target, found.pairs, split, seen, labels, suffix)
    counts = Counter(split.values())
    print(f'split: {counts["train"]} images for training, {counts["val"]} for validation ({how})')
    return OwnData(
        _safe_name(target.folder),
        target.folder,
        [each.name for each in labels.classes],
        palette,
        (counts['train'], counts['val']),
        seen.sizes,
        suffix,
    )


def _folders(images: Path, masks: str | None) -> tuple[Path, Path]:
    """Images and masks: as given, or two folders that say what they are, or one folder for both."""
    if masks:
        return images, Path(masks).expanduser()
    for first in ('images', 'image', 'imgs', 'img', 'JPEGImages'):
        for second in ('masks', 'mask', 'labels', 'annotations', 'gt', 'SegmentationClass'):
            if (images / first).is_dir() and (images / second).is_dir():
                return images / first, images / second
    return images, images


def _split(pairs: Sequence[Pair], val: str | None, seed: int) -> tuple[dict[str, str], str]:
    """The split of each pair, by its name, and how it was found."""
    given = {pair.split for pair in pairs}
    if val is None and None not in given and {'train'} < given:
        kept = 'val' if 'val' in given else 'test'
        split = {
            pair.name: 'train' if pair.split == 'train' else 'val' for pair in pairs if pair.split in ('train', kept)
        }
        left = len(pairs) - len(split)
        return split, f'their folders{f"; {left} of test/ are left out" if left else ""}'
    chosen = split_names([pair.name for pair in pairs], val or '0.2', seed)
    how = f'listed in {val}' if val and Path(val).expanduser().is_file() else f'by chance, seed {seed}; see --val'
    return {pair.name: 'val' if pair.name in chosen else 'train' for pair in pairs}, how


def _describe(found: Pairs, seen: Seen, labels: Labels) -> None:
    differ = '' if found.affix == '*' else f', named like their images but {found.affix!r}'
    kinds = ', '.join(f'{count} of mode {mode}' for mode, count in seen.kinds.most_common())
    print(f'{len(found.pairs)} images with masks{differ}; masks: {kinds}; sizes: {_sizes(seen.sizes)}')
    total = sum(seen.counts.values())
    rows = []
    for place, each in [*enumerate(labels.classes), (VOID, Class('(void)'))]:
        keys = [key for key, value in labels.to_class.items() if value == place and key in seen.counts]
        if place == VOID and not keys:
            continue
        share = sum(seen.counts[key] for key in keys) / total
        files = len({file for key in keys for file in seen.files[key]})
        origin = ', '.join(seen.text(key) for key in keys[:3]) + (', ...' if len(keys) > 3 else '')
        rows.append((each.name, origin or 'in no mask', f'{share:.2%}', f'{files} masks'))
    _print_table(rows)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    counts = Counter(sizes)
    (height, width), _ = counts.most_common(1)[0]
    return f'{width} x {height}' + ('' if len(counts) == 1 else f' and {len(counts) - 1} others')


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print('  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _lonely(found: Pairs) -> Iterable[str]:
    if found.lonely_images:
        yield f'{len(found.lonely_images)} images have no mask and are left out: {_such_as(found.lonely_images)}'
    if found.lonely_masks:
        yield f'{len(found.lonely_masks)} masks have no image and are left out: {_such_as(found.lonely_masks)}'


def _such_as(files: Sequence[Path]) -> str:
    return ', '.join(map(repr, map(str, files[:2]))) + (', ...' if len(files) > 2 else '')


def _absent(pairs: Sequence[Pair], seen: Seen, labels: Labels, split: dict[str, str]) -> Iterable[str]:
    """Classes that cannot be learned from these masks."""
    trained = {str(pair.mask) for pair in pairs if split.get(pair.name) == 'train'}
    for place, each in enumerate(labels.classes):
        files = {file for key, value in labels.to_class.items() if value == place for file in seen.files.get(key, ())}
        if not files & trained:
            yield f'class {each.name!r} is in no mask{" for training" if files else ""}'


def _place(
    target: Target, pairs: Sequence[Pair], split: dict[str, str], seen: Seen, labels: Labels, suffix: str
) -> None:
    """Images and label maps below the target's folder."""
    mapping = sorted((key, value) for key, value in labels.to_class.items() if key in seen.counts)
    same = not seen.colored and all(key == value for key, value in mapping)
    state = hashlib.sha256(repr((seen.colored, mapping)).encode()).hexdigest()
    lists: dict[str, list[str]] = {'training': [], 'validation': []}
    for pair in pairs:
        if pair.name not in split:
            continue
        folder = _FOLDERS[split[pair.name]]
        name = pair.name if suffix else f'{pair.name}{pair.image.suffix}'
        lists[folder].append(name)
        target.link(f'images/{folder}/{pair.name}{pair.image.suffix}', pair.image)
        place = f'annotations/{folder}/{name}.png'
        if same and seen.depth[str(pair.mask)]:
            target.link(place, pair.mask)
        else:
            target.make(place, pair.mask, state, lambda pair=pair: label_map(pair.mask, seen, labels.to_class))
    if not suffix:
        for folder, names in lists.items():
            target.text(f'lists/{folder}.txt', ''.join(f'{name}\n' for name in names))


# --------------------------------------------------------------------------------------------------------- detection
def _import_coco(args: argparse.Namespace, images: Sequence[Path], target: Target) -> OwnData:
    if args.masks or args.void or args.classes:
        raise UserError('--coco files have their own classes: leave out --masks, --classes and --void.')
    files = [Path(each).expanduser() for each in args.coco]
    if len(files) > 2 or len(images) > len(files):
        raise UserError('--coco: give one file, or two for training and validation, and as many folders or one.')
    folders = [*images, images[-1]][: len(files)]
    sets = [read_coco(file, folder) for file, folder in zip(files, folders)]
    first = sets[0]
    if len(sets) == 2:
        if args.val:
            raise UserError('--val splits one file; of two the second is for validation.')
        if [each.name for each in sets[1].classes] != [each.name for each in first.classes]:
            raise UserError('--coco: the two files have other categories, or in another order; give both the same.')
        parts, how = [each.content for each in sets], 'the two files'
    else:
        names = [name_of(image) for image in first.content['images']]
        parts = list(split_coco(first.content, split_names(names, args.val or '0.2', args.seed)))
        by_list = args.val and Path(args.val).expanduser().is_file()
        how = f'listed in {args.val}' if by_list else f'by chance, seed {args.seed}; see --val'
    _describe_coco(sets, parts)
    for split, content in zip(('train', 'val'), parts):
        target.text(f'annotations/instances_{split}.json', json.dumps(content) + '\n')
    counts = tuple(len(part['images']) for part in parts)
    print(f'split: {counts[0]} images for training, {counts[1]} for validation ({how})')
    photos = [folder.absolute() for folder in [*folders, folders[-1]][:2]]
    palette = class_colors([], len(first.classes))
    sizes = [size for each in sets for size in each.sizes]
    classes = [each.name for each in first.classes]
    return OwnData(
        _safe_name(target.folder), target.folder, classes, palette, counts, sizes, photos=(photos[0], photos[1])
    )


def _describe_coco(sets: Sequence[CocoSet], parts: Sequence[dict[str, Any]]) -> None:
    counts = sum((each.counts for each in sets), Counter())
    sizes = [size for each in sets for size in each.sizes]
    print(f'{len(sizes)} images, {sum(counts.values())} objects; sizes: {_sizes(sizes)}')
    names = [each.name for each in sets[0].classes]
    _print_table([(name, f'{counts[name]} objects') for name in names])
    notes = [note for each in sets for note in each.notes]
    ids = {each['id']: each['name'] for each in parts[0]['categories']}
    trained = {ids[each['category_id']] for each in parts[0]['annotations']}
    notes += [f'class {name!r} has no object for training' for name in names if name not in trained]
    print(*(f'note: {note}' for note in notes), sep='\n', end='\n' if notes else '')


def _safe_name(folder: Path) -> str:
    return re.sub(r'\W+', '_', folder.name).strip('_') or 'data'


def _write_config(target: Target, data: OwnData, base_file: Path, base: Config) -> Path:
    place = f'{base_file.stem.rpartition("_")[0]}_{data.name}.py'
    path, text = target.folder / place, config_text(data, base_file, base)
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() not in (
        target.earlier.get(place),
        hashlib.sha256(text.encode()).hexdigest(),
    ):
        print(f'note: {str(path)!r} was changed by hand and is left as it is; remove it to get a new one')
        target.written[place] = target.earlier.get(place, '')
        return path
    target.text(place, text)
    return path


def _address(weights: str) -> str:
    """Where the official weights of this name are, as the metafiles of the configs say."""
    for file in sorted(configs_dir().glob('*/metafile.yml')):
        found = re.search(rf'https://\S+/{re.escape(weights)}\b', file.read_text(encoding='utf-8'))
        if found:
            return found[0]
    return weights


def _say_next(file: Path, base_file: Path, task: str) -> None:
    name, metric = file.stem, 'mIoU' if task == 'mmseg' else 'coco_segm_mAP'
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else file
    weights = re.search(r'^Weights: (\S+)', base_file.read_text(encoding='utf-8'), re.MULTILINE)
    start = f' --load-from {_address(weights[1])}' if weights and weights[1].endswith(('.pth', '.pth.tar')) else ''
    print(f'config: {shown}\nnext:\n  python tools/train.py {shown}{start}')
    print(f'  python tools/predict.py {shown} work_dirs/{name}/best_{metric}_*.pth PHOTOS --out pictures')
    if start:
        print(
            '(--load-from: a file or an address, see docs/weights.md; without it training starts from random weights)'
        )
