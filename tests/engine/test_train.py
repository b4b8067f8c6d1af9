"""A few iterations and a validation on real samples of four data sets, with small models."""

from __future__ import annotations

import argparse
import json
import math

import pytest

from densevit.engine.cli import add_common_options
from densevit.engine.train import options_from, train
from tests.scope import scope_restored

SMALL = [
    'model.backbone.arch.depth=1',
    'default_hooks.logger.interval=1',
    'train_dataloader.batch_size=2',
    'val_dataloader.batch_size=1',
    'val_dataloader.dataset.indices=2',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
]
SEGMENT = [
    *SMALL,
    'model.decode_head.channels=8',
    'train_cfg.max_iters=3',
    'train_cfg.val_interval=3',
]
DETECT = [*SMALL, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.dataset.indices=6']

# The shipped configs of the two small sets; of the two large ones, their data set under a small model.
ADE = """
_base_ = [
    '{configs}/_base_/models/upernet_patchconvnet-tiny.py',
    '{configs}/_base_/datasets/ade20k.py',
    '{configs}/_base_/schedules/adamw_160k.py',
    '{configs}/_base_/runtime/mmseg.py',
]
"""
COCO = """
_base_ = [
    '{configs}/_base_/models/mask_rcnn_patchconvnet-tiny.py',
    '{configs}/_base_/datasets/coco_instance.py',
    '{configs}/_base_/schedules/adamw_3x.py',
    '{configs}/_base_/runtime/mmdet.py',
]
model = dict(roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)))
# as large as a test can afford
short_sides = [(160, 96), (160, 128)]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomChoiceResize', scales=short_sides, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def cases(data):
    ade, coco = data / 'ade20k_samples', data / 'coco_ccby'
    return {
        'camvid': ('upernet_patchconvnet-tiny_camvid', data / 'camvid', SEGMENT),
        'ade20k': (ADE, ade, [*SEGMENT, 'model.decode_head.num_classes=150', 'model.data_preprocessor.size=(512,512)']),
        'nuclei': ('mask_rcnn_patchconvnet-tiny_nuclei', data / 'nuclei', DETECT),
        'coco': (
            COCO,
            coco,
            [
                *DETECT,
                # the folders of this selection are named differently
                'train_dataloader.dataset.ann_file=annotations/instances_train.json',
                'train_dataloader.dataset.data_prefix.img=train/',
                'val_dataloader.dataset.ann_file=annotations/instances_val.json',
                'val_dataloader.dataset.data_prefix.img=val/',
                f'val_evaluator.ann_file={coco}/annotations/instances_val.json',
                'test_dataloader=None',
                'test_evaluator=None',
                'test_cfg=None',
            ],
        ),
    }


NAMES = ['camvid', 'ade20k', 'nuclei', 'coco']


def arguments(config, work_dir, options):
    parser = argparse.ArgumentParser()
    add_common_options(parser)
    parser.set_defaults(resume=False, load_from=None, auto_scale_lr=False)
    return parser.parse_args([str(config), '--work-dir', str(work_dir), '--cfg-options', *options])


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


@pytest.mark.parametrize('name', NAMES)
def test_real_samples(shared_data, tmp_path, name):
    from densevit.config.reading import configs_dir

    every = cases(shared_data)
    assert list(every) == NAMES
    config, root, options = every[name]
    if '\n' in config:
        path = tmp_path / f'{name}.py'
        path.write_text(config.format(configs=configs_dir()))
        config = path
    args = arguments(config, tmp_path / 'run', [f'data_root={root}', *options])
    assert train(args) == (tmp_path / 'run').resolve()

    (file,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 3 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    (validated,) = (line for line in lines if 'val/loss' in line)
    assert math.isfinite(validated['val/loss']) and validated['val/loss'] > 0
    assert ('mIoU' if options[: len(SEGMENT)] == SEGMENT else 'coco/segm_mAP') in validated


def test_options_of_a_tool_that_has_fewer(tmp_path):
    options = options_from(arguments('any', tmp_path, ['a=1']))
    assert options.work_dir == str(tmp_path)
    assert (options.amp, options.accumulate, options.ema) == (False, 1, None)
