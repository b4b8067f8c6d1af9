"""Runs that are killed and resumed end with the weights of those that are not, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, OPTIM_WRAPPERS
from torch import nn

from densevit.checkpoints import read_checkpoint
from densevit.config.reading import load_config
from densevit.data.scenes import generate
from densevit.engine.options import RunOptions, apply_options
from densevit.engine.runner import build_runner
from tests.data.test_stream import Backwards
from tests.engine.toy_run import SCALE, Child, toy_config, with_validation
from tests.scope import scope_restored
from tests.tools.conftest import DETECT, SEGMENT, load_tool, options

# How often each case is killed and resumed; DENSEVIT_TEST_SCALE=20 and the like for a measurement.
KILLS = SCALE


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    # laying it out takes most of such a short run
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))
    with scope_restored():
        yield


DATA_SAMPLERS.register_module(module=Backwards, name='BackwardsSampler', force=True)


# ------------------------------------------------------------------------------- a run with all kinds of randomness
@MODELS.register_module(force=True)
class DrawingModel(BaseModel):
    """Draws from each generator, and has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        inputs = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        if mode == 'predict':
            return list(self.layers(inputs))
        noise = torch.rand(1) + random.random() + np.random.rand()
        return {'loss': (self.layers(inputs)[:, 0] - inputs.sum(1) * noise).square().mean()}


@DATASETS.register_module(force=True)
class DrawnData:
    """Points with noise of each kind; every fifth is of no use, so another is drawn in its place."""

    metainfo: dict = {}

    def __init__(self, training: bool = True) -> None:
        self.training = training

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> dict:
        if not self.training:
            return dict(inputs=torch.full((4,), index / 11))
        while index % 5 == 4:
            index = np.random.randint(len(self))
        return dict(inputs=torch.tensor([index / 11, random.random(), np.random.rand(), torch.rand(()).item()]))


@OPTIM_WRAPPERS.register_module(force=True)
class ScaledOptimWrapper(AmpOptimWrapper):
    """mmengine's, which refuses to run without a GPU, with a loss scaler for the CPU that changes its scale often."""

    def __init__(self, **kwargs: Any) -> None:
        OptimWrapper.__init__(self, **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', growth_interval=2)
        self._scale_update_param = None
        self.cast_dtype = torch.bfloat16


@METRICS.register_module(force=True)
class DrawnScore(BaseMetric):
    """What the weights say, so that a validation that is done again has the same score."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [abs(float(each)) for each in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {'score': sum(results)}


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Kills its process at an event of the run, an iteration's beginning or end, in a validation or beside a save."""

    priority = 'LOWEST'

    def __init__(self, at: int, count: Any = None) -> None:
        self.at, self.count = at, 0

    def _event(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    before_train_iter = after_train_iter = before_save_checkpoint = after_train_epoch = _event
    before_val_epoch = after_val_iter = after_val_epoch = _event

    def after_run(self, runner: Any) -> None:
        """Say how many there are, and what was learnt on the way."""
        print(f'events: {self.count}')


def drawing(work_dir: Path, *, epochs: bool, workers: int, **more: Any) -> Config:
    cfg = toy_config(
        work_dir,
        epochs=epochs,
        workers=workers,
        **with_validation(interval=2 if epochs else 6),
    )
    cfg.model = dict(type='DrawingModel')
    cfg.train_dataloader.dataset = dict(type='DrawnData')
    cfg.val_dataloader.dataset = dict(type='DrawnData', training=False)
    cfg.val_evaluator = dict(type='DrawnScore')
    cfg.train_cfg.update(dict(max_epochs=4) if epochs else dict(max_iters=13))
    cfg.default_hooks.checkpoint.update(interval=3, by_epoch=False, save_best='score', rule='greater')
    cfg.pop('randomness')  # the seed is drawn, and has to come from the checkpoint
    cfg.merge_from_dict(more)
    return cfg


def train(cfg: Config, options: RunOptions, kill_at: int) -> None:
    """In a child: train, and die at an event."""
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='KillHook', at=kill_at)]
    build_runner(apply_options(cfg, options)).train()


@dataclass
class Case:
    """A kind of run; ``make`` makes its config for a work dir and a number of workers."""

    make: Any
    options: dict[str, Any] = field(default_factory=dict)
    workers: tuple[int, ...] = (0,)

    def run(self, folder: Path, work_dir: Path, number: int, kill_at: int = 0, **options: Any) -> Child:
        cfg = self.make(work_dir, self.workers[number % len(self.workers)])
        child = Child(folder, train, cfg, RunOptions(work_dir=str(work_dir), **self.options, **options), kill_at)
        child.end()
        try:
            os.killpg(child.process.pid, signal.SIGKILL)  # workers that it has left behind
        except ProcessLookupError:
            pass
        return child


def final_state(work_dir: Path) -> dict:
    """All that a run has learnt, and the losses on the way."""
    note = Path((work_dir / 'last_checkpoint').read_text())
    content = read_checkpoint(work_dir / note.name)
    scalars = content['message_hub']['log_scalars']
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'gradients', 'early_stopping')
    state = {key: content[key] for key in kept if key in content}
    state['meta'] = {key: content['meta'][key] for key in ('iter', 'seed')}
    state['losses'] = {key: scalars[key].data[0] for key in scalars if 'loss' in key and key.startswith('train')}
    state['best_files'] = sorted(path.name for path in work_dir.glob('best_*.pth'))
    return state


def assert_same(one: Any, other: Any, where: str = '') -> None:
    """Bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)):
            assert_same(*pair, f'{where}[{index}]')
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other), where
    elif not callable(one):
        assert one == other, where


def check(case: Case, folder: Path, seed: int) -> None:
    """Kill, resume, perhaps kill again, and compare."""
    chance = random.Random(seed)
    whole = case.run(folder, folder / 'whole', 0, seed=17)
    assert whole.process.exitcode == 0, whole.text()
    events = int(whole.text().rpartition('events: ')[2])
    expected = final_state(folder / 'whole')
    for attempt in range(KILLS):
        work_dir = folder / f'killed_{attempt}'
        killed_at: list[int] = []
        seed_given = dict(seed=17)  # later the checkpoint has it
        while True:
            # once at least, every second run more often
            at = chance.randint(1, events) if not killed_at or chance.random() < 0.5 else 0
            child = case.run(folder, work_dir, len(killed_at), at, resume=True, **seed_given)
            if child.process.exitcode == 0:
                break
            assert child.process.exitcode == -signal.SIGKILL, child.text()
            killed_at.append(at)
            if (work_dir / 'last_checkpoint').exists():
                seed_given = {}
        assert_same(final_state(work_dir), expected, f'killed at {killed_at} of {events} events: ')


def scenes_config(config: str, scenes: Path, work_dir: Path, workers: int, *more: str) -> Config:
    loaders = ('train', 'val') if workers else ()
    arguments = [
        *options(config, scenes, 'model.backbone.drop_path_rate=0.3', *more),
        *(f'{split}_dataloader.num_workers={workers}' for split in loaders),
    ]
    args = load_tool('train').parser().parse_args([config, '--work-dir', str(work_dir), *arguments])
    return load_config(args.config, args.cfg_options)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp('data') / 'scenes', 6, 2, (64, 96), 0)


@pytest.mark.parametrize('config', [SEGMENT, DETECT])
def test_real_runs(tmp_path, scenes, config):
    """Crops, flips and colours in the workers; drop path, sampled boxes and accumulated gradients in the model."""
    counted = (
        ('train_cfg.max_iters=5', 'train_cfg.val_interval=3', 'default_hooks.checkpoint.interval=1')
        if config == SEGMENT
        else ('train_dataloader.dataset.indices=5', 'default_hooks.checkpoint.by_epoch=False')
    )
    case = Case(
        lambda path, workers: scenes_config(
            config, scenes, path, workers, 'optim_wrapper.accumulative_counts=2', *counted
        ),
        dict(ema=0.3, amp=config == SEGMENT),
        workers=(2, 0),
    )
    check(case, tmp_path, seed=1)


TOY = {
    'iterations': Case(lambda path, workers: drawing(path, epochs=False, workers=workers), workers=(2, 0, 1)),
    'epochs': Case(lambda path, workers: drawing(path, epochs=True, workers=workers), workers=(0, 2)),
    'average, accumulation': Case(
        lambda path, workers: drawing(path, epochs=False, workers=workers), dict(ema=0.2, accumulate=2)
    ),
    'epochs, average, accumulation': Case(
        lambda path, workers: drawing(path, epochs=True, workers=workers), dict(ema=0.2, accumulate=3)
    ),
    'loss scaler': Case(
        lambda path, workers: drawing(
            path, epochs=False, workers=workers,
            optim_wrapper=dict(type='ScaledOptimWrapper', accumulative_counts=3, clip_grad=dict(max_norm=1.0)),
        )
    ),
    'early stopping, other sampler': Case(
        lambda path, workers: drawing(
            path, epochs=True, workers=workers, train_cfg=dict(max_epochs=9, val_interval=1),
            train_dataloader=dict(sampler=dict(type='BackwardsSampler')),
            custom_hooks=[dict(type='EarlyStoppingHook', monitor='score', rule='greater', patience=2, min_delta=0.01)],
        ),
    ),
    'bfloat16': Case(lambda path, workers: drawing(path, epochs=True, workers=workers), dict(amp=True)),
}  # fmt: skip


# what the others have is in these too, one by one, or in the real runs
_FEW = ('iterations', 'epochs, average, accumulation', 'loss scaler', 'early stopping, other sampler')


@pytest.mark.parametrize('name', TOY if SCALE > 1 else _FEW)
def test_toy_runs(tmp_path, name):
    check(TOY[name], tmp_path, seed=len(name))
