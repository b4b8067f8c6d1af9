from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from densevit.evaluation.tables import merged, metrics_table, write_json


def test_table_has_a_row_per_class_and_the_summary():
    table = metrics_table(
        {'door, double door [x]': {'IoU': 12.345, 'Acc': float('nan')}, 'sky': {'IoU': 0.0, 'Acc': 100.0}},
        {'mIoU': 6.1725},
    )
    lines = table.splitlines()
    assert [cell.strip() for cell in lines[1].strip('|').split('|')] == ['class', 'IoU', 'Acc']
    assert [cell.strip() for cell in lines[3].strip('|').split('|')] == [
        'door, double door [x]',
        '12.35',
        '-',
    ]
    assert [cell.strip() for cell in lines[4].strip('|').split('|')] == ['sky', '0.00', '100.00']
    assert lines[-1] == 'mIoU: 6.17'


def test_wide_tables_are_not_cut():
    row = {f'measure_{index}': 1.0 for index in range(12)}
    assert all(name in metrics_table({'a class': row}, {}) for name in row)


def test_json_is_strict_and_whole(tmp_path):
    path = tmp_path / 'new' / 'metrics.json'
    write_json(path, {'mIoU': np.float64(3.5), 'per_class': {'Ä': {'IoU': float('nan'), 'n': torch.tensor([1, 2])}}})
    text = path.read_text(encoding='utf-8')
    assert json.loads(text, parse_constant=pytest.fail) == {
        'mIoU': 3.5,
        'per_class': {'Ä': {'IoU': None, 'n': [1, 2]}},
    }
    assert os.listdir(path.parent) == ['metrics.json']


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'metrics.json'
    write_json(path, {'mIoU': 1})

    def no_disk(*_):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'fsync', no_disk)
    with pytest.raises(OSError, match='disk full'):
        write_json(path, {'mIoU': 2})
    assert json.loads(path.read_text()) == {'mIoU': 1}
    assert os.listdir(tmp_path) == ['metrics.json']


def test_measures_of_several_metrics_stand_beside_each_other():
    metrics = [SimpleNamespace(per_class={'cat': {'IoU': 70.0}}), SimpleNamespace(), SimpleNamespace(
        per_class={'cat': {'pointing': 0.8}, 'dog': {'pointing': 0.1}})]  # fmt: skip
    assert merged(metrics, 'per_class') == {'cat': {'IoU': 70.0, 'pointing': 0.8}, 'dog': {'pointing': 0.1}}
    assert metrics[0].per_class == {'cat': {'IoU': 70.0}}
