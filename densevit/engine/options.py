"""What the command line asks of a run, written into its config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..check.batch import effective_batch, recipe_batch
from ..check.finding import raise_errors
from ..check.recipe import numbers
from ..checkpoints.download import is_url, local_file
from ..checkpoints.newest import Newest, newest_checkpoint
from ..data.broken import BrokenSamples
from ..errors import UserError
from .distributed import distribute

__all__ = ['RunOptions', 'apply_options', 'existing_file']

# Numbers of a parameter scheduler that count iterations where it is not by epoch.
_ITERATION_KEYS = ('begin', 'end', 'T_max', 'total_steps', 'step_size', 'milestones', 'periods')
# Numbers of a parameter scheduler that are learning rates.
_RATE_KEYS = ('eta_max', 'eta_min')


@dataclass(frozen=True)
class RunOptions:
    """Options of ``tools/train.py`` and ``tools/test.py``; see their ``--help``."""

    work_dir: str | None = None
    launcher: str = 'none'
    seed: int | None = None
    deterministic: bool = False
    amp: bool = False
    fsdp: bool = False
    accumulate: int = 1
    ema: float | None = None
    auto_scale_lr: bool = False
    load_from: str | None = None
    new_classes: bool = False
    resume: str | bool = False
    skip_broken: float | None = None
    tensorboard: bool = False
    wandb: bool = False


def apply_options(cfg: Config, options: RunOptions) -> Config:
    """Change ``cfg`` in place to what ``options`` ask for, and to what this machine can run; return it.

    Raises:
        UserError: an option that cannot be met.
    """
    raise_errors(numbers(cfg))
    name = Path(cfg.filename).stem if cfg.filename else 'run'
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / name)
    cfg.launcher = options.launcher
    distribute(cfg, fsdp=options.fsdp, amp=options.amp)
    randomness = {'seed': None, **(cfg.get('randomness') or {})}  # None: one is drawn, and a resumed run keeps it
    if options.seed is not None:
        randomness['seed'] = options.seed
    if options.deterministic:
        randomness['deterministic'] = True
        # cuBLAS asks for it before its first use: docs.nvidia.com/cuda/cublas, "Results reproducibility"
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = randomness
    cfg.load_from = existing_file(options.load_from) if options.load_from else cfg.get('load_from')
    if options.skip_broken is not None:
        cfg.broken_samples = dict(policy='skip', limit=options.skip_broken / 100)
    BrokenSamples.of(cfg.get('broken_samples', 'stop'))  # a mistake in it is found now
    if options.new_classes and not cfg.load_from:
        raise UserError('--new-classes needs --load-from: the checkpoint to start from.')
    cfg.new_classes = options.new_classes
    if options.resume:
        # A run that is started again and again by a scheduler says so from the beginning: nothing there, a new start.
        found = newest_checkpoint(cfg.work_dir) if options.resume is True else Newest(existing_file(options.resume))
        cfg.resume, cfg.skipped_checkpoints = found.path is not None, list(found.skipped)
        cfg.load_from = found.path or cfg.load_from
    for flag, backend, package in (
        (options.tensorboard, 'TensorboardVisBackend', 'tensorboard'),
        (options.wandb, 'WandbVisBackend', 'wandb'),
    ):
        if flag:
            if find_spec(package) is None:
                raise UserError(f'--{package} needs the package {package!r}: `pip install {package}`.')
            visualizer = cfg.setdefault('visualizer', ConfigDict(type='Visualizer'))
            visualizer.vis_backends = [*(visualizer.get('vis_backends') or []), dict(type=backend)]
    if cfg.get('optim_wrapper'):
        _change_training(cfg, options)
    return cfg


def existing_file(source: str) -> str:
    """A path with ``~`` replaced, or a URL, which is fetched now rather than when all else is ready.

    Raises:
        UserError: there is no such file.
    """
    file = local_file(source)
    return source if is_url(source) else str(file)


def _change_training(cfg: Config, options: RunOptions) -> None:
    """Precision, accumulation, averaging and learning rate."""
    if options.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp cannot change optim_wrapper.type={kind!r}.')
        for key in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(key, None)
        cfg.optim_wrapper.type = 'densevit.BF16OptimWrapper'
    if options.accumulate < 1:
        raise UserError(f'--accumulate {options.accumulate}: give a number of batches, at least 1.')
    if options.accumulate > 1:
        cfg.optim_wrapper.accumulative_counts = options.accumulate
        _stretch(cfg, options.accumulate)
    if options.ema is not None:
        if not 0 < options.ema < 1:
            raise UserError(f'--ema {options.ema}: give the momentum of the average, between 0 and 1, e.g. 0.0005.')
        if options.fsdp:
            raise UserError('--ema keeps a whole copy of the weights, which --fsdp divides: leave one of them out.')
        hook = dict(
            type='EMAHook',
            ema_type='MomentumAnnealingEMA',  # begins with a short memory, so it forgets the random weights
            momentum=options.ema,
            update_buffers=True,
            interval=options.accumulate,  # once per update
        )
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    if options.auto_scale_lr:
        recipe = recipe_batch(cfg)
        if recipe is None:
            raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config.')
        _scale_rates(cfg, effective_batch(cfg) / recipe)
    # done above, with accumulation counted and the schedulers' own rates scaled, which mmengine leaves alone
    if cfg.get('auto_scale_lr'):
        cfg.auto_scale_lr.enable = False


def _stretch(cfg: Config, factor: int) -> None:
    """Make an iteration-based schedule ``factor`` times longer: as many updates and images as the recipe's."""
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if not scheduler.get('by_epoch', True):
            for key in _ITERATION_KEYS:
                if key in scheduler:
                    value = scheduler[key]
                    scheduler[key] = (
                        [each * factor for each in value] if isinstance(value, (list, tuple)) else value * factor
                    )
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.max_iters *= factor
        cfg.train_cfg.val_interval = cfg.train_cfg.get('val_interval', 1000) * factor
        checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
        if checkpoint and not checkpoint.get('by_epoch', True) and checkpoint.get('interval', -1) > 0:
            checkpoint.interval *= factor


def _scale_rates(cfg: Config, factor: float) -> None:
    """Multiply the learning rate, of optimizer and schedulers, by ``factor`` (the linear scaling rule)."""
    cfg.optim_wrapper.optimizer.lr *= factor
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in _RATE_KEYS:
            if key in scheduler:
                scheduler[key] *= factor
