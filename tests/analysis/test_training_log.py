"""Curves from mmengine's scalars.json."""

from __future__ import annotations

import json

from densevit.analysis.training_log import training_curves


def log(folder, name, *lines):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def train(step, loss):
    return {'lr': 0.1, 'loss': loss, 'loss_mask': 0.2, 'time': 1.0, 'iter': step, 'step': step}


def test_a_run_by_epoch(tmp_path):
    log(
        tmp_path, '20260101_000000', train(50, 2.0), train(100, 1.0), {'coco/bbox_mAP': 0.3, 'val/loss': 1.5, 'step': 1}
    )
    assert training_curves(tmp_path) == {
        'lr': [(50, 0.1), (100, 0.1)],
        'loss': [(50, 2.0), (100, 1.0)],
        'coco/bbox_mAP': [(100, 0.3)],
        'val/loss': [(100, 1.5)],
    }


def test_a_resumed_run_goes_on_where_it_was_resumed(tmp_path):
    log(tmp_path, '20260101_000000', train(50, 3.0), train(100, 2.0), train(150, 9.0), '{"lr": 0.1, "lo')
    log(tmp_path, '20260102_000000', train(150, 1.0), {'mIoU': 40.0, 'step': 150})
    log(tmp_path, '20260103_000000', {'mIoU': 41.0, 'step': 150})  # a test
    curves = training_curves(tmp_path)
    assert curves['loss'] == [(50, 3.0), (100, 2.0), (150, 1.0)]
    assert curves['mIoU'] == [(150, 40.0)]


def test_a_validation_that_was_due_when_a_run_was_resumed(tmp_path):
    """It comes before any training; here the first run had done it too."""
    log(tmp_path, '20260101_000000', train(50, 3.0), train(100, 2.0), {'mIoU': 40.0, 'step': 100}, train(150, 9.0))
    log(tmp_path, '20260102_000000', {'mIoU': 40.0, 'step': 100}, train(150, 1.0), train(200, 0.5))
    curves = training_curves(tmp_path)
    assert curves['mIoU'] == [(100, 40.0)]
    assert curves['loss'] == [(50, 3.0), (100, 2.0), (150, 1.0), (200, 0.5)]


def test_a_run_that_was_begun_anew_stands_alone(tmp_path):
    log(tmp_path, '20260101_000000', train(50, 3.0), train(100, 2.0))
    log(tmp_path, '20260102_000000', train(50, 1.0))
    assert training_curves(tmp_path)['loss'] == [(50, 1.0)]


def test_a_run_from_the_start_has_nothing_of_one_that_was_logged_more_often(tmp_path):
    log(tmp_path, '20260101_000000', *(train(step, 9.0) for step in range(10, 90, 10)))
    log(tmp_path, '20260102_000000', train(50, 1.0), train(100, 0.5))
    assert training_curves(tmp_path)['loss'] == [(50, 1.0), (100, 0.5)]


def test_no_log(tmp_path):
    assert training_curves(tmp_path) == {}
