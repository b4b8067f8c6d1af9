"""Small sound data sets to plant faults in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from densevit.check.data import DatasetReport, check_datasets
from densevit.check.finding import Finding

CLASSES = ('sky', 'tree', 'car')
HEIGHT, WIDTH = 40, 56


def noise(key: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(list(key.encode())).integers(0, 255, shape, dtype=np.uint8)


def values(*which: int, size: tuple[int, int] = (HEIGHT, WIDTH), dtype: Any = np.uint8) -> np.ndarray:
    return np.resize(np.array(which, dtype=dtype), size)


@dataclass
class Planted:
    """A data set on the disk and the config that reads it."""

    root: Path
    cfg: Config = field(default_factory=Config)
    content: dict[str, dict] = field(default_factory=dict)  # of the annotation files

    def save(self, path: str, pixels: np.ndarray, **options: Any) -> Path:
        """Write pixels to a file of the data set."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file, **options)
        return file

    def split(self, name: str = 'train') -> dict:
        """The dataset of a split in the config."""
        return self.cfg[f'{name}_dataloader'].dataset

    def check(self, thorough: bool = True, workers: int = 0) -> list[DatasetReport]:
        for path, content in self.content.items():
            (self.root / path).write_text(json.dumps(content))
        return check_datasets(self.cfg, thorough=thorough, workers=workers)

    def findings(self, level: Sequence[str] = ('error', 'warning', 'note')) -> list[Finding]:
        return [found for report in self.check() for found in report.findings if found.level in level]


def segmentation(root: Path) -> Planted:
    """Three images to train on and two to evaluate on, with label maps of three classes and void."""
    planted = Planted(root)
    for split, names in (('train', 'abc'), ('val', 'de')):
        for name in names:
            planted.save(f'images/{split}/{name}.jpg', noise(name, HEIGHT, WIDTH, 3))
            planted.save(f'labels/{split}/{name}.png', values(0, 1, 1, 2, 255))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]

    def dataset(split: str) -> dict:
        return dict(
            type='BaseSegDataset',
            data_root=str(root),
            metainfo=dict(classes=CLASSES, palette=[[0, 0, 200], [0, 128, 0], [200, 0, 0]]),
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
            pipeline=pipeline,
        )

    planted.cfg = Config(
        dict(
            default_scope='mmseg',
            model=dict(type='EncoderDecoder', decode_head=dict(type='FCNHead', num_classes=3)),
            train_dataloader=dict(dataset=dataset('train')),
            val_dataloader=dict(dataset=dataset('val')),
        )
    )
    return planted


def coco(root: Path) -> Planted:
    """Three images to train on and one to evaluate on, with a cat and a dog in each: a polygon and RLE."""
    planted = Planted(root)
    square = [[10, 10, 30, 10, 30, 25, 10, 25]]
    # 5 columns of 20 from (20, 12)
    runs = dict(size=[HEIGHT, WIDTH], counts=[20 * HEIGHT + 12, *[20] * 9, 31 * HEIGHT + 8])
    for split, names in (('train', 'abc'), ('val', 'd')):
        images, annotations = [], []
        for number, name in enumerate(names, 1):
            planted.save(f'{split}/{name}.jpg', noise(name, HEIGHT, WIDTH, 3))
            images.append(dict(id=number, file_name=f'{name}.jpg', height=HEIGHT, width=WIDTH))
            cat = dict(category_id=3, bbox=[10, 10, 20, 15], area=300, segmentation=square)
            dog = dict(category_id=5, bbox=[20, 12, 5, 20], area=100, segmentation=runs)
            for each in (cat, dog):
                annotations.append(dict(each, id=len(annotations) + 1, image_id=number, iscrowd=0))
        categories = [dict(id=3, name='cat'), dict(id=5, name='dog')]
        content = dict(images=images, annotations=annotations, categories=categories)
        planted.content[f'{split}.json'] = json.loads(json.dumps(content))  # nothing shared

    def dataset(split: str, **options: Any) -> dict:
        return dict(
            type='CocoDataset',
            data_root=str(root),
            ann_file=f'{split}.json',
            metainfo=dict(classes=('cat', 'dog')),
            data_prefix=dict(img=f'{split}/'),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            ],
            **options,
        )

    heads = dict(bbox_head=dict(type='Shared2FCBBoxHead', num_classes=2), mask_head=dict(num_classes=2))
    planted.cfg = Config(
        dict(
            default_scope='mmdet',
            model=dict(type='MaskRCNN', roi_head=heads),
            train_dataloader=dict(dataset=dataset('train', filter_cfg=dict(filter_empty_gt=True, min_size=32))),
            val_dataloader=dict(dataset=dataset('val', test_mode=True)),
        )
    )
    return planted
