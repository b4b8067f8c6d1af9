"""What a config feeds its model, read from the config alone."""

from __future__ import annotations

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmengine.config import Config  # noqa: E402

from densevit.check.inputs import input_findings  # noqa: E402

LOAD, LABELS, PACK = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')


def found(pipeline: list[dict], metric: object = 'bbox') -> dict[str, tuple[str, str]]:
    """Level and place of each kind."""
    preprocessor = dict(type='SegDataPreProcessor', mean=[103.5, 116.3, 123.7], std=[58, 57, 57], size=(16, 16))
    cfg = Config(
        dict(
            model=dict(type='EncoderDecoder', data_preprocessor=preprocessor, decode_head=dict(num_classes=3)),
            train_dataloader=dict(dataset=dict(type='BaseSegDataset', pipeline=pipeline)),
            val_evaluator=dict(type='densevit.CocoMetric', metric=metric),
        )
    )
    return {each.kind: (each.level, each.place) for each in input_findings(cfg)}


def test_a_usual_pipeline_is_sound():
    steps = [dict(type='RandomResize', scale=(9, 9)), dict(type='RandomFlip', prob=0.5), dict(type='RandomCrop')]
    assert found([LOAD, LABELS, *steps, PACK]) == {}


@pytest.mark.parametrize('kind', ['Resize', 'RandomFlip', 'RandomCrop', 'RandomRotate'])
def test_annotations_that_are_loaded_behind_a_step_that_moves_pixels(kind):
    place = 'train_dataloader.dataset.pipeline'
    assert found([LOAD, dict(type=kind), LABELS, PACK]) == {'pipeline-misaligned': ('error', place)}


def test_images_that_would_be_normalized_twice():
    steps = [LOAD, LABELS, dict(type='mmcv.Normalize', mean=[0, 0, 0], std=[1, 1, 1]), PACK]
    assert found(steps) == {'normalized-twice': ('error', 'train_dataloader.dataset.pipeline[2]')}


@pytest.mark.parametrize('metric', ['seg', ['bbox', 'mask']])
def test_a_metric_that_there_is_not(metric):
    assert found([LOAD, LABELS, PACK], metric) == {'unknown-metric': ('error', 'val_evaluator')}
