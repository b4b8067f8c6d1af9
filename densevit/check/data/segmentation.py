"""A dataset of images and label maps: which files belong together."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .images import check_images
from .labels import check_labels
from .parallel import Crew
from .probe import ImageFacts
from .report import DatasetReport
from .steps import kind_of, label_loaders, steps
from .text import first, spread, suffixes
from .trial import SAMPLES

__all__ = ['check_segmentation']

_PICTURES = ('.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.webp')


def check_segmentation(
    report: DatasetReport, dataset: Any, leaf: dict, cfg: Config, crew: Crew, thorough: bool
) -> dict[str, ImageFacts]:
    """Look at a dataset for semantic segmentation and note what is wrong with it.

    Returns:
        what was read of its images. The data set itself gets a list of a few samples.
    """
    _check_label_loaders(report, leaf, dataset)
    folder = dataset.data_prefix.get('img_path') or dataset.data_root or '.'
    if not (dataset.ann_file and os.path.isfile(dataset.ann_file)) and (loops := list(_loops(folder))):
        report.add(
            'error',
            'folder-in-itself',
            f'the link {loops[0]!r} leads to a folder that it lies in, so every image below it would be read again '
            'and again; remove the link.',
            loops,
        )
        return {}
    try:
        items = dataset.load_data_list()
    except Exception as error:  # a list that is no text, a file in place of a folder
        report.add('error', 'dataset-broken', f'a {type(dataset).__name__} cannot list its images: {error}.')
        return {}
    if not items:
        where = f'{dataset.ann_file!r} lists no image'
        if not (dataset.ann_file and os.path.isfile(dataset.ann_file)):
            where = f'nothing in {os.path.abspath(folder)!r} ends with img_suffix={dataset.img_suffix!r}'
        report.add('error', 'no-image-left', f'no image left: {where}; there is: {suffixes(_files(folder))}.')
        return {}
    images = [item['img_path'] for item in items]
    report.images = len(images)
    _check_listed(report, dataset, images, folder)
    pairs = [(item['img_path'], item['seg_map_path']) for item in items if item.get('seg_map_path')]
    _check_pairs(report, dataset, pairs)
    facts = check_images(report, images, leaf, cfg, crew, thorough)
    pairs = [(image, label) for image, label in pairs if os.path.isfile(label)]
    if pairs:
        check_labels(report, pairs, facts, dataset, leaf, cfg, crew, thorough)
    elif any(kind_of(step) == 'LoadAnnotations' for _, step in steps(leaf, '')) and not report.errors:
        report.add(
            'error',
            'label-missing',
            'the pipeline loads label maps but the dataset has none: set seg_map_path in data_prefix.',
        )
    dataset.data_list = [{**item, 'sample_idx': index} for index, item in enumerate(spread(items, SAMPLES))]
    return facts


def _files(folder: str) -> list[str]:
    """Paths below a folder, relative to it."""
    found = []
    for place, names, _ in _walk(folder):
        inside = os.path.relpath(place, folder)
        found += [name if inside == '.' else os.path.join(inside, name) for name in names]
    return sorted(found)


def _loops(folder: str) -> Iterator[str]:
    """Links below a folder that lead to a folder that they lie in."""
    for _, _, loops in _walk(folder):
        yield from loops


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder below, those that are linked too, with the names of its files and the links that lead back."""
    within = {folder: (os.path.realpath(folder),)}  # a folder and those that it is in
    for place, folders, names in os.walk(folder, followlinks=True):
        above = within.pop(place)
        loops = []
        for name in folders:
            path = os.path.join(place, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(above[-1], name)
            if real in above:
                loops.append(path)
            else:
                within[path] = (*above, real)
        folders[:] = [name for name in folders if os.path.join(place, name) in within]
        yield place, names, loops


def _check_label_loaders(report: DatasetReport, leaf: dict, dataset: Any) -> None:
    for place, step in label_loaders(leaf, report.path):
        if step['reduce_zero_label'] != dataset.reduce_zero_label:
            report.add(
                'error',
                'reduce-zero-label',
                f'{place}.reduce_zero_label={step["reduce_zero_label"]} but {report.path}.reduce_zero_label='
                f'{dataset.reduce_zero_label}; give both the same: True where label 0 is void and 1 the first class, '
                'False where 0 is the first class.',
                place=place,
            )


def _check_listed(report: DatasetReport, dataset: Any, images: list[str], folder: str) -> None:
    """Images that a list names twice, or that lie in the folder and are not read."""
    if dataset.ann_file and os.path.isfile(dataset.ann_file):
        twice = [name for name, count in Counter(images).items() if count > 1]
        if twice:
            report.add(
                'warning',
                'image-listed-twice',
                f'{len(twice)} of {len(set(images))} images are more than once in {dataset.ann_file!r}, the first is '
                f'{twice[0]!r}; remove the repetitions.',
                twice,
            )
        return
    pictures = [name for name in _files(folder) if name.lower().endswith(_PICTURES)]
    other = [name for name in pictures if not name.endswith((dataset.img_suffix, dataset.seg_map_suffix))]
    if other:
        report.add(
            'warning',
            'image-not-read',
            f'{len(other)} of {len(pictures)} pictures in {os.path.abspath(folder)!r} do not end with '
            f'img_suffix={dataset.img_suffix!r} and are not read ({suffixes(other)}), the first is '
            f'{other[0]!r}; rename or '
            'convert them.',
            [os.path.join(folder, name) for name in other],
        )


def _check_pairs(report: DatasetReport, dataset: Any, pairs: list[tuple[str, str]]) -> None:
    if not pairs:
        return
    folder = dataset.data_prefix.get('seg_map_path') or dataset.data_root or '.'
    there = set(_files(folder))
    missing = [label for _, label in pairs if os.path.relpath(label, folder) not in there and not os.path.isfile(label)]
    if missing:
        cure = _listed_with_suffix(dataset, missing[0])
        cure = cure or _other_name(missing, pairs, dataset.seg_map_suffix, folder)
        report.add(
            'error',
            'label-missing',
            f'{len(missing)} of {len(pairs)} images have no label file, expected were '
            f'{first([os.path.abspath(name) for name in missing], 3)} '
            f'(seg_map_suffix={dataset.seg_map_suffix!r}; in the folder there is: {suffixes(there)})'
            f'{cure}.',
            missing,
        )
    if dataset.ann_file and os.path.isfile(dataset.ann_file) or dataset.data_prefix.get('img_path') == folder:
        return  # the others may be of another split
    read = {os.path.relpath(label, folder) for _, label in pairs}
    alone = sorted(name for name in there - read if name.endswith(dataset.seg_map_suffix))
    if alone:
        images = dataset.data_prefix.get('img_path')
        report.add(
            'warning',
            'image-of-label-missing',
            f'{len(alone)} of {len(there)} label files in {os.path.abspath(folder)!r} have no image in '
            f'{os.path.abspath(images)!r}, the first is {alone[0]!r} '
            f'(img_suffix={dataset.img_suffix!r}); were images lost, or renamed?',
            [os.path.join(folder, name) for name in alone],
        )


def _listed_with_suffix(dataset: Any, missing: str) -> str:
    name = os.path.basename(missing).removesuffix(dataset.seg_map_suffix)
    if not (dataset.ann_file and name.endswith((dataset.img_suffix, dataset.seg_map_suffix))):
        return ''
    return f'; the lines of {dataset.ann_file!r} are names without suffix: write {os.path.splitext(name)[0]!r}'


def _other_name(missing: list[str], pairs: list[tuple[str, str]], suffix: str, folder: str) -> str:
    """Which suffix the missing labels have."""
    if any(image.endswith(suffix) for image, label in pairs if label == missing[0]) and len(missing) < len(pairs):
        return '; label maps are read as images too: keep the two in different folders'
    label = missing[0]
    stem = Path(label).name.removesuffix(suffix)
    place = Path(label).parent if Path(label).parent.is_dir() else Path(folder)
    near = [name for name in sorted(os.listdir(place)) if name.startswith(stem) and len(name) > len(stem)]
    if not near:
        return ''
    return f'; there is {near[0]!r}: set seg_map_suffix={near[0].removeprefix(stem)!r} where all are named so'
