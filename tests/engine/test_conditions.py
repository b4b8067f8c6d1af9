"""What a test's results depend on is told in words, and what is not as usual is marked."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from densevit.config.reading import load_config
from densevit.engine.conditions import conditions_of_test, dataset_name

SEGMENT = 'upernet_patchconvnet-tiny_camvid'


def conditions(cfg, images=101, options=None):
    rows = conditions_of_test(cfg, images, options)
    return {row['name']: row['value'] for row in rows}, [row['name'] for row in rows if row['unusual']]


def test_as_the_config_says():
    told, unusual = conditions(load_config(SEGMENT))
    assert told == {
        'data': 'camvid',
        'images': '101',
        'size': 'Resize(scale=(480, 360), keep_ratio=True)',
        'passes': 'windows of 256 x 256 pixels, every 104 x 112',
        'views': 'one',
        'options': 'none',
    }
    assert unusual == []


def test_averages_a_part_of_the_data_and_options_are_unusual():
    options = {
        'test_dataloader.dataset.indices': 20,
        'model.test_cfg.mode': 'whole',
        'data_root': '/mnt/camvid',
        'test_dataloader.num_workers': 0,
        'train_cfg.max_iters': 4,
    }
    cfg = load_config(SEGMENT, options)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    told, unusual = conditions(cfg, 20, options)
    assert unusual == ['images', 'views', 'options']
    assert told['images'] == '20, a part of the data set'
    assert told['views'] == '6, averaged (test-time augmentation)'
    assert told['passes'] == 'whole images'
    assert told['size'].count('Resize(scale_factor=') == 3
    assert told['options'] == 'test_dataloader.dataset.indices=20 model.test_cfg.mode=whole'


@pytest.mark.parametrize('name, called', [
    ('upernet_patchconvnet_ade20k', 'ADE20K'), ('mask_rcnn_patchconvnet_coco', 'COCO'), (SEGMENT, 'camvid'),
    ('upernet_patchconvnet-tiny_scenes', 'scenes'), ('mask_rcnn_patchconvnet-tiny_scenes', 'scenes'),
])  # fmt: skip
def test_data_are_called_as_people_call_them(name, called):
    assert dataset_name(load_config(name)) == called


def test_data_of_one_s_own():
    def named(**dataset):
        return dataset_name(Config(dict(test_dataloader=dict(dataset=dataset)), cfg_text='x', filename='my_config.py'))

    assert named(type='BaseSegDataset', data_root='/data/streets/') == 'streets'
    assert named(type='mmdet.CocoDataset', data_root='x/boats', metainfo=dict(classes=('boat',))) == 'boats'
    assert named(type='mmdet.CocoDataset', data_root='x/boats') == 'COCO'
    assert named(type='BaseSegDataset') == 'BaseSeg'
