"""tools/check.py: exit status, JSON, page, what is printed; and the quick form that training begins with."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.config.reading import find_config, read_config  # noqa: E402
from densevit.data.scenes import generate  # noqa: E402
from densevit.engine.check import check, check_before_start  # noqa: E402
from densevit.engine.options import RunOptions  # noqa: E402
from densevit.errors import UserError  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

SCENES = 'upernet_patchconvnet-tiny_scenes'
FAULTS = {
    'train_dataloader.sampler.shufle': True,
    'model.decode_head.num_classes': 5,
    'optim_wrapper.optimizer.lr': 9.0,
}


@pytest.fixture(autouse=True)
def _scope(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with scope_restored():
        yield


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp('data') / 'scenes', 6, 3, (96, 128))


@pytest.fixture
def scenes(written, monkeypatch) -> Path:
    monkeypatch.setenv('DENSEVIT_DATA', str(written.parent))
    return written


def tool():
    path = find_config(SCENES).parents[1] / 'tools' / 'check.py'
    spec = importlib.util.spec_from_file_location('check_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(*given: str) -> argparse.Namespace:
    return tool().parser().parse_intermixed_args(list(given))


def test_a_sound_run(scenes, capsys):
    args = arguments(SCENES, '--json', 'out/check.json')
    assert check(args) == 0
    printed = capsys.readouterr().out
    assert 'train_dataloader.dataset: 6 images' in printed and 'Training may start' in printed
    content = json.loads(Path('out/check.json').read_text())
    assert content['schema'] == 1 and content['may_start'] is True and content['quick'] is False
    assert content['counts']['error'] == 0
    assert [each['images'] for each in content['datasets']] == [6, 3]
    assert content['memory']['total'] > content['memory']['activations'] > 0 and content['disk']['count'] == 3
    assert all(set(each) == {'level', 'kind', 'place', 'message', 'files'} for each in content['findings'])


def test_faults_in_config_and_data(scenes, capsys):
    next((scenes / 'ade' / 'images' / 'training').glob('*')).write_bytes(b'')
    options = [f'{key}={value}' for key, value in FAULTS.items()]
    args = arguments(SCENES, '--quick', '--json', 'check.json', '--cfg-options', *options)
    assert check(args) == 1
    printed = capsys.readouterr().out
    kinds = {each['kind'] for each in json.loads(Path('check.json').read_text())['findings']}
    assert {'unknown-argument', 'class-count', 'learning-rate'} <= kinds
    assert any('unreadable' in kind or 'empty' in kind for kind in kinds)
    # errors stand last, and the verdict below them
    assert printed.index('learning-rate') < printed.index('class-count')
    assert 'Training must not start' in printed.strip().splitlines()[-2]
    assert printed.strip().splitlines()[-1].startswith('json: ')


def test_a_config_that_does_not_run(tmp_path, capsys):
    file = tmp_path / 'old.py'
    file.write_text('import numpy\n\nimport mmcv.runner\n')
    assert check(arguments(str(file))) == 1
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'config-does-not-run' in printed and 'mmengine.runner' in printed and 'line 3' in printed


def test_mistakes_in_the_command():
    with pytest.raises(UserError, match='did you mean'):
        check(arguments(f'{SCENES}x'))
    with pytest.raises(UserError, match="'train_dataloder'; did you mean 'train_dataloader'"):
        check(arguments(SCENES, '--cfg-options', 'train_dataloder.batch_size=1'))
    with pytest.raises(SystemExit):
        arguments(SCENES, '--workers', '0')


def test_a_checkpoint_and_load_from(scenes, capsys):
    args = arguments(SCENES, 'no.pth', '--load-from', 'none.pth', '--quick')
    assert check(args) == 1
    printed = ' '.join(capsys.readouterr().out.split())
    assert "'no.pth' does not exist" in printed and "'none.pth' does not exist" in printed


# ---------------------------------------------------------------------------------------- before each training
def test_training_names_all_errors_in_one():
    with pytest.raises(UserError) as caught:
        check_before_start(read_config(SCENES, FAULTS), RunOptions(), ('train',))
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{len(lines) - 1} mistakes:' and len(lines) >= 4
    for words in ("'shufle'", 'num_classes=5', 'does not exist'):
        assert sum(words in line for line in lines) == 1, lines


def test_training_has_the_options_in_its_config():
    cfg, report = check_before_start(read_config(SCENES), RunOptions(work_dir='here', accumulate=2), ())
    assert cfg.work_dir == 'here' and cfg.optim_wrapper.accumulative_counts == 2
    assert {each.kind for each in report.findings if each.level == 'warning'} == {'batch-and-rate'}
    with pytest.raises(UserError, match='--new-classes needs --load-from'):
        check_before_start(read_config(SCENES), RunOptions(new_classes=True), ())


def test_only_the_first_process_looks(monkeypatch):
    monkeypatch.setattr('densevit.engine.check.is_main_process', lambda cfg: False)
    _, report = check_before_start(read_config(SCENES), RunOptions(), ('train',))
    assert report.findings == []
