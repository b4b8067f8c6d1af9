"""What a test report collects, without a model."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from densevit.engine import report_hook
from densevit.engine.report_hook import THUMBNAIL, ReportHook

SIZE = (150, 331)


class Dataset(list):
    metainfo = dict(classes=('a', 'b', 'c'), palette=[(255, 0, 0), (0, 255, 0), (0, 0, 255)])


@pytest.fixture
def runner(tmp_path):
    rng = np.random.default_rng(0)
    dataset = Dataset()
    for index in range(3):
        path = tmp_path / f'{index}.png'
        Image.fromarray(rng.integers(0, 200, (*SIZE, 3), dtype=np.uint8)).save(path)
        dataset.append(str(path))
    loader = SimpleNamespace(dataset=dataset, sampler=[0, 1, 2])
    return SimpleNamespace(
        test_loop=SimpleNamespace(dataloader=loader), test_evaluator=SimpleNamespace(metrics=[]), dataset=dataset
    )


def segmented(path, wrong, truth=True):
    from mmseg.structures import SegDataSample

    pred = torch.zeros(1, *SIZE, dtype=torch.int64)
    label = pred.clone()
    label[:, :, :wrong] = 1
    sample = SegDataSample(metainfo=dict(img_path=path), pred_sem_seg=PixelData(data=pred))
    if truth:
        sample.gt_sem_seg = PixelData(data=label)
    return sample


def detected(path, truth=True):
    from mmdet.structures import DetDataSample

    boxes = torch.tensor([[10.0, 20, 60, 70], [100, 30, 180, 90], [5, 5, 30, 30]])
    found = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2, 1]), scores=torch.tensor([0.9, 0.6, 0.1]))
    sample = DetDataSample(metainfo=dict(img_path=path), pred_instances=found)
    if truth:
        sample.gt_instances = InstanceData(bboxes=boxes[:2] + 1, labels=torch.tensor([0, 1]))
    return sample


def watched(runner, samples):
    hook = ReportHook()
    hook.before_test_epoch(runner)
    for index, sample in enumerate(samples):
        hook.before_test_iter(runner, index)
        hook.after_test_iter(runner, index, None, [sample])
    hook.after_test_epoch(runner)
    return hook


def test_segmentation(runner):
    hook = watched(runner, [segmented(path, wrong) for path, wrong in zip(runner.dataset, (0, 331, 33))])
    assert [row.name for row in hook.rows] == ['0.png', '1.png', '2.png']
    assert [row.score for row in hook.rows[:2]] == [100, 0]
    assert hook.errors.counts['confusion'].sum() == 3 * SIZE[0] * SIZE[1]
    assert hook.rows[2].classes == (0, 1)
    assert 'mIoU' in hook.rows[2].text
    for row in hook.rows:
        assert [each.caption for each in row.pictures] == ['truth', 'prediction', 'errors']
        assert {each.width for each in row.pictures} == {THUMBNAIL}
    assert hook.speed.images == 2 and hook.speed.seconds > 0


def test_detection(runner):
    hook = watched(runner, [detected(path) for path in runner.dataset])
    assert hook.rows[0].score == pytest.approx(50)
    assert hook.rows[0].text == 'F1 50.0: 1 of 2 found, 1 false'
    matrix = hook.errors.counts['confusion']
    assert matrix[0, 0] == matrix[1, 2] == 3 and matrix.sum() == 6
    assert [each.caption for each in hook.rows[0].pictures] == ['truth', 'prediction', 'errors']


@pytest.mark.parametrize(
    'make', [lambda path: segmented(path, 5, truth=False), lambda path: detected(path, truth=False)]
)
def test_without_truth(runner, make):
    hook = watched(runner, [make(path) for path in runner.dataset])
    assert all(math.isnan(row.score) for row in hook.rows)
    assert [each.caption for each in hook.rows[0].pictures] == ['prediction']
    assert hook.errors is None or not hook.errors.counts['confusion'].any()


def test_a_second_test_begins_anew(runner):
    hook = watched(runner, [segmented(path, 5) for path in runner.dataset])
    hook.before_test_epoch(runner)
    assert hook.rows == [] and hook.errors is None and hook.speed.images == 0


def test_processes_are_brought_together(runner, monkeypatch):
    """Two processes with two images each, of which the last is a repetition, since there are three."""
    monkeypatch.setattr(report_hook, 'all_gather_object', lambda own: [own])
    parts = []
    for rank, sampler in enumerate(([0, 2], [1, 0])):
        monkeypatch.setattr(report_hook, 'get_dist_info', lambda rank=rank: (rank, 2))
        runner.test_loop.dataloader.sampler = sampler
        hook = watched(runner, [segmented(runner.dataset[index], 10 * index) for index in sampler])
        parts.append((hook.rows, hook.errors.counts, hook.speed.images, hook.speed.seconds))
    assert [row.index for row in parts[1][0]] == [1]
    monkeypatch.setattr(report_hook, 'get_dist_info', lambda: (0, 2))
    monkeypatch.setattr(report_hook, 'all_gather_object', lambda own: [own, parts[1]])
    runner.test_loop.dataloader.sampler = [0, 2]
    hook = watched(runner, [segmented(runner.dataset[index], 10 * index) for index in (0, 2)])
    assert [row.index for row in hook.rows] == [0, 1, 2]
    runner.test_loop.dataloader.sampler = [0, 1, 2]
    monkeypatch.setattr(report_hook, 'get_dist_info', lambda: (0, 1))
    alone = watched(runner, [segmented(path, 10 * index) for index, path in enumerate(runner.dataset)])
    for name, counts in alone.errors.counts.items():
        assert (hook.errors.counts[name] == counts).all(), name
