"""The run behind ``tools/test.py``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..check.data import require_sound_data
from ..config.reading import load_config
from ..errors import UserError
from ..evaluation.tables import merged, write_json
from ..launched import is_main_process
from .options import apply_options, existing_file
from .runner import build_runner
from .train import options_from

__all__ = ['test']


def test(args: argparse.Namespace) -> dict:
    """Evaluate a config's model on its test data, print the metrics and write them as JSON; return them.

    They go to the work dir, or to the checkpoint's folder where none is given; logs and config go to ``test/`` in it,
    as those of the training run lie there already.

    Raises:
        UserError: a mistake in the config, the data, the checkpoint or an option.
    """
    cfg = apply_options(load_config(args.config, args.cfg_options), options_from(args))
    cfg.load_from = existing_file(args.checkpoint) if args.checkpoint else None
    cfg.resume = False
    folder = _folder(args.work_dir, cfg)
    cfg.work_dir = str(folder / 'test')
    if args.tta:
        _average(cfg)
    if args.show_dir:
        hook = dict(type='densevit.PictureHook', folder=str(Path(args.show_dir).resolve()))
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    report = None
    if args.report:
        from .report import check_folder, write_report  # imports plotly

        report = check_folder(args.report)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='densevit.ReportHook')]
    if not args.skip_data_check and is_main_process(cfg):
        print(*require_sound_data(cfg, ('test',)), sep='\n', flush=True)
    runner = build_runner(cfg)
    if not args.checkpoint:
        runner.logger.warning('no checkpoint was given: a dry run, with random weights.')
    metrics = runner.test()
    if runner.report and runner.report.kept:
        runner.logger.warning(
            f'{len(runner.report.kept)} tensors are random, the checkpoint lacks them: {runner.report}'
        )
    per_class = merged(runner.test_evaluator.metrics, 'per_class')
    out = Path(args.out or folder / ('metrics_tta.json' if args.tta else 'metrics.json')).resolve()
    if is_main_process(cfg):
        write_json(out, {**metrics, 'per_class': per_class})
        if report:
            write_report(runner, metrics, report, args.cfg_options)
    if not args.checkpoint:
        runner.logger.warning('these are the scores of random weights.')
    if args.show_dir:
        runner.logger.info(f'pictures: {Path(args.show_dir).resolve()}')
    runner.logger.info(f'metrics: {out}')
    return metrics


def _folder(work_dir: str | None, cfg: Config) -> Path:
    """Where the metrics go: what was asked for, beside the checkpoint, or the config's work dir."""
    if work_dir is None and cfg.load_from and os.access(Path(cfg.load_from).parent, os.W_OK):
        return Path(cfg.load_from).parent
    return Path(cfg.work_dir)


def _average(cfg: Config) -> None:
    """Test-time augmentation, as the config's ``tta_model`` and ``tta_pipeline`` say."""
    if not cfg.get('tta_model') or not cfg.get('tta_pipeline'):
        raise UserError('--tta needs tta_model and tta_pipeline in the config, see configs/_base_/datasets.')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
