"""The run behind ``tools/train.py``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..check.batch import batch_line
from ..config.reading import read_config
from .check import check_before_start
from .disk import naming_the_disk
from .options import RunOptions
from .runner import build_runner
from .signals import StopSignals
from .stop_hook import StopHook

__all__ = ['options_from', 'train']


def options_from(args: argparse.Namespace) -> RunOptions:
    """The run's options among the parsed arguments; those that a tool does not have keep their defaults."""
    names = {field.name for field in dataclasses.fields(RunOptions)}
    return RunOptions(**{name: value for name, value in vars(args).items() if name in names})


def train(args: argparse.Namespace) -> Path:
    """Train a config and return the work dir.

    SIGTERM, SIGINT and SIGUSR1 end it, see :class:`densevit.engine.stop_hook.StopHook`.

    Raises:
        UserError: a mistake in the config, the data, a checkpoint or an option, or a disk that is full.
        Stopped: a signal has ended it.
    """
    with StopSignals() as signals:
        return _train(args, signals)


def _train(args: argparse.Namespace, signals: StopSignals) -> Path:
    splits = () if args.skip_data_check else ('train', 'val')
    cfg, report = check_before_start(read_config(args.config, args.cfg_options), options_from(args), splits)
    if report.datasets:
        print(*report.datasets, sep='\n')
    with naming_the_disk(cfg.work_dir):
        runner = build_runner(cfg)
    runner.logger.info(batch_line(cfg, args.auto_scale_lr))
    of_data = [found for dataset in report.datasets for found in dataset.findings]  # printed already
    for found in report.findings:
        if found.kind == 'random-weights':
            runner.logger.info(found.message)
        elif found.level == 'warning' and found.kind != 'batch-and-rate' and found not in of_data:
            runner.logger.warning(f'{found.place}: {found.message}')
    if args.resume:
        found = f'going on from {cfg.load_from}' if cfg.resume else f'no checkpoint in {cfg.work_dir}, a new start'
        runner.logger.info(f'--resume: {found}')
        for reason in cfg.get('skipped_checkpoints', ()):
            runner.logger.warning(f'--resume: skipped {reason}')
    runner.register_hook(StopHook(signals))
    with naming_the_disk(cfg.work_dir):
        runner.train()
    work_dir = Path(cfg.work_dir).resolve()
    runner.logger.info(f'results: {work_dir}')
    return work_dir
