"""Train a shipped config and score it, as a user would with the two tools, and hold the result against a target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ..config.reading import configs_dir
from ..errors import UserError

__all__ = ['Result', 'Task', 'best_checkpoint', 'reproduce']


@dataclass(frozen=True)
class Task:
    """A config and what it should reach.

    Attributes:
        config: name of a shipped config.
        targets: least value of each metric in metrics.json, in the metric's own unit (mIoU in percent, AP in 0 to 1).
    """

    config: str
    targets: dict[str, float]


@dataclass(frozen=True)
class Result:
    """What a task reached.

    Attributes:
        metrics: value of each metric that has a target.
        minutes: wall time of the training, validations and checkpoints included.
    """

    task: Task
    metrics: dict[str, float]
    minutes: float

    @property
    def reached(self) -> bool:
        """Whether every target is met."""
        return all(self.metrics[name] >= least for name, least in self.task.targets.items())

    def __str__(self) -> str:
        values = ', '.join(
            f'{name} {self.metrics[name]:.3f} ({"reached" if self.metrics[name] >= least else "MISSED"} {least})'
            for name, least in self.task.targets.items()
        )
        return f'{self.task.config}: {values}, trained in {self.minutes:.1f} minutes'


def reproduce(task: Task, work_dir: Path, data_root: Path | None = None, show_dir: Path | None = None) -> Result:
    """Run ``tools/train.py`` and ``tools/test.py`` on a config, each in a process of its own.

    Args:
        task: what to run.
        work_dir: where logs, checkpoints and metrics.json go.
        data_root: the folder that holds the data sets; by default what DENSEVIT_DATA says.
        show_dir: where pictures of the predictions beside the truth go; none by default.

    Raises:
        UserError: a tool failed; its own message stands above.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    for old in work_dir.glob('best_*.pth'):  # of an earlier run: it could be mistaken for this one's
        old.unlink()
    begin = time.monotonic()
    _run('train.py', data_root, task.config, '--work-dir', str(work_dir))
    minutes = (time.monotonic() - begin) / 60
    show = [] if show_dir is None else ['--show-dir', str(show_dir)]
    _run('test.py', data_root, task.config, str(best_checkpoint(work_dir)), '--work-dir', str(work_dir), *show)
    metrics = json.loads((work_dir / 'metrics.json').read_text())
    return Result(task, {name: metrics[name] for name in task.targets}, minutes)


def best_checkpoint(work_dir: Path) -> Path:
    """The best checkpoint that a run kept.

    Raises:
        UserError: there is none.
    """
    found = sorted(work_dir.glob('best_*.pth'))
    if not found:
        raise UserError(f'{str(work_dir)!r} holds no best checkpoint; train first.')
    return found[-1]


def _run(tool: str, data_root: Path | None, *arguments: str) -> None:
    print(f'\n== python tools/{tool} {" ".join(arguments)}', flush=True)
    environment = {**os.environ, **({} if data_root is None else {'DENSEVIT_DATA': str(data_root)})}
    path = configs_dir().parent / 'tools' / tool
    if subprocess.run([sys.executable, str(path), *arguments], env=environment).returncode:
        raise UserError(f'tools/{tool} {arguments[0]} failed; what is wrong stands above.')
