"""A few samples go through each pipeline: what fails in the first batch, or in the first validation, is found."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmengine.registry import init_default_scope  # noqa: E402

from densevit.check.data import check_datasets  # noqa: E402
from tests.check.data.planted import Planted, coco, segmentation, values  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

LOAD, LABELS = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
RESIZE, CROP = dict(type='Resize', scale=(28, 20)), dict(type='RandomCrop', crop_size=(16, 24))
PACK = dict(type='PackSegInputs')
OBJECTS = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
PACK_DET = dict(type='PackDetInputs')


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def tried(planted: Planted, split: str, *pipeline: dict, batch_size: int = 2) -> list[str]:
    """Kind, place and message of the errors with this pipeline."""
    init_default_scope(planted.cfg.default_scope)
    planted.check()  # writes the annotation files
    if planted.cfg.default_scope == 'mmseg':
        preprocessor = dict(type='SegDataPreProcessor', mean=[1, 2, 3], std=[1, 1, 1], size=(16, 24))
        planted.cfg.val_evaluator = dict(type='densevit.IoUMetric')
    else:
        preprocessor = dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[1, 1, 1], pad_size_divisor=8)
    planted.cfg.model.data_preprocessor = preprocessor
    planted.split(split).pipeline = list(pipeline)
    planted.cfg[f'{split}_dataloader'].batch_size = batch_size
    reports = check_datasets(planted.cfg, (split,), pipelines=True)
    return [f'{found.kind} {found.place}: {found.message}' for report in reports for found in report.errors]


@pytest.mark.parametrize(
    ('split', 'pipeline'),
    [
        ('train', [LOAD, LABELS, RESIZE, CROP, PACK]),
        ('val', [LOAD, RESIZE, LABELS, PACK]),
    ],
)
def test_sound_pipelines_for_segmentation(tmp_path, split, pipeline):
    assert tried(segmentation(tmp_path), split, *pipeline) == []


@pytest.mark.parametrize('split', ['train', 'val'])
def test_sound_pipelines_for_detection(tmp_path, split):
    assert tried(coco(tmp_path), split, LOAD, OBJECTS, dict(type='Resize', scale_factor=1.0), PACK_DET) == []


@pytest.mark.parametrize(
    ('split', 'pipeline', 'words'),
    [
        ('train', [LOAD, LABELS, CROP], ('pipeline-not-packed', 'ends with RandomCrop', "dict(type='PackSegInputs')")),
        ('train', [LOAD, LABELS, dict(type='mmdet.PackDetInputs')], ('pipeline-not-packed', 'takes a SegDataSample')),
        ('train', [LOAD, CROP, LABELS, PACK], ('pipeline-misaligned', '24x16', '56x40', 'put LoadAnnotations before')),
        ('val', [LOAD, LABELS, RESIZE, PACK], ('pipeline-misaligned', '28x20', '56x40', 'behind the resize')),
        ('val', [LOAD, RESIZE, PACK], ('annotations-not-loaded', 'val_evaluator')),
        ('train', [LOAD, LABELS, dict(type='RandomCrop', crop_size=(0, 8))], ('pipeline-fails', '[2]', 'crop_size[0]')),
        ('train', [LABELS, PACK], ('pipeline-not-packed', "dict(type='LoadImageFromFile')")),
    ],
)
def test_faulty_pipelines_for_segmentation(tmp_path, split, pipeline, words):
    (found,) = tried(segmentation(tmp_path), split, *pipeline)
    assert all(word in found for word in words), found


@pytest.mark.parametrize(
    ('split', 'cure'), [('train', "dict(type='RandomCrop', crop_size=...)"), ('val', 'val_dataloader.batch_size=1')]
)
def test_images_of_several_sizes_in_a_batch(tmp_path, split, cure):
    planted = segmentation(tmp_path)
    first = 'a' if split == 'train' else 'd'
    planted.save(f'images/{split}/{first}.jpg', np.zeros((60, 80, 3), np.uint8))
    planted.save(f'labels/{split}/{first}.png', values(0, 1, 2, size=(60, 80)))
    (found,) = tried(planted, split, LOAD, LABELS, PACK)
    assert all(word in found for word in ('batch-fails', '80x60, 56x40', cure)), found
    assert tried(planted, split, LOAD, LABELS, PACK, batch_size=1) == []


def test_what_a_detector_asks_of_a_sample_that_it_predicts(tmp_path):
    packer = dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape'))
    (found,) = tried(coco(tmp_path), 'val', LOAD, OBJECTS, packer)
    assert 'meta-missing' in found and 'lack img_id, scale_factor' in found


def test_a_wrapper_with_steps_of_its_own_packs_itself(tmp_path):
    planted = coco(tmp_path)
    inner = planted.split()
    inner.pipeline = [LOAD, OBJECTS]
    planted.check()
    wrapper = dict(type='MultiImageMixDataset', dataset=inner, pipeline=[PACK_DET])
    planted.cfg.train_dataloader = dict(dataset=wrapper)
    assert [each for report in check_datasets(planted.cfg, ('train',), pipelines=True) for each in report.errors] == []


def test_random_numbers_go_on_as_if_nothing_had_been_tried(tmp_path):
    planted, drawn = segmentation(tmp_path), []
    for pipeline in ([], [LOAD, LABELS, dict(type='RandomFlip', prob=0.5), CROP, PACK]):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        assert tried(planted, 'train', *(pipeline or [LOAD])) == [] or not pipeline
        drawn.append((random.random(), np.random.random(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
