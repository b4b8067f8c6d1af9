"""The JSON's form, the texts made of it, and docs/performance.md."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from densevit.benchmark.report import (
    SCHEMA,
    goal_texts,
    print_report,
    ratio_of,
    read_results,
    seconds,
    size_of,
    to_markdown,
    write_json,
)
from densevit.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    'date': '2026-01-02 03:04 UTC', 'cpu': 'A CPU', 'threads': 2, 'device': 'cpu',
    'versions': {'python': '3.11.1', 'densevit': '0.1', 'torch': '2.15.0'},
    'rates': {'matmul_float32_flops': 3.61e11, 'copy_bytes': 2.9e10},
}  # fmt: skip
OURS = {'label': 'densevit', 'median_s': 0.5, 'quartiles_s': [0.4, 0.6], 'rounds': 3}
SAME = {'absolute': 1e-5, 'relative': 2e-6, 'labels': 0.0}
FAR = {'absolute': 2.0, 'relative': 0.5, 'labels': 0.25}
PEER = {**OURS, 'label': 'mmseg', 'median_s': 1.0, 'difference': SAME, 'ratio': 2.0, 'peak_bytes': 3e9}
OTHER = {**OURS, 'label': 'timm', 'difference': FAR, 'ratio': None, 'expected_to_differ': 'shifts otherwise'}
CONDITIONS = dict(size=[64, 96], batch=2, train=False, dtype='float32', device='cpu', threads=2, fold=True)
CASE = {
    'name': 'uper', 'work': 'UperNet', 'peer': 'mmseg', 'goals': {'exact': 1.6, 'memory': 0.7}, 'met': False,
    'reached': {'exact': 2.0, 'memory': 0.9}, 'best_peer': 'mmseg', 'rows': [OURS, PEER, OTHER], 'notes': ['a note'],
    'parts': {'densevit': {'backbone': 0.1, 'total': 0.5}},
}  # fmt: skip
RESULTS = {
    'table': [CASE],
    'against': [{'model': 'm', 'kind': 'backbone', **CONDITIONS, 'tolerance': 1e-4, 'rows': [OURS, PEER], 'parts': {}}],
    'accuracy': [{'model': 'm', 'peer': 'mmseg', 'size': [64, 96], 'seeds': 5, 'rows': [
        {'label': 'exact', 'float64': 1e-12, 'float32': 1e-6, 'peer_float32': 2e-6, 'ratio': 0.5, 'limit': 1.5,
         'within': True}]}],
    'growth': [{'model': 'm', 'dtype': 'float32', 'points': [{'size': [256, 256], 'batch': 1, 'median_s': 0.1}],
                'exponents': {'time by size': 1.01}, 'picture': 'growth.png'}],
    'inspect': [{'model': 'm', **CONDITIONS, **OURS, 'params': 1e6, 'macs': 2e9, 'images_per_s': 4.0, 'parts': [
        {'name': 'backbone', 'median_s': 0.5, 'share': 1.0, 'params': 1_000_000, 'macs': 2_000_000_000}]}],
}  # fmt: skip


def content(kind: str) -> dict:
    return {'schema': SCHEMA, 'kind': kind, 'command': 'python tools/benchmark.py', 'machine': MACHINE,
            'results': copy.deepcopy(RESULTS[kind])}  # fmt: skip


def test_numbers():
    assert (seconds(1.234), seconds(0.01234), size_of(1.5e9), size_of(2e6)) == ('1.23 s', '12.3 ms', '1.50 GB', '2 MB')
    assert ratio_of(PEER) == '2.00' and ratio_of(OURS) == ''
    assert ratio_of(OTHER) == 'differs by 2.0e+00 (5.0e-01, 2.5e-01 of the labels)'
    assert goal_texts(CASE) == [('exact', '>= 1.6', '2.00'), ('memory', '<= 0.7', '0.90')]
    assert goal_texts({**CASE, 'reached': {'exact': None}}) == [
        ('exact', '>= 1.6', 'the results differ'), ('memory', '<= 0.7', 'not measured'),
    ]  # fmt: skip


@pytest.mark.parametrize('kind', RESULTS)
def test_json_returns_and_every_kind_is_printed(tmp_path, kind):
    path = tmp_path / 'deep' / 'result.json'
    write_json(path, kind, MACHINE, 'python tools/benchmark.py', RESULTS[kind])
    assert read_results([path]) == [content(kind)]
    out = io.StringIO()
    print_report(kind, RESULTS[kind], Console(file=out, width=200))
    expected = {'table': 'UperNet', 'against': '2.00', 'accuracy': '0.50', 'growth': '1.01', 'inspect': '2.00 G'}
    assert expected[kind] in out.getvalue()


def test_markdown_has_everything_in_order():
    text = to_markdown([content(kind) for kind in ('inspect', 'growth', 'accuracy', 'against', 'table')])
    heads = ['## The table', '## Side by side', '## How exact', '## How the cost grows', '## Models by part']
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    assert '| UperNet | mmseg | exact | >= 1.6 | 2.00 | no |' in text
    assert 'differs by 2.0e+00' in text and 'timm: shifts otherwise.' in text
    assert '2026-01-02 03:04 UTC, A CPU, 2 threads, measured 361 GFLOP/s' in text
    assert '    python tools/benchmark.py\n' in text and '(images/growth.png)' in text
    assert text.endswith('\n') and not text.endswith('\n\n')


@pytest.mark.parametrize('text', ['{', '[]', '{"schema": 0, "kind": "table"}', '{"schema": 1, "kind": "other"}'])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / 'x.json'
    path.write_text(text)
    with pytest.raises(UserError, match=r'x\.json'):
        read_results([path])
    with pytest.raises(UserError, match='absent'):
        read_results([tmp_path / 'absent.json'])


def test_the_page_is_what_the_results_give():
    """`python tools/benchmark.py --write-docs docs/performance.md docs/performance/*.json` mends it."""
    paths = sorted((ROOT / 'docs/performance').glob('*.json'))
    page = ROOT / 'docs/performance.md'
    assert page.exists() == bool(paths)
    if paths:
        assert page.read_text() == to_markdown(read_results(paths))
        for path in paths:
            assert json.loads(path.read_text())['machine']['threads'] > 0
