"""tools/benchmark.py: its arguments, its exit status, and what it writes."""

from __future__ import annotations

import json
import sys

import pytest

from tests.benchmark.tiny import ARCH, SWIN_NAME
from tests.tools.conftest import load_tool

SMALL = ['--size', '64x96', '--rounds', '1', '--no-memory', '--quick']


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit):
        load_tool('benchmark').parser().parse_args(['--help'])
    text = capsys.readouterr().out
    for option in (
        '--against', '--table', '--accuracy', '--growth', '--write-docs', '--size', '--batch', '--train', '--device',
        '--dtype', '--threads', '--rounds', '--channels-last', '--compile', '--fold', '--winograd', '--fast',
        '--no-memory', '--tolerance', '--quick', '--json', '--picture', '--debug',
    ):  # fmt: skip
        assert option in text


@pytest.mark.parametrize('text', ['0x5', '512x', 'x', '-1'])
def test_sizes_that_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        load_tool('benchmark').parser().parse_args(['m', f'--size={text}'])
    assert 'is not of the form HEIGHTxWIDTH' in capsys.readouterr().err


def test_one_model(tool, tmp_path):
    done = tool('benchmark', SWIN_NAME, *SMALL, '--json', tmp_path / 'out.json')
    assert done.status == 0, done.err
    content = json.loads((tmp_path / 'out.json').read_text())
    (result,) = content['results']
    assert (content['schema'], content['kind']) == (1, 'inspect')
    assert result['size'] == [64, 96] and result['params'] > 1000 and result['macs'] > 10**6
    (part, rest) = result['parts']
    assert part['name'] == 'backbone' and part['macs'] == result['macs']
    assert content['machine']['threads'] >= 1 and content['machine']['versions']['torch']
    assert str(tmp_path / 'out.json') in done.out


def test_a_training_step(tool):
    done = tool('benchmark', SWIN_NAME, *SMALL, '--train', '--channels-last')
    assert done.status == 0, done.err
    assert 'backward' in done.out and 'training step' in done.out and 'channels_last' in done.out


def test_side_by_side(tool, tmp_path):
    name = f'densevit.SwinTransformer:{ARCH},window_size=2'
    arguments = [*SMALL, '--size', '64x128', '--threads', '1']
    done = tool('benchmark', name, '--against', 'mmseg', *arguments, '--json', tmp_path / 'out.json')
    assert done.status == 0, done.err
    content = json.loads((tmp_path / 'out.json').read_text())
    ours, theirs = content['results'][0]['rows']
    assert (ours['label'], theirs['label'], theirs['ratio'] > 0) == ('densevit', 'mmseg', True)
    assert content['results'][0]['fold'] and content['results'][0]['threads'] == 1


def test_no_ratio_and_status_1_where_results_differ(tool):
    done = tool('benchmark', f'densevit.SwinTransformer:{ARCH},window_size=3', '--against', 'timm', *SMALL)
    assert done.status == 1
    assert 'differs' in done.out and 'shifts before it pads' in done.out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'name a config or a backbone'),
        (['upernet_swim_ade20k'], 'upernet_swin_ade20k'),
        ([SWIN_NAME, '--against', 'mmsegg', *SMALL], "did you mean 'mmseg'"),
        ([SWIN_NAME, '--dtype', 'tf32', *SMALL], 'tf32 is a mode of CUDA'),
        ([SWIN_NAME, '--device', 'nonsense', *SMALL], "'nonsense' cannot be used"),
        ([SWIN_NAME, '--winograd', *SMALL], '--winograd'),
        ([SWIN_NAME, '--picture', 'x.png'], '--growth'),
        ([SWIN_NAME, '--against', 'timm', '--size', '65x96', '--no-memory'], 'multiples of 32, not 65x96'),
        (['nothing', '--table'], "no case 'nothing'"),
        (['--write-docs', 'x.md'], 'needs result files'),
        (['absent.json', '--write-docs', 'x.md'], 'absent.json'),
    ],
)
def test_mistakes_are_one_sentence(tool, arguments, message):
    done = tool('benchmark', *arguments)
    assert done.status == 2
    assert done.err.startswith('error: ') and message in done.err, done.err
    assert 'Traceback' not in done.err


def test_compiling_without_a_compiler(tool, monkeypatch):
    monkeypatch.setattr('densevit.benchmark.run.shutil.which', lambda name: None)
    done = tool('benchmark', SWIN_NAME, '--compile', *SMALL)
    assert done.status == 2 and 'needs a C++ compiler' in done.err


def test_an_absent_package(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    monkeypatch.delitem(sys.modules, 'densevit.benchmark.peers.transformers', raising=False)
    done = tool('benchmark', SWIN_NAME, '--against', 'transformers', *SMALL)
    assert done.status == 2 and '`pip install transformers`' in done.err


def test_growth_and_page(tool, tmp_path):
    picture, result, page = tmp_path / 'growth.png', tmp_path / 'growth.json', tmp_path / 'page.md'
    done = tool('benchmark', SWIN_NAME, '--growth', '--quick', '--no-memory', '--picture', picture, '--json', result)
    assert done.status == 0, done.err
    assert picture.exists() and 'of the number of pixels' in done.out
    done = tool('benchmark', result, '--write-docs', page)
    assert done.status == 0, done.err
    assert 'images/growth.png' in page.read_text() and '## How the cost grows' in page.read_text()
