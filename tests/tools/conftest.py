"""Scenes, short runs of both tasks, and the tools called in this process."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from densevit.data.scenes import generate
from densevit.engine.cli import run_tool
from tests.scope import scope_restored

ROOT = Path(__file__).resolve().parents[2]
SEGMENT, DETECT = 'upernet_patchconvnet-tiny_scenes', 'mask_rcnn_patchconvnet-tiny_scenes'

_COMMON = (
    'model.backbone.arch.depth=1',
    'default_hooks.logger.interval=1',
    'train_dataloader.batch_size=2',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val', 'test')),
)
# Four updates and two validations; a schedule as long as that.
SHORT = {
    SEGMENT: (
        *_COMMON,
        'model.decode_head.channels=16',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2',
        'param_scheduler.0.total_steps=4',
    ),
    DETECT: (
        *_COMMON,
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=1',
        'train_dataloader.dataset.indices=4',
        'param_scheduler.0.total_steps=2',
        'model.test_cfg.rcnn.score_thr=0.01',
    ),
}


@dataclass
class Finished:
    """How a tool ended, and what it said."""

    status: int
    out: str
    err: str


def load_tool(name: str):
    """The module tools/<name>.py."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def call(name: str, *arguments: str) -> int:
    """Run a tool in this process and leave the process as it was."""
    module = load_tool(name)
    with warnings.catch_warnings(), scope_restored():
        try:
            return run_tool(module.parser(), module.main, [str(argument) for argument in arguments])
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.deterministic = False


@pytest.fixture
def tool(capfd) -> Callable[..., Finished]:
    """``tool('train', config, '--amp')`` runs tools/train.py in this process."""

    def run(name: str, *arguments: str) -> Finished:
        capfd.readouterr()
        status = call(name, *arguments)
        return Finished(status, *capfd.readouterr())

    return run


@pytest.fixture(scope='session')
def scenes(tmp_path_factory) -> Path:
    """8 + 4 scenes in both layouts."""
    return generate(tmp_path_factory.mktemp('data') / 'scenes', 8, 4, (64, 96), 0)


def options(config: str, scenes: Path, *more: str) -> list[str]:
    """``--cfg-options`` of a short run."""
    root = scenes / ('ade' if config == SEGMENT else 'coco')
    return ['--cfg-options', f'data_root={root}', *SHORT[config], *more]


@pytest.fixture(scope='session')
def segmentor(scenes, tmp_path_factory) -> Path:
    """The work dir of a short training run."""
    return _trained(SEGMENT, scenes, tmp_path_factory.mktemp('segmentor'))


@pytest.fixture(scope='session')
def detector(scenes, tmp_path_factory) -> Path:
    """The work dir of a short training run."""
    return _trained(DETECT, scenes, tmp_path_factory.mktemp('detector'))


def _trained(config: str, scenes: Path, work_dir: Path) -> Path:
    assert call('train', config, '--work-dir', work_dir, *options(config, scenes)) == 0
    return work_dir


def scalars(work_dir: Path) -> list[dict]:
    """The newest run's log, a line an entry."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def metrics(work_dir: Path, name: str = 'metrics.json') -> dict:
    """What tools/test.py wrote."""
    return json.loads((work_dir / name).read_text())


def training(work_dir: Path, *keys: str) -> list[tuple]:
    """Those values of each training iteration."""
    return [tuple(line[key] for key in keys) for line in scalars(work_dir) if 'lr' in line]


def validation(work_dir: Path) -> dict:
    """The newest validation."""
    return [line for line in scalars(work_dir) if 'val/loss' in line][-1]
