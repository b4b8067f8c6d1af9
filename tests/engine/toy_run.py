"""A training run of a linear layer, for what happens to runs; and processes to do things to it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

from densevit.engine.runner import Runner

# A large number of kills and the like is for a measurement, not for every change.
SCALE = int(os.environ.get('DENSEVIT_TEST_SCALE', '1'))
# Forked processes need not import all this again; where there is a GPU, its driver does not survive a fork.
CONTEXT = multiprocessing.get_context('forkserver' if torch.cuda.is_available() else 'fork')


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """With ``weight`` MB of weights that are not trained, so that writing takes a while."""

    def __init__(self, weight: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer('ballast', torch.zeros(weight * 2**18))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        inputs = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        if mode == 'predict':
            return list(self.layer(inputs))
        return {'loss': (self.layer(inputs) - inputs.sum(1, keepdim=True)).square().mean()}


@DATASETS.register_module(force=True)
class ToyData:
    """``length`` points; each takes ``seconds`` to load."""

    metainfo: dict = {}

    def __init__(self, length: int = 24, seconds: float = 0.0) -> None:
        self.length, self.seconds = length, seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        time.sleep(self.seconds)
        return dict(inputs=torch.tensor([index / self.length, 1.0]))


@METRICS.register_module(force=True)
class ToyScore(BaseMetric):
    """The scores that ``scores`` lists, one validation after the other, and then what rises with time."""

    def __init__(self, scores: tuple[float, ...] = ()) -> None:
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        score = self.scores.pop(0) if self.scores else time.time()
        return {'score': score, 'toy/error': 1 / score}


class ToyConfig(Config):
    """One that is not printed into every checkpoint, which takes longer than writing it."""

    pretty_text = ''


def toy_config(work_dir: Path, *, epochs: bool = False, seconds: float = 0.0, workers: int = 0, **more: Any) -> Config:
    """A run of 12 iterations, or 3 epochs of 4, with a checkpoint at every second (every epoch's end).

    Args:
        work_dir: of the run.
        epochs: count in epochs.
        seconds: that a sample takes; three make a batch.
        workers: of the loaders.
        more: parts of the config, which are merged.
    """
    loader = dict(batch_size=3, num_workers=workers, dataset=dict(type='ToyData', length=12, seconds=seconds))
    if workers:
        loader['persistent_workers'] = True
    cfg = ToyConfig(
        dict(
            model=dict(type='ToyModel'),
            work_dir=str(work_dir),
            train_cfg=dict(by_epoch=True, max_epochs=3) if epochs else dict(by_epoch=False, max_iters=12),
            train_dataloader=dict(loader, sampler=dict(type='DefaultSampler' if epochs else 'InfiniteSampler')),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
            param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=9)],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=epochs, interval=1 if epochs else 2, max_keep_ckpts=1),
                logger=dict(type='LoggerHook', interval=1),
            ),
            log_processor=dict(by_epoch=epochs),
            randomness=dict(seed=3),
            env_cfg=dict(mp_cfg=dict(mp_start_method='fork')),
        )
    )
    cfg.merge_from_dict(more)
    return cfg


def with_validation(scores: tuple[float, ...] = (), interval: int = 4, seconds: float = 0.0) -> dict:
    """Parts for ``more`` of :func:`toy_config`."""
    return dict(
        val_cfg=dict(type='densevit.ValLoop'),
        val_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='ToyData', length=4, seconds=seconds),
        ),
        val_evaluator=dict(type='ToyScore', scores=scores),
        train_cfg=dict(val_interval=interval),
    )


class ToyRunner(Runner):
    """One that does not look through the machine's compilers and drivers, which takes longer than all else here."""

    def _log_env(self, env_cfg: dict) -> None:
        pass


def toy_runner(work_dir: Path, *, resume: str | None = None, **options: Any) -> Runner:
    """The runner of :func:`toy_config`, which goes on from a checkpoint."""
    cfg = toy_config(work_dir, **options)
    if resume:
        cfg.resume, cfg.load_from = True, resume
    cfg.experiment_name = f'{Path(work_dir).name}_{time.monotonic_ns()}'
    return ToyRunner.from_cfg(cfg)


class Child:
    """A process that runs ``function``, with what it prints in a file.

    Args:
        folder: for the file.
        function: what it runs; its result is the exit status.
        args: of ``function``.
    """

    def __init__(self, folder: Path, function: Callable[..., int | None], *args: Any) -> None:
        self.said = folder / f'said_{time.monotonic_ns()}.txt'
        self.process = CONTEXT.Process(target=_run, args=(self.said, function, *args))
        self.process.start()

    def wait_for(self, *words: str) -> str:
        """Wait until it has said all these."""
        while not all(word in self.text() for word in words):
            assert self.process.is_alive(), self.text()
            time.sleep(0.005)
        return self.text()

    def text(self) -> str:
        """What it has said so far."""
        return self.said.read_text() if self.said.exists() else ''

    def send(self, number: int) -> None:
        """Send a signal to the process group that it leads, as terminals and schedulers do."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end and return the exit status."""
        self.process.join()
        return self.process.exitcode

    def kill(self) -> None:
        """End it and its data workers by SIGKILL, if it is still there."""
        if self.process.is_alive():
            self.send(signal.SIGKILL)
        self.process.join()


def _run(said: Path, function: Callable[..., int | None], *args: Any) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: does not outlive a test that is ended
    os.setpgid(0, 0)
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    # of a forked pytest, they write elsewhere
    sys.stdout, sys.stderr = (open(stream, 'w', buffering=1, closefd=False) for stream in (1, 2))  # noqa: SIM115
    torch.set_num_threads(1)
    status = function(*args)
    sys.stdout.flush()
    sys.exit(status or 0)
