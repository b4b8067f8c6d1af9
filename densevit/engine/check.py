"""The run behind ``tools/check.py``, and the quick form of it that every training begins with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from ..check.finding import Finding, raise_errors
from ..check.recipe import numbers
from ..check.report import CheckReport
from ..check.run import check_run
from ..config.mistakes import find_mistakes
from ..config.reading import find_config, read_config
from ..data.broken import BrokenSamples
from ..errors import UserError
from ..evaluation.tables import write_json
from ..launched import is_main_process
from .options import RunOptions, apply_options

__all__ = ['check', 'check_before_start']

_WIDTH = 120  # of what goes to a file or a pipe, in characters
# Findings that a run with broken_samples='skip' can do without the files of.
_OF_SINGLE_FILES = (
    'image-unreadable', 'image-missing', 'label-unreadable', 'label-missing', 'label-out-of-range', 'size-differs',
)  # fmt: skip


def check(args: argparse.Namespace) -> int:
    """Check a config, print what was found, write the JSON file and the page that are asked for; the exit status.

    Returns:
        0 where training may start, 1 where there is an error.

    Raises:
        UserError: a mistake in an option.
    """
    report = _report(args)
    if args.json:
        write_json(args.json, report.to_json())
    page = None
    if args.page:
        from ..pages.check import write_check  # imports plotly

        page = write_check(_page_file(args.page), report)
    console = Console()
    report.print(console if console.is_terminal else Console(width=_WIDTH))
    for name, path in (('json', args.json), ('page', page)):
        if path:
            print(f'{name}: {Path(path).resolve()}')
    return 0 if report.may_start else 1


def _report(args: argparse.Namespace) -> CheckReport:
    file = find_config(args.config)
    try:
        cfg = read_config(file, args.cfg_options)
    except UserError as error:
        if '--cfg-options' in str(error):
            raise
        place, _, message = str(error).partition(': ')
        broken = Finding('error', 'config-does-not-run', place, message or place, (str(file),))
        return CheckReport(str(file), quick=args.quick, findings=[broken])
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / file.stem)
    if args.load_from:
        cfg.load_from, cfg.resume = args.load_from, False
    return check_run(
        cfg,
        list(find_mistakes(cfg)),
        checkpoint=args.checkpoint,
        quick=args.quick,
        workers=args.workers,
        progress=Console(stderr=True).is_terminal,
    )


def check_before_start(cfg: Config, options: RunOptions, splits: Sequence[str]) -> tuple[Config, CheckReport]:
    """Bring the options of a run into its config and check it quickly; return it and what was found, without errors.

    Args:
        cfg: of :func:`densevit.config.reading.read_config`; changed in place.
        options: of the command line.
        splits: whose data sets are looked at.

    Raises:
        UserError: has all errors, a line each.
    """
    mistakes = list(find_mistakes(cfg))
    if not any(found.level == 'error' for found in [*mistakes, *numbers(cfg)]):
        apply_options(cfg, options)
        if not is_main_process(cfg):  # the first says it for all
            return cfg, CheckReport(str(cfg.filename or ''))
    report = check_run(cfg, mistakes, quick=True, splits=splits)
    _tolerate_broken_samples(report, cfg)
    raise_errors(report.findings)
    return cfg, report


def _tolerate_broken_samples(report: CheckReport, cfg: Config) -> None:
    """Turn errors about single training files into warnings where the run leaves such samples out."""
    broken = BrokenSamples.of(cfg.get('broken_samples', 'stop'))
    for dataset in report.datasets:
        if broken.policy != 'skip' or not dataset.path.startswith('train_dataloader'):
            continue
        for found in dataset.findings[:]:
            few = len(found.files) <= broken.limit * dataset.images
            if found.level == 'error' and found.kind in _OF_SINGLE_FILES and few:
                warning = replace(found, level='warning', message=f'{found.message} Such samples are skipped.')
                for findings in (dataset.findings, report.findings):
                    findings[:] = [warning if each == found else each for each in findings]


def _page_file(path: str) -> Path:
    """The page: a file, or ``index.html`` of a folder."""
    return Path(path) if Path(path).suffix in ('.html', '.htm') else Path(path) / 'index.html'
