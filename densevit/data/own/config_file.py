"""The config of a data set of one's own: a shipped model, with the classes, sizes and schedule that fit the data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mmengine.config import Config

__all__ = ['OwnData', 'config_text']

_ITERATIONS = (1000, 40_000)  # fewest and most of a segmentor's training
_EPOCHS = (12, 200)  # of a detector's
_SPLITS = ('training', 'validation')
_UPDATES = 2000  # that a detector's training should have


@dataclass(frozen=True)
class OwnData:
    """What a config has to know of a data set.

    Args:
        name: what it is called.
        root: its folder.
        classes: their names.
        palette: their colours, RGB.
        images: how many there are for training and for validation.
        sizes: height and width of all images.
        suffix: of the images, where all have one; '': the lists in ``lists/`` have names with suffixes.
        photos: of a detector: the folders of training and validation images.
    """

    name: str
    root: Path
    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    images: tuple[int, int]
    sizes: Sequence[tuple[int, int]]
    suffix: str = ''
    photos: tuple[Path, Path] | None = None


def config_text(data: OwnData, base_file: Path, base: Config) -> str:
    """The text of a config.

    Args:
        data: what was found.
        base_file: a shipped config.
        base: its content.
    """
    parts = _segmentation(data, base) if base.default_scope == 'mmseg' else _detection(data, base)
    train, val = data.images
    return (
        f'"""{base_file.stem.rpartition("_")[0]} for {data.name}: {train} + {val} images, {len(data.classes)} '
        'classes.\n\nWritten by tools/import_data.py from what the data are like; change what you like, the data stay '
        f'as they are.\n"""\n\n_base_ = {str(base_file)!r}\n\n'
        f'data_root = {str(data.root)!r}\n'
        f'metainfo = {_code(dict(classes=tuple(data.classes), palette=[list(each) for each in data.palette]))}\n'
        f'num_classes = {len(data.classes)}\n{parts}'
    )


# ------------------------------------------------------------------------------------------------------ segmentation
def _segmentation(data: OwnData, base: Config) -> str:
    height, width = _typical(data.sizes)
    factor = min(1.0, 512 / min(height, width), 2048 / max(height, width))
    scale = round(width * factor), round(height * factor)
    most = min(base.model.data_preprocessor.size)
    crop = max(64, min(most, min(scale) // 32 * 32))
    batch = max(2, min(base.train_dataloader.batch_size, data.images[0]))
    iterations = _rounded(min(max(100 * data.images[0] // batch, _ITERATIONS[0]), _ITERATIONS[1]))
    test_cfg = "dict(mode='whole')"
    if base.model.test_cfg.get('mode') == 'slide':
        test_cfg = "dict(mode='slide', crop_size=crop_size, stride=(crop_size[0] * 2 // 3, crop_size[1] * 2 // 3))"
    layout = dict(type='BaseSegDataset', img_suffix=data.suffix, seg_map_suffix='.png')
    of_splits = [
        [
            f"data_prefix=dict(img_path='images/{split}', seg_map_path='annotations/{split}')",
            *([] if data.suffix else [f"ann_file='lists/{split}.txt'"]),
        ]
        for split in _SPLITS
    ]
    return f"""
# images are scaled to about this (width, height), then training cuts crops out of them
scale = {scale}
crop_size = ({crop}, {crop})
max_iters = {iterations}
val_interval = max_iters // 10

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),  # after the resize: scored at its own size
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=factor, keep_ratio=True) for factor in (0.75, 1.0, 1.25)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
dataset = {_code(layout)[:-1]}, data_root=data_root, metainfo=metainfo)
{_loaders(batch, of_splits)}

model = {_model(base, {'data_preprocessor': {'size': _Name('crop_size')}, 'test_cfg': _Name(test_cfg)})}
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=max_iters // 10),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=max_iters // 10, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(checkpoint=dict(interval=val_interval))
auto_scale_lr = dict(base_batch_size={batch})
"""


# --------------------------------------------------------------------------------------------------------- detection
def _detection(data: OwnData, base: Config) -> str:
    height, width = _typical(data.sizes)
    factor = min(2.0, 800 / min(height, width), 1333 / max(height, width))
    long, short = round(max(height, width) * factor), round(min(height, width) * factor)
    batch = min(base.train_dataloader.batch_size, data.images[0])
    per_epoch = -(-data.images[0] // batch)
    epochs = min(max(-(-_UPDATES // per_epoch), _EPOCHS[0]), _EPOCHS[1])
    every = max(1, epochs // 10)
    warm = min(500, epochs * per_epoch // 10)
    of_splits = [
        [f"ann_file='annotations/instances_{split}.json'", f'data_prefix=dict(img={str(photos)!r})', more]
        for split, photos, more in (
            ('train', data.photos[0], 'filter_cfg=dict(filter_empty_gt=True)'),
            ('val', data.photos[1], 'test_mode=True'),
        )
    ]
    return f"""
# images are scaled to fit into this (long side, short side)
scale = ({long}, {short})
max_epochs = {epochs}

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomChoiceResize',
        scales=[(int(scale[0] * factor), int(scale[1] * factor)) for factor in (0.6, 0.7, 0.8, 0.9, 1.0)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),  # after the resize: scored at its own size
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='CocoDataset', data_root=data_root, metainfo=metainfo)
{_loaders(batch, of_splits)}
val_evaluator = {_evaluator(base)}
test_evaluator = val_evaluator

model = {_model(base, {})}
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end={max(1, warm)}),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=max_epochs,
        milestones=[max_epochs * 3 // 4, max_epochs * 11 // 12],
        gamma=0.1,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval={every})
default_hooks = dict(checkpoint=dict(interval={every}))
auto_scale_lr = dict(base_batch_size={batch})
"""


def _evaluator(base: Config) -> str:
    """The base's evaluators with the truth of these data; a list of them takes the place of the base's."""
    truth = dict(ann_file=_Name("f'{data_root}/annotations/instances_val.json'"))
    given = base.to_dict()['val_evaluator']
    if isinstance(given, dict):
        return _code(truth)
    return _code([each | truth if 'ann_file' in each else each for each in given])


# ------------------------------------------------------------------------------------------------------------- parts
def _typical(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    heights, widths = zip(*sizes)
    return round(median(heights)), round(median(widths))


def _rounded(number: int) -> int:
    return -(-number // 500) * 500


def _loaders(batch: int, of_splits: Sequence[Sequence[str]]) -> str:
    """The data loaders; of training and of validation the arguments that their data sets do not have in common."""
    loaders = []
    for name, pipeline, size, arguments in zip(('train', 'val'), ('train', 'test'), (batch, 1), of_splits):
        own = '\n'.join(f'        {each},' for each in arguments)
        loaders.append(f"""{name}_dataloader = dict(
    batch_size={size},
    num_workers={_workers()},
    dataset=dict(
        _delete_=True,
        **dataset,
{own}
        pipeline={pipeline}_pipeline,
    ),
)""")
    return '\n'.join([*loaders, 'test_dataloader = val_dataloader'])


def _workers() -> int:
    return max(1, min(4, (os.cpu_count() or 2) // 2))


class _Name(str):
    """Text that stands in the config as it is."""


def _model(base: Config, more: dict[str, Any]) -> str:
    changed = _with_classes(base.model.to_dict())
    for key, value in more.items():
        changed[key] = value
    return _code(changed)


def _with_classes(part: dict[str, Any]) -> dict[str, Any]:
    """What has to change below a part of a model: the number of classes, and weights that some had."""
    changed: dict[str, Any] = {}
    for key, value in part.items():
        if key == 'num_classes':
            changed[key] = _Name('num_classes')
        elif isinstance(value, dict) and value.get('class_weight') is not None:
            rest = {name: item for name, item in value.items() if name != 'class_weight'}
            changed[key] = {'_delete_': True, **rest}
        elif isinstance(value, dict) and (inner := _with_classes(value)):
            changed[key] = inner
        elif isinstance(value, list) and any(isinstance(item, dict) and _with_classes(item) for item in value):
            # a list takes the place of the base's as a whole
            changed[key] = [
                {**item, 'num_classes': _Name('num_classes')} if 'num_classes' in item else item for item in value
            ]
    return changed


def _code(value: Any, indent: int = 0) -> str:
    """A value as Python that people read."""
    inside, outside = ' ' * (indent + 4), ' ' * indent
    if isinstance(value, _Name):
        return str(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key.isidentifier() for key in value):
            items = [f'{key!r}: {_code(item, indent + 4)}' for key, item in value.items()]
            marks = '{}'
        else:
            items = [f'{key}={_code(item, indent + 4)}' for key, item in value.items()]
            marks = ('dict(', ')')
    elif isinstance(value, (list, tuple)):
        items = [_code(item, indent + 4) for item in value]
        marks = '[]' if isinstance(value, list) else '()'
        if isinstance(value, tuple) and len(items) == 1:
            return f'({items[0]},)'
    else:
        return repr(value)
    line = f'{marks[0]}{", ".join(items)}{marks[1]}'
    if '\n' not in line and len(line) + indent < 100:
        return line
    return f'{marks[0]}\n' + ''.join(f'{inside}{item},\n' for item in items) + f'{outside}{marks[1]}'
