"""No checkpoint runs code in tools/train.py and tools/test.py, on whichever way it comes in; and it may be a URL."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from densevit.checkpoints import read_checkpoint
from tests.checkpoints.hostile import hostile
from tests.checkpoints.server import running

from .conftest import ROOT, SEGMENT, metrics, options, training

NO_VALIDATION = ('val_cfg=None', 'val_dataloader=None', 'val_evaluator=None')
HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import load_checkpoint

@HOOKS.register_module(force=True)
class LoadsByItself(Hook):
    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        load_checkpoint(runner.model, self.path)
"""


def _config(folder: Path, base: str, text: str) -> str:
    path = folder / 'config.py'
    path.write_text(f'_base_ = [{str(ROOT / "configs" / f"{base}.py")!r}]\n{text}\n')
    return str(path)


def _left_by_a_run(folder: Path, file: Path, note: bool) -> list:
    work_dir = folder / 'run'
    shutil.move(file, work_dir / file.name)
    if note:
        (work_dir / 'last_checkpoint').write_text(str(work_dir / file.name))
    return [SEGMENT, '--resume']


def _hook(folder: Path, file: Path) -> list:
    (folder / 'loads_by_itself.py').write_text(HOOK)
    text = (
        "custom_imports = dict(imports=['loads_by_itself'])\n"
        f"custom_hooks = [dict(type='LoadsByItself', path={str(file)!r})]"
    )
    return [_config(folder, SEGMENT, text)]


def _init_cfg(place: str, kind: str, prefix: str):
    def config(folder: Path, file: Path) -> list:
        cfg = f'dict(type={kind!r}, checkpoint={str(file)!r}, prefix={prefix!r})'
        return [_config(folder, SEGMENT, f'model = dict({place}=dict(init_cfg={cfg}))')]

    return config


# name: the tool, and its arguments from a folder and the hostile file in it
ROUTES = {
    'load_from': ('train', lambda folder, file: [SEGMENT, '--load-from', file]),
    'load_from of the config': ('train', lambda folder, file: [_config(folder, SEGMENT, f'load_from = {str(file)!r}')]),
    'resume': ('train', lambda folder, file: [SEGMENT, '--resume', file]),
    'resume with an average': ('train', lambda folder, file: [SEGMENT, '--ema', '--resume', file]),
    'resume the newest, noted': ('train', lambda folder, file: _left_by_a_run(folder, file, True)),
    'resume the newest, found': ('train', lambda folder, file: _left_by_a_run(folder, file, False)),
    'init_cfg of our backbone': ('train', _init_cfg('backbone', 'Pretrained', 'backbone')),
    'init_cfg by our name': ('train', _init_cfg('decode_head', 'densevit.Pretrained', 'decode_head')),
    'init_cfg of an mm head': ('train', _init_cfg('decode_head', 'Pretrained', 'decode_head')),
    'a hook': ('train', _hook),
    'test.py': ('test', lambda folder, file: [SEGMENT, file]),
}


@pytest.mark.parametrize('name', ROUTES)
def test_hostile_file(tool, scenes, segmentor, tmp_path, monkeypatch, name):
    monkeypatch.syspath_prepend(tmp_path)
    kind, arguments = ROUTES[name]
    (tmp_path / 'run').mkdir()
    file = tmp_path / 'iter_4.pth'
    mark = hostile(file, read_checkpoint(segmentor / 'iter_4.pth'))
    short = NO_VALIDATION if kind == 'train' else ()
    command = [
        kind, *arguments(tmp_path, file), '--work-dir', tmp_path / 'run', '--skip-data-check',
        *options(SEGMENT, scenes, 'train_cfg.max_iters=1', *short),
    ]  # fmt: skip
    done = tool(*command)
    assert done.status == 2 and not mark.exists()
    assert 'iter_4.pth' in done.err and '--trust-checkpoint' in done.err and done.err.count('\n') == 1, done.err
    done = tool(*command, '--trust-checkpoint')
    assert done.status == 0 and mark.exists(), done.err


def test_a_run_resumes_without_trust_and_without_running_its_config(tool, scenes, tmp_path):
    """Optimizer, one-cycle schedule, log buffers and average; the text under `config` is what mmengine would run."""
    more = ['--ema', '0.3', '--amp', '--work-dir', tmp_path / 'run', '--skip-data-check']
    keep = options(SEGMENT, scenes, *NO_VALIDATION, 'default_hooks.checkpoint.max_keep_ckpts=2')
    assert tool('train', SEGMENT, *more, *keep).status == 0
    steps = training(tmp_path / 'run', 'step', 'lr', 'loss')
    file, mark = tmp_path / 'iter_2.pth', tmp_path / 'ran'
    content = read_checkpoint(tmp_path / 'run/iter_2.pth')
    text = f'import os\nos.mkdir({str(mark)!r})\n'
    content['meta'].update(config=text, cfg=text)
    torch.save(content, file)
    done = tool('train', SEGMENT, *more[:-2], tmp_path / 'again', '--skip-data-check', '--resume', file, *keep)
    assert done.status == 0, done.err
    assert not mark.exists()
    again = training(tmp_path / 'again', 'step', 'lr', 'loss')
    assert [line[:2] for line in again] == [line[:2] for line in steps[2:]]


def test_checkpoints_by_url(tool, scenes, segmentor, tmp_path, monkeypatch):
    """Fetched by train.py, in the cache for test.py, and as init_cfg of the config."""
    monkeypatch.setenv('DENSEVIT_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    with running() as server:
        url, file = server.serve('iter_4.pth', (segmentor / 'iter_4.pth').read_bytes())
        short = options(SEGMENT, scenes, 'train_cfg.max_iters=1', *NO_VALIDATION)
        start = ['--work-dir', tmp_path / 'run', '--skip-data-check']
        assert tool('train', SEGMENT, '--load-from', url, *start, *short).status == 0
        assert len(file.requests) == 1
    done = tool('test', SEGMENT, url, *start, *options(SEGMENT, scenes))
    assert done.status == 0, done.err
    assert 'mIoU' in metrics(tmp_path / 'run')
    whole = f"model = dict(init_cfg=dict(type='densevit.Pretrained', checkpoint={url!r}))"
    done = tool('train', _config(tmp_path, SEGMENT, whole), *start, *short)
    assert done.status == 0 and f'EncoderDecoder: {url}: densevit: loaded' in done.out, done.err
