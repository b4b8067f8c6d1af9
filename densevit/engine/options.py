"""What the command line asks of a run, written into its config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import find_latest_checkpoint

from ..errors import UserError

__all__ = ['RunOptions', 'apply_options', 'batch_line', 'effective_batch', 'existing_file']

# Numbers of a parameter scheduler that count iterations where it is not by epoch.
_ITERATION_KEYS = ('begin', 'end', 'T_max', 'total_steps', 'step_size', 'milestones', 'periods')
# By launcher: an environment variable that it sets, and the command.
_STARTED_BY = {
    'pytorch': ('LOCAL_RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
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
    accumulate: int = 1
    ema: float | None = None
    auto_scale_lr: bool = False
    load_from: str | None = None
    resume: str | bool = False
    tensorboard: bool = False
    wandb: bool = False


def apply_options(cfg: Config, options: RunOptions) -> Config:
    """Change ``cfg`` in place to what ``options`` ask for, and to what this machine can run; return it.

    Raises:
        UserError: an option that cannot be met.
    """
    name = Path(cfg.filename).stem if cfg.filename else 'run'
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / name)
    cfg.launcher = options.launcher
    _distribute(cfg)
    randomness = dict(cfg.get('randomness') or {})
    if options.seed is not None:
        randomness['seed'] = options.seed
    if options.deterministic:
        randomness['deterministic'] = True
        # cuBLAS asks for it before its first use: docs.nvidia.com/cuda/cublas, "Results reproducibility"
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    cfg.randomness = randomness
    cfg.load_from = existing_file(options.load_from) if options.load_from else cfg.get('load_from')
    if options.resume:
        # A run that is started again and again by a scheduler says so from the beginning: nothing there, a new start.
        newest = _newest_checkpoint(cfg.work_dir) if options.resume is True else existing_file(options.resume)
        cfg.resume = newest is not None
        cfg.load_from = newest or cfg.load_from
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


def existing_file(path: str) -> str:
    """``path`` with ``~`` replaced.

    Raises:
        UserError: no such file.
    """
    if not Path(path).expanduser().is_file():
        raise UserError(f'checkpoint {path!r} does not exist.')
    return str(Path(path).expanduser())


def _newest_checkpoint(work_dir: str) -> str | None:
    """The one that a run left last; mmengine notes its path, which is wrong in a folder that has been moved."""
    if not Path(work_dir).is_dir():
        return None
    noted = find_latest_checkpoint(work_dir)
    places = [Path(noted), Path(work_dir, Path(noted).name)] if noted else []
    return next((str(place) for place in places if place.is_file()), None)


def _distribute(cfg: Config) -> None:
    """NCCL and SyncBN where there are GPUs, gloo and plain BN where there are none."""
    if cfg.launcher == 'none':
        return
    variable, start = _STARTED_BY[cfg.launcher]
    if variable not in os.environ:
        raise UserError(f'--launcher {cfg.launcher} is for processes that {start} has started, and this one was not.')
    if cfg.launcher != 'pytorch' and not torch.cuda.is_available():
        raise UserError(f'--launcher {cfg.launcher} needs a GPU; on CPUs use torchrun and --launcher pytorch.')
    env = cfg.setdefault('env_cfg', ConfigDict())
    if torch.cuda.is_available():
        env.setdefault('dist_cfg', ConfigDict(backend='nccl'))
        cfg.setdefault('sync_bn', 'torch')
    else:
        env.dist_cfg = ConfigDict(backend='gloo')
        # mmengine names a GPU for every process otherwise
        cfg.model_wrapper_cfg = ConfigDict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='densevit.SameBuffersHook')]


def _change_training(cfg: Config, options: RunOptions) -> None:
    """Precision, accumulation, averaging and learning rate."""
    if options.amp:
        if cfg.optim_wrapper.type not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp cannot change optim_wrapper.type={cfg.optim_wrapper.type!r}.')
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
        hook = dict(
            type='EMAHook',
            ema_type='MomentumAnnealingEMA',  # begins with a short memory, so it forgets the random weights
            momentum=options.ema,
            update_buffers=True,
            interval=options.accumulate,  # once per update
        )
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    if options.auto_scale_lr:
        recipe = _recipe_batch(cfg)
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


def effective_batch(cfg: Config) -> int:
    """Images per weight update: batch size x processes x accumulated batches."""
    # mmengine sets WORLD_SIZE where the launcher does not, but only when it starts
    names = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE') if cfg.get('launcher', 'none') != 'none' else ()
    processes = next((int(os.environ[name]) for name in names if name in os.environ), 1)
    return cfg.train_dataloader.batch_size * processes * cfg.optim_wrapper.get('accumulative_counts', 1)


def _recipe_batch(cfg: Config) -> int | None:
    return (cfg.get('auto_scale_lr') or {}).get('base_batch_size')


def batch_line(cfg: Config, scaled: bool) -> str:
    """One line that holds this run's batch and learning rate against the recipe's."""
    batch, recipe = effective_batch(cfg), _recipe_batch(cfg)
    rate = cfg.optim_wrapper.optimizer.lr
    line = f'batch: {batch} images per update at learning rate {rate:.3g}'
    if recipe is None:
        return f'{line}; the config names no batch size of its recipe.'
    if batch == recipe or scaled:
        return f"{line}; the recipe's batch is {recipe}{', the rate is scaled to it' if scaled else ''}."
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    advice = f'--accumulate {recipe * accumulated // batch}, or ' if recipe * accumulated % batch == 0 else ''
    return (
        f"{line}; the recipe's batch is {recipe}, so the result will not be the recipe's: use {advice}--auto-scale-lr."
    )
