"""Telling the archives of a data set from those that look like them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import UserError
from .datasets import DATASETS, DataSet, Source

__all__ = ['recognise']

# What it is, patterns that all occur in it, and what to do; the first that fits.
_OTHERS = (
    (
        'the full ADE20K (2021_17_01 or 2016_07_26: thousands of classes, RGB masks)',
        (r'(^|/)(index_ade20k\.(pkl|mat)|images/ADE/|ADE20K_20\d\d|\w+_seg\.png|\w+_parts_1\.png)',),
        'the benchmark is ADEChallengeData2016.zip',
    ),
    ('the test images of the ADE20K challenge, without labels', (r'(^|/)ADE_test_\d{8}\.jpg$',), ''),
    ("ADE20K's instance annotations", (r'(^|/)annotations_instance/',), ''),
    (
        "COCO's panoptic annotations",
        (r'(^|/)panoptic_(train|val)20\d\d',),
        'instances are in annotations_trainval2017.zip',
    ),
    (
        "COCO's stuff annotations",
        (r'(^|/)stuff_(train|val)20\d\d',),
        'instances are in annotations_trainval2017.zip',
    ),
    (
        'COCO 2014',
        (r'(^|/)((train|val|test)2014/|COCO_(train|val|test)2014_|\w+_(train|val|minival|valminusminival)2014\.json)',),
        'the configs train on the 2017 split',
    ),
    (
        "COCO's test or unlabeled images, which have no annotations",
        (r'(^|/)(test20\d\d|unlabeled2017)/\d{12}\.jpg$|(^|/)image_info_(test|unlabeled)',),
        'train2017.zip, val2017.zip and annotations_trainval2017.zip are needed',
    ),
    (
        "COCO's captions or keypoints alone",
        (r'(^|/)(captions|person_keypoints)_(train|val)2017\.json$',),
        'instances are in annotations_trainval2017.zip',
    ),
    (
        'COCO labels in the format of YOLO',
        (r'(^|/)labels/(train|val)2017/\d{12}\.txt$',),
        'instances are in annotations_trainval2017.zip',
    ),
    ('LVIS, whose annotations have 1203 categories', (r'(^|/)lvis_v\d',), ''),
    ('CamVid in a form that is not known here', (r'(^|/)(0001TP|0006R0|0016E5|Seq05VD)_f?\d{5,6}',), ''),
    (
        'images of the 2018 Data Science Bowl without masks (the test set)',
        (r'(^|/)[0-9a-f]{64}/images/[0-9a-f]{64}\.png$',),
        'stage1_train has the masks',
    ),
    ('Pascal VOC', (r'(^|/)VOCdevkit/',), ''),
    ('Cityscapes', (r'(^|/)(leftImg8bit|gtFine)/',), ''),
)  # fmt: skip


def recognise(dataset: DataSet, names: Sequence[str], archive: str) -> Source:
    """The form in which the members of an archive have the data set.

    Raises:
        UserError: it has another, or none; the message says what it is, which is right, and from where.
    """
    for source in dataset.sources:
        if _fits(source.marks, names):
            return source
    right = 'right is ' + ' and '.join(remote.url for remote in dataset.remotes)
    for other in DATASETS.values():
        if other.name != dataset.name and any(_fits(source.marks, names) for source in other.sources):
            raise UserError(
                f'{archive!r} is {other.title}, not {dataset.title}: prepare it with '
                f'"python tools/prepare_data.py {other.name} --archive ..."; for {dataset.name}, {right}.'
            )
    for what, marks, cure in _OTHERS:
        if _fits(marks, names):
            raise UserError(f'{archive!r} is {what}, not {dataset.title}: {cure + "; " if cure else ""}{right}.')
    tops = sorted({'/'.join(name.split('/')[:3]) for name in names})
    inside = ', '.join(tops[:4]) + (f' and {len(tops) - 4} more' if len(tops) > 4 else '')
    raise UserError(
        f'{archive!r} is not {dataset.title}: it holds {inside or "nothing"}, and none of the files that make up '
        f'{", ".join(part.path for part in dataset.parts)}; {right}.'
    )


def _fits(marks: tuple[str, ...], names: Sequence[str]) -> bool:
    patterns = [re.compile(mark) for mark in marks]
    return all(any(pattern.search(name) for name in names) for pattern in patterns)
