"""mmsegmentation's and mmdetection's own inference functions, with our configs and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from densevit.config.reading import configs_dir
from tests.scope import scope_restored


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def image(height=64, width=96):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(model, tmp_path, **meta):
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


def test_segmentor(tmp_path):
    apis = pytest.importorskip('mmseg.apis')
    config = str(configs_dir() / 'upernet_patchconvnet-tiny_scenes.py')
    model = apis.init_model(config, None, device='cpu')
    checkpoint = saved(model, tmp_path, dataset_meta=dict(classes=('a', 'b'), palette=[[0, 0, 0], [1, 1, 1]]))
    again = apis.init_model(config, checkpoint, device='cpu')
    assert again.dataset_meta['classes'] == ('a', 'b')
    result, expected = (apis.inference_model(each, image()) for each in (again, model))
    assert result.pred_sem_seg.data.shape == (1, 64, 96)
    assert torch.equal(result.seg_logits.data, expected.seg_logits.data)
    assert type(model.backbone).__module__.startswith('densevit.')


def test_detector(tmp_path):
    apis = pytest.importorskip('mmdet.apis')
    config = str(configs_dir() / 'mask_rcnn_patchconvnet-tiny_scenes.py')
    init_default_scope('mmdet')
    options = dict(model=dict(test_cfg=dict(rcnn=dict(score_thr=0.01))))
    model = apis.init_detector(config, None, device='cpu', cfg_options=options, palette='coco')
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight.normal_(std=0.5)
    checkpoint = saved(model, tmp_path, dataset_meta=dict(classes=('a',), palette=[[0, 0, 0]]))
    again = apis.init_detector(config, checkpoint, device='cpu', cfg_options=options)
    assert again.dataset_meta['classes'] == ('a',)
    result, expected = (apis.inference_detector(each, image()).pred_instances for each in (again, model))
    assert len(result) > 0
    assert result.masks.shape == (len(result), 64, 96)
    assert torch.equal(result.scores, expected.scores) and torch.equal(result.masks, expected.masks)
    assert type(model.backbone).__module__.startswith('densevit.')
