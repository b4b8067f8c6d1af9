"""The run behind ``tools/train.py``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.check import check_datasets
from .config import load_config
from .options import RunOptions, apply_options, batch_line, check_batch
from .runner import build_runner, is_main_process

__all__ = ['options_from', 'train']


def options_from(args: argparse.Namespace) -> RunOptions:
    """The run's options among the parsed arguments; those that a tool does not have keep their defaults."""
    names = {field.name for field in dataclasses.fields(RunOptions)}
    return RunOptions(**{name: value for name, value in vars(args).items() if name in names})


def train(args: argparse.Namespace) -> Path:
    """Train a config and return the work dir.

    Raises:
        UserError: a mistake in the config, the data, a checkpoint or an option.
    """
    cfg = apply_options(load_config(args.config, args.cfg_options), options_from(args))
    check_batch(cfg)
    if not args.skip_data_check and is_main_process(cfg):
        print(check_datasets(cfg, ('train', 'val')))
    runner = build_runner(cfg)
    runner.logger.info(batch_line(cfg, args.auto_scale_lr))
    if not cfg.load_from and not _names_checkpoint(cfg.model):
        # a backbone that keeps the statistics of its BatchNorm needs those of a trained one
        say = runner.logger.warning if cfg.model.get('backbone', {}).get('norm_eval') else runner.logger.info
        say('all weights start random: there is no --load-from, and no init_cfg names a checkpoint (docs/weights.md).')
    if args.resume:
        found = f'going on from {cfg.load_from}' if cfg.resume else f'no checkpoint in {cfg.work_dir}, a new start'
        runner.logger.info(f'--resume: {found}')
    runner.train()
    work_dir = Path(cfg.work_dir).resolve()
    runner.logger.info(f'results: {work_dir}')
    return work_dir


def _names_checkpoint(cfg: Any) -> bool:
    """Whether some part of a model's config is initialized from a checkpoint, or in mm's old way ``pretrained``."""
    if isinstance(cfg, Mapping):
        return bool(cfg.get('pretrained') or cfg.get('checkpoint')) or any(map(_names_checkpoint, cfg.values()))
    return isinstance(cfg, list | tuple) and any(map(_names_checkpoint, cfg))
