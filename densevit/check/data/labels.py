"""Whether images and label maps belong together, and hold the classes that the config says."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.config import Config

from .heads import VOID, heads_of, num_classes_of, void_labels
from .images import report_unreadable
from .parallel import Crew
from .probe import MOST_PIXELS, ImageFacts, LabelFacts, look_at_header, look_at_label
from .report import DatasetReport
from .steps import kind_of, steps
from .text import counted, first, spread
from .values import Reading, advice, suspicions

__all__ = ['check_labels']

_SAMPLE = 64  # label maps that a quick check reads
_NAMED = ('mask-binary-255', 'one-class', 'reduce-zero-label')  # which say more of a class that never occurs
_ENOUGH = 10  # images per class of which one may expect that every class occurs


def check_labels(
    report: DatasetReport,
    pairs: Sequence[tuple[str, str]],
    images: dict[str, ImageFacts],
    dataset: Any,
    leaf: dict,
    cfg: Config,
    crew: Crew,
    thorough: bool,
) -> None:
    """Look at the label maps of a dataset, note what is wrong with them, and count classes.

    Args:
        pairs: paths of images and of their label maps, which exist.
        images: what is known of the images.
    """
    labels = list(dict.fromkeys(label for _, label in pairs))
    empty = [name for name in labels if not os.path.getsize(name)]
    looked = labels if thorough else spread(labels, _SAMPLE) + empty
    facts = dict(zip(looked, crew.run(look_at_label, looked, f'labels of {report.path}'), strict=True))
    report_unreadable(report, 'label', {name: each.error for name, each in facts.items() if each.error}, len(labels))
    facts = {name: each for name, each in facts.items() if not each.error}
    _check_sizes(report, [pair for pair in pairs if pair[1] in facts], facts, images)
    facts = _check_formats(report, facts, dataset, leaf)
    reading = _reading(cfg, dataset)
    if not reading.classes:
        report.add(
            'note',
            'classes-unknown',
            'neither dataset nor model says how many classes there are: labels not checked; set metainfo=dict('
            'classes=...) of the dataset.',
        )
    elif facts:
        _check_values(report, facts, reading, thorough)


def _reading(cfg: Config, dataset: Any) -> Reading:
    counts = [count for head in heads_of(cfg).values() if (count := num_classes_of(cfg, head))]
    classes = dataset.metainfo.get('classes') or map(str, range(max(counts, default=0)))
    return Reading(tuple(classes), dataset.reduce_zero_label, frozenset(void_labels(cfg)), dataset.label_map or {})


def _check_sizes(
    report: DatasetReport,
    pairs: Sequence[tuple[str, str]],
    labels: dict[str, LabelFacts],
    images: dict[str, ImageFacts],
) -> None:
    huge = [name for name, each in labels.items() if each.size[0] * each.size[1] > MOST_PIXELS]
    if huge:
        report.add(
            'error',
            'label-too-large',
            f'{counted(huge, "label")} more than {MOST_PIXELS // 10**6} million pixels, which Pillow refuses to '
            'decode: cut image and label into tiles.',
            huge,
        )
    differ, unturned, turned = [], [], []
    for image, label in pairs:
        shape = images.get(image) or look_at_header(image)
        if shape.error or not shape.size[0] or label in huge:
            continue
        if labels[label].size == shape.size:
            if shape.turned != 1:
                turned.append(image)
        elif shape.turned >= 5 and labels[label].size == shape.size[::-1]:
            unturned.append(image)
        else:
            differ.append((image, label, shape))
    if differ:
        _, label, shape = differ[0]
        more = f' (and {len(differ) - 1} more)' if len(differ) > 1 else ''
        size = labels[label].size
        report.add(
            'error',
            'size-differs',
            f'the label {os.path.abspath(label)!r}{more} is {size[0]}x{size[1]} pixels but its image is '
            f'{shape.size[0]}x{shape.size[1]}; '
            + ('turn one of them.' if size == shape.size[::-1] else 'are they of the same image, was one resized?'),
            [name for image, label, _ in differ for name in (image, label)],
        )
    if unturned:
        report.add(
            'error',
            'exif-rotated',
            f'{counted(unturned, "image")} an EXIF orientation, by which it is turned when it is loaded, but its label '
            'is not turned: turn the label, or write the image upright without EXIF.',
            unturned,
        )
    if turned:
        report.add(
            'warning',
            'exif-rotated',
            f'{counted(turned, "image")} an EXIF orientation, by which it is turned when it is loaded; the label has '
            'the same size, so look whether it was drawn on the turned image (tools/browse.py), or write the image '
            'upright without EXIF.',
            turned,
        )


def _check_formats(
    report: DatasetReport, facts: dict[str, LabelFacts], dataset: Any, leaf: dict
) -> dict[str, LabelFacts]:
    """Note label files that are no plain maps of class numbers; return those whose values can be judged."""
    loader = next((step for _, step in steps(leaf, '') if kind_of(step) == 'LoadAnnotations'), {})
    colour = [name for name, each in facts.items() if each.channels > 1]
    if colour:
        _report_colours(report, colour, facts[colour[0]], dataset)
    sound = {name: each for name, each in facts.items() if each.channels == 1 and each.values}
    palette = [name for name, each in sound.items() if each.mode == 'P']
    if palette and loader.get('imdecode_backend', 'pillow') != 'pillow':
        report.add(
            'error',
            'mask-palette',
            f'{counted(palette, "label")} a palette, of which imdecode_backend={loader["imdecode_backend"]!r} loads '
            "the colours instead of the class numbers: leave imdecode_backend of LoadAnnotations out ('pillow').",
            palette,
        )
    tables: dict[int, set[bytes]] = {}
    for name in palette:
        each = sound[name]
        for index, value in enumerate(each.values):
            tables.setdefault(value, set()).add(each.palette[3 * index : 3 * index + 3])
    differ = {value: colours for value, colours in tables.items() if len(colours) > 1}
    if differ:
        value, colours = next(iter(differ.items()))
        report.add(
            'warning',
            'mask-palette',
            f'the palettes of the {len(palette)} label files differ: value {value} is '
            f'{" here and ".join(str(tuple(colour)) for colour in sorted(colours)[:2])} there, as where colours were '
            'quantized file by file; the class numbers are the values, not the colours: write the same for all files.',
            palette,
        )
    _report_depths(report, sound)
    return sound


def _report_colours(report: DatasetReport, names: list[str], facts: LabelFacts, dataset: Any) -> None:
    known = {tuple(colour): name for colour, name in zip(*map(dataset.metainfo.get, ('palette', 'classes')))}
    matched = [known[colour] for colour in facts.colours if colour in known]
    if any(name.endswith('_seg.png') for name in names):
        report.add(
            'error',
            'wrong-archive',
            f'{counted(names, "label")} {facts.channels} channels, as the masks of the full ADE20K download have: the '
            'benchmark is ADEChallengeData2016; "python tools/prepare_data.py ade20k" says where it is.',
            names,
        )
        return
    if facts.grey:
        cure = 'the others say nothing more, so keep the first'
    elif matched:
        cure = (
            f'{len(matched)} of its {len(facts.colours)} colours are in the palette of the dataset '
            f'({first(matched, 3)}): replace each colour by the number of its class, counted from 0'
        )
    else:
        many = len(facts.colours) if len(facts.colours) < 512 else 'over 500'
        cure = f'it has {many} colours, such as {first(facts.colours[:3], 3)}: convert colours to indices'
    report.add(
        'error',
        'mask-rgb',
        f'{counted(names, "label")} {facts.channels} channels; expected one, whose values are the class indices; '
        f'{cure}.',
        names,
    )


def _report_depths(report: DatasetReport, facts: dict[str, LabelFacts]) -> None:
    fraction = [name for name, each in facts.items() if not each.whole]
    if fraction:
        report.add(
            'error',
            'mask-float',
            f'{counted(fraction, "label")} numbers that are not whole, of which the part before the point is taken: '
            'write class numbers as an 8-bit PNG.',
            fraction,
        )
    deep = [name for name, each in facts.items() if each.whole and max(each.values) > VOID and name not in fraction]
    if deep:
        values = sorted({value for name in deep for value in facts[name].values if value > VOID})
        only = set(values) == {65535}
        report.add(
            'note' if only else 'error',
            'mask-16-bit',
            f'{counted(deep, "label")} values above {VOID} ({first(values, 4)}), of which the lowest 8 bits are taken'
            + (
                ': 65535 becomes 255, void.'
                if only
                else f': {values[0]} becomes {values[0] & 255}; write class numbers as an 8-bit PNG, one class per '
                'number (instance or panoptic ids are not classes).'
            ),
            deep,
        )
    lossy = [name for name, each in facts.items() if each.format in ('JPEG', 'WEBP') and name not in deep]
    if lossy:
        report.add(
            'warning',
            'mask-lossy',
            f'{counted(lossy, "label", "is")} a {facts[lossy[0]].format}, whose compression changes class numbers at '
            'edges: write label maps as PNG, from the originals.',
            lossy,
        )


def _check_values(report: DatasetReport, facts: dict[str, LabelFacts], reading: Reading, thorough: bool) -> None:
    pixels: Counter[int] = Counter()
    for each in facts.values():
        for value, count in zip(each.values, each.counts, strict=True):
            pixels[value] += count
    total = sum(pixels.values())
    classes: Counter[int] = Counter()
    for value, count in pixels.items():
        classes[reading.trained(value)] += count
    void = sum(count for value, count in classes.items() if value in reading.void)
    report.histogram = dict(sorted(pixels.items()))
    report.ignored = void / total
    report.shares = {name: classes[index] / total for index, name in enumerate(reading.classes)}
    outside = {value for value in pixels if reading.outside(value)}
    level = 'error' if thorough else 'warning'  # a sample may lack what the others have
    look = f'{len(facts)} label files' if thorough else f'{len(facts)} sampled label files'
    if outside:
        _report_outside(report, facts, pixels, outside, reading)
    elif void == total:
        report.add(
            'error',
            'all-ignored',
            f'every pixel of {look} is ignored: they hold only {sorted(pixels)} '
            f'(reduce_zero_label={reading.reduce}, void {min(reading.void)}); '
            + ('did you mean reduce_zero_label=False?' if reading.reduce else 'write class numbers from 0.'),
            list(facts),
        )
    else:
        for kind, message in suspicions(pixels, reading):
            report.add(level, kind, f'{look}: {message}')
        _report_unseen(report, classes, reading, look, thorough)
    blank = [name for name, each in facts.items() if all(reading.trained(v) in reading.void for v in each.values)]
    if blank and void < total:
        report.add(
            'warning' if len(blank) > len(facts) / 20 else 'note',
            'label-all-ignored',
            f'{counted(blank, "label")} void pixels alone, from which nothing is learnt.',
            blank,
        )


def _report_outside(
    report: DatasetReport, facts: dict[str, LabelFacts], pixels: Counter[int], outside: set[int], reading: Reading
) -> None:
    names = [name for name, each in facts.items() if not outside.isdisjoint(each.values)]
    top = max(outside, key=lambda value: (value in facts[names[0]].values, value))
    more = f', as have {len(names) - 1} more' if len(names) > 1 else ''
    lossy = any(facts[name].format in ('JPEG', 'WEBP') for name in names)
    cure = 'write label maps as PNG, from the originals' if lossy else advice(pixels, reading, names)
    report.add(
        'error',
        'label-out-of-range',
        f'the label {os.path.abspath(names[0])!r} has the value {top}{more}, but there are {len(reading.classes)} '
        f'classes (reduce_zero_label={reading.reduce}, void {min(reading.void)}; values found: '
        f'{_ranges(list(report.histogram))}); {cure}.',
        names,
    )


def _report_unseen(report: DatasetReport, classes: Counter[int], reading: Reading, look: str, thorough: bool) -> None:
    unseen = [index for index in range(len(reading.classes)) if not classes[index]]
    if not thorough or not unseen or any(each.kind in _NAMED for each in report.findings):
        return
    seen = [index for index in range(len(reading.classes)) if classes[index]]
    tail = ''
    if unseen[0] > seen[-1]:
        tail = f'; where they are no classes of this data set, num_classes={len(seen)} is enough'
    elif unseen == [0] and not reading.reduce:
        tail = '; the values begin at 1: where that is the first class, set reduce_zero_label=True'
    names = [reading.classes[index] for index in unseen]
    expected = report.path.startswith('train') and report.images >= _ENOUGH * len(reading.classes)
    report.add(
        'warning' if expected else 'note',
        'class-never-seen',
        f'{look}: {len(names)} of {len(reading.classes)} classes never occur ({first(names, 6)}), so their IoU will be '
        f'0 or nan{tail}.',
    )


def _ranges(values: list[int]) -> str:
    """``'0 to 7, 255'`` for ascending values."""
    if not values:
        return ''
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    runs = [run.tolist() for run in np.split(np.array(values), breaks)]
    return first([str(run[0]) if len(run) == 1 else f'{run[0]} to {run[-1]}' for run in runs], 8)
