"""What the tools share: how a command line is read, and the exit status."""

from __future__ import annotations

import argparse

import pytest

from densevit.engine.cli import run_tool
from densevit.engine.reproduce import Result, Task
from densevit.errors import UserError
from tests.tools.conftest import load_tool


@pytest.mark.parametrize(
    'words',
    [
        ['CONFIG', '--tta', 'w.pth', '--cfg-options', 'a=1', 'b.c=[2,3]'],
        ['--cfg-options', 'a=1', 'b.c=[2,3]', '--tta', 'CONFIG', 'w.pth'],
        ['CONFIG', 'w.pth', '--cfg-options', 'a=1', '--tta', '--cfg-options', 'b.c=[2,3]'],
    ],
)
def test_options_may_stand_between_arguments(words):
    seen = []
    assert run_tool(load_tool('test').parser(), seen.append, words) == 0
    (args,) = seen
    assert (args.config, args.checkpoint, args.tta) == ('CONFIG', 'w.pth', True)
    assert args.cfg_options == {'a': 1, 'b.c': [2, 3]}


@pytest.mark.parametrize(
    'name, words, expected',
    [
        ('train', ['--amp', 'CONFIG', '--resume'], dict(config='CONFIG', amp=True, resume=True)),
        ('test', ['CONFIG', '--seed', '3'], dict(config='CONFIG', checkpoint=None, seed=3)),
        ('reproduce', ['camvid', '--debug', 'nuclei'], dict(data=['camvid', 'nuclei'], debug=True)),
        ('demo', ['--seed', '3'], dict(seed=3)),
    ],
)
def test_every_tool_reads_its_command_line(name, words, expected):
    seen = []
    assert run_tool(load_tool(name).parser(), seen.append, words) == 0
    assert {key: getattr(seen[0], key) for key in expected} == expected


@pytest.mark.parametrize(
    'words', [[], ['CONFIG', 'a.pth', 'b.pth'], ['CONFIG', '--nonsense'], ['C', '--cfg-options', 'a']]
)
def test_command_lines_that_are_refused(words, capsys):
    with pytest.raises(SystemExit) as end:
        run_tool(load_tool('test').parser(), print, words)
    assert end.value.code == 2
    assert 'Traceback' not in capsys.readouterr().err


def test_exit_status():
    def fail(args):
        raise UserError('no')

    def stop(args):
        raise KeyboardInterrupt

    parser = argparse.ArgumentParser()
    parser.add_argument('--debug', action='store_true')
    for main, status in ((lambda args: None, 0), (lambda args: 0, 0), (lambda args: 1, 1), (fail, 2), (stop, 130)):
        assert run_tool(parser, main, []) == status


@pytest.mark.parametrize('reached', [True, False])
@pytest.mark.parametrize('tool', ['demo', 'reproduce'])
def test_a_missed_target_is_the_exit_status(monkeypatch, capsys, tool, reached):
    result = Result(Task('some_config', {'mIoU': 60.0}), {'mIoU': 61.0 if reached else 59.0}, 1.0)
    monkeypatch.setattr('densevit.engine.demo.run_demo', lambda *arguments: [result])
    monkeypatch.setattr('densevit.engine.reproduce.reproduce', lambda *arguments: result)
    module = load_tool(tool)
    assert run_tool(module.parser(), module.main, ['camvid'] if tool == 'reproduce' else []) == (0 if reached else 1)
    if tool == 'reproduce':
        assert ('MISSED' in capsys.readouterr().out) is not reached
