"""What the command line asks of a run, written into its config."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.config import Config, ConfigDict

from ..checkpoints import CheckpointError, read_checkpoint
from ..checkpoints.download import is_url, local_file
from ..errors import UserError

__all__ = ['RunOptions', 'apply_options', 'batch_line', 'check_batch', 'effective_batch', 'existing_file']

# Numbers of a parameter scheduler that count iterations where it is not by epoch.
_ITERATION_KEYS = ('begin', 'end', 'T_max', 'total_steps', 'step_size', 'milestones', 'periods')
# By launcher: an environment variable that it sets, and the command.
_STARTED_BY = {
    'pytorch': ('LOCAL_RANK', 'torchrun'),
    'slurm': ('SLURM_PROCID', 'srun'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'mpirun'),
}
# Names of the checkpoints that a run leaves as it goes.
_SAVED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')
# Numbers of a parameter scheduler that are learning rates.
_RATE_KEYS = ('eta_max', 'eta_min')
# Whole numbers that are calculated with here, or that torch would complain about in its own words.
_COUNTS = (
    *(f'train_cfg.{key}' for key in ('max_iters', 'max_epochs', 'val_interval')),
    *(f'{split}_dataloader.batch_size' for split in ('train', 'val', 'test')),
    'optim_wrapper.accumulative_counts',
    'auto_scale_lr.base_batch_size',
)


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
    new_classes: bool = False
    resume: str | bool = False
    tensorboard: bool = False
    wandb: bool = False


def apply_options(cfg: Config, options: RunOptions) -> Config:
    """Change ``cfg`` in place to what ``options`` ask for, and to what this machine can run; return it.

    Raises:
        UserError: an option that cannot be met.
    """
    _check_numbers(cfg)
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
    if options.new_classes and not cfg.load_from:
        raise UserError('--new-classes needs --load-from: the checkpoint to start from.')
    cfg.new_classes = options.new_classes
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


def existing_file(source: str) -> str:
    """A path with ``~`` replaced, or a URL, which is fetched now rather than when all else is ready.

    Raises:
        UserError: there is no such file.
    """
    file = local_file(source)
    return source if is_url(source) else str(file)


def _newest_checkpoint(work_dir: str) -> str | None:
    """The one that a run left last, or the newest before it that is whole; None where no run has left any.

    mmengine notes its path, which is wrong in a folder that has been moved, and removes an old checkpoint before it
    writes the new one, so that a run that is stopped meanwhile can leave a note without a file.

    Raises:
        UserError: a run was there, and none of its checkpoints can be read, or one would have to run code.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    if note.is_file():
        noted = Path(note.read_text().strip())
        for place in (noted, folder / noted.name):
            if place.is_file():
                return str(place)
    saved = [(int(match[1]), path) for path in folder.glob('*.pth') if (match := _SAVED.fullmatch(path.name))]
    for _, path in sorted(saved, reverse=True):
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            if isinstance(error.__cause__, UnpicklingError):  # whole, but refused
                raise
            continue
        return str(path)
    if saved or note.is_file():
        raise UserError(
            f'--resume: no checkpoint of the run in {work_dir!r} can be read; leave --resume out to start anew, '
            'or name another checkpoint behind it.'
        )
    return None


def _check_numbers(cfg: Config) -> None:
    for key in _COUNTS:
        part, name = key.split('.')
        value = (cfg.get(part) or {}).get(name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f'{key}={value!r}: give a whole number, at least 1.')
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    if rate is not None and not isinstance(rate, (int, float)):
        raise UserError(f'optim_wrapper.optimizer.lr={rate!r}: give a number.')


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
    return cfg.train_dataloader.batch_size * _processes(cfg) * cfg.optim_wrapper.get('accumulative_counts', 1)


def _processes(cfg: Config) -> int:
    # mmengine sets WORLD_SIZE where the launcher does not, but only when it starts
    names = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE') if cfg.get('launcher', 'none') != 'none' else ()
    return next((int(os.environ[name]) for name in names if name in os.environ), 1)


def check_batch(cfg: Config) -> None:
    """Look for a pyramid pooling that would normalize over a single value.

    Pooled to one pixel, one image has one value per channel, of which BatchNorm in training has no variance.

    Raises:
        UserError: one image per process, and BatchNorm that is not synchronized.
    """
    if cfg.train_dataloader.get('batch_size') != 1:
        return
    synchronized = ('SyncBN', *(['BN', 'BN2d'] if cfg.get('sync_bn') else ())) if _processes(cfg) > 1 else ()
    for key in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(key) or ()
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            norm = (head.get('norm_cfg') or {}).get('type')
            kind = str(head.get('type')).rpartition('.')[2]
            pyramid = kind in ('UPerHead', 'PSPHead') and 1 in head.get('pool_scales', (1, 2, 3, 6))
            if pyramid and norm in ('BN', 'BN2d', 'SyncBN') and norm not in synchronized:
                raise UserError(
                    f'train_dataloader.batch_size=1: {kind} pools to one pixel and normalizes over the batch, which '
                    'takes two images: use batch_size=2, where --accumulate keeps the images per update, or '
                    f"norm_cfg=dict(type='GN', num_groups=32) in model.{key}."
                )


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
