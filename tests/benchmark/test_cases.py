"""The table's rows, their goals, and how they are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from densevit.benchmark import accuracy as accuracy_module
from densevit.benchmark import cases
from densevit.benchmark.accuracy import accuracy
from densevit.benchmark.cases import CASES, Case, _reached, run_case, select
from densevit.benchmark.measure import Difference, Row, Side, Timing
from densevit.benchmark.run import Options
from densevit.errors import UserError
from tests.benchmark.tiny import SWIN_NAME

GOALS = {
    'uper_swin_t': {'exact': 1.6, 'winograd': 2.0},
    'uper_s60': {'exact': 1.6, 'winograd': 2.0},
    'uper_head': {'exact': 1.65, 'winograd': 2.1},
    'train_uper_swin_t': {'ratio': 1.4, 'memory': 0.7},
    'swin_t': {'ratio': 1.3},
    'swin_t_448': {},
    'swin_v2_t': {'ratio': 1.5},
    'pvt_small': {'ratio': 1.4},
    'pvt_v2_b2': {'ratio': 1.3},
    'cvt_13': {'ratio': 1.4},
    's60': {'ratio': 1.3},
    'mask_rcnn_swin_t': {'ratio': 1.4},
    'train_mask_rcnn_swin_t': {'ratio': 1.2, 'memory': 0.8},
    'iou_metric': {'ratio': 3.0},
    'coco_metric': {'ratio': 3.0},
    'label_map_memory': {'memory': 0.15},
}


def row(label: str, seconds: float, ratio: float | None = 1.0) -> Row:
    return Row(label, Timing((seconds,)), Difference() if ratio else Difference(relative=1.0), ratio)


def test_goals():
    assert {name: dict(case.goals) for name, case in CASES.items()} == GOALS


def test_selection():
    assert select([]) == list(CASES.values())
    assert [case.name for case in select(['s60', 'swin_t'])] == ['s60', 'swin_t']
    with pytest.raises(UserError, match="no case 'swin'; did you mean 'swin_t'"):
        select(['swin'])


def test_the_fastest_peer_with_the_same_result_counts():
    rows = [Row('densevit', Timing((2.0,))), row('winograd', 1.0), row('slow', 9.0), row('fast', 6.0),
            row('other', 1.0, None)]  # fmt: skip
    found = _reached(CASES['uper_head'], rows)
    assert found['reached'] == {'exact': 3.0, 'winograd': 6.0}
    assert found['best_peer'] == 'fast' and found['wrong'] == ['other']
    wrong = _reached(CASES['uper_head'], [rows[0], row('winograd', 1.0, None), rows[2]])
    assert wrong['reached'] == {'exact': 4.5, 'winograd': None}


@pytest.mark.parametrize(
    ('reached', 'met'),
    [
        ({'ratio': 1.4, 'memory': 0.7}, True),
        ({'ratio': 1.39, 'memory': 0.1}, False),
        ({'ratio': 9.0, 'memory': 0.71}, False),
        ({'ratio': None, 'memory': 0.1}, False),
    ],
)
def test_goals_are_met_or_missed(reached, met):
    def measure(case, options, quick):
        assert options.rounds == 7 and options.fold
        return {'reached': reached, 'rows': []}

    case = Case('name', 'work', 'peer', {'ratio': 1.4, 'memory': 0.7}, measure, rounds=7)
    assert run_case(case, Options())['met'] is met
    wrong = replace(case, measure=lambda *_: {'reached': reached, 'rows': [], 'wrong': ['peer']})
    assert run_case(wrong, Options())['met'] is False
    assert run_case(replace(case, goals={}), Options())['met'] is None


def test_a_case_of_models():
    case = replace(
        CASES['swin_t'],
        options={
            'model': f'{SWIN_NAME[:-1]}2',
            'packages': ('mmseg', 'timm'),
            'size': (96, 128),
            'quick_size': (64, 64),
        },
    )
    found = run_case(case, Options(), rounds=1)
    assert [row['label'] for row in found['rows']] == [
        'densevit', 'mmseg', 'timm, TIMM_FUSED_ATTN=1', 'timm, TIMM_FUSED_ATTN=2',
    ]  # fmt: skip
    assert not found['wrong'] and found['reached']['ratio'] > 0
    assert found['conditions']['size'] == [96, 128]


def test_iou_is_counted_and_compared():
    found = run_case(CASES['iou_metric'], Options(), quick=True)
    assert not found['wrong'] and found['notes'][0].startswith('largest difference to an int64 count')
    assert found['rows'][1]['ratio'] is not None


def test_coco_statistics_are_compared(monkeypatch):
    monkeypatch.setattr(cases, 'QUICK_COCO', (6, 3, 20, 6))
    found = run_case(CASES['coco_metric'], Options(), quick=True)
    assert found['rows'][1]['difference']['absolute'] < 1e-12 and found['rows'][1]['ratio'] is not None
    assert found['rows'][0]['rounds'] == 2


def test_accuracy(monkeypatch):
    case = replace(CASES['swin_t'], options={'model': SWIN_NAME})
    monkeypatch.setitem(accuracy_module.CASES, 'swin_t', case)
    result = accuracy('swin_t', seeds=2, size=(64, 96))
    (found,) = result['rows']
    assert found['label'] == 'exact' and found['float64'] < 1e-12
    assert 1e-8 < found['float32'] < 1e-5 and found['within'] == (found['ratio'] <= 1.5)
    with pytest.raises(UserError, match="no case 'swin'; did you mean 'swin_t'"):
        accuracy('swin')


@pytest.mark.parametrize('compiled', [False, True])
def test_goals_are_for_eager_models(compiled):
    case = replace(CASES['swin_t'], measure=lambda *_: {'reached': {'ratio': 1.2}, 'rows': []})
    result = run_case(case, Options(compile=compiled))
    assert result['reached'] == {'ratio': 1.2}
    assert (result['goals'], result['met']) == (({}, None) if compiled else ({'ratio': 1.3}, False))
    assert result.get('compiled', False) is compiled


def test_a_peer_that_does_not_compile_is_left_out():
    def fails():
        raise AssertionError('a guard\nand its trace')

    ours, other = (Side(label, run=dict, outputs=dict) for label in ('densevit', 'timm'))
    sides, notes = cases._that_compile([ours, Side('mmdet', run=fails, outputs=fails), other])
    assert sides == [ours, other]
    assert notes == ['mmdet: left out, torch.compile fails on it (a guard)']
