"""A fresh interpreter: for what depends on which modules are imported, and in which order."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
_LIMIT = 300  # seconds

# Refuses modules as if they were not installed.
_BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

assert not {names} & sys.modules.keys()
sys.meta_path.insert(0, Absent())
"""


def run_fresh(
    code: str, *options: str, absent: tuple[str, ...] = (), path: Path | None = None, folder: Path | None = None
) -> str:
    """Run code in a fresh interpreter that finds this densevit; returns what it prints.

    Args:
        code: what to run; its indentation is taken off.
        options: of the interpreter, before the code.
        absent: top-level modules that cannot be imported.
        path: a folder that is searched for modules first.
        folder: where to run; the clone by default.
    """
    done = subprocess.run(
        [sys.executable, *(options or ('-W', 'ignore')), '-c', _blocking(absent) + dedent(code)],
        env=_environment([path, ROOT]),
        cwd=folder or ROOT,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def run_forked(
    code: str,
    *,
    absent: tuple[str, ...] = (),
    path: Path | None = None,
    folder: Path | None = None,
    package: Path = ROOT,
) -> str:
    """Run code in a fork of a process that has imported torch, timm and the like, and no mm package nor densevit.

    That is :func:`run_fresh` for the order of these, in a fifth of the time.

    Args:
        code: what to run; its indentation is taken off.
        absent: top-level modules that cannot be imported.
        path: a folder that is searched for modules first.
        folder: where to run; the clone by default.
        package: the folder in which densevit is.
    """
    with tempfile.TemporaryDirectory() as here:
        said = [Path(here, name) for name in ('out', 'err')]
        request = dict(
            code=_blocking(absent) + dedent(code),
            path=[str(each) for each in (path, package) if each],
            folder=str(folder or ROOT),
            environment=_environment([path, package]),
            said=[str(file) for file in said],
            limit=_LIMIT,
        )
        template = _template()
        template.stdin.write(json.dumps(request) + '\n')
        template.stdin.flush()
        ended = template.stdout.readline().strip()
        out, err = (file.read_text() if file.exists() else '' for file in said)
    assert ended == '0', f'status {ended}: {out}{err}'
    return out.strip()


def _blocking(absent: tuple[str, ...]) -> str:
    return _BLOCK.format(names=set(absent)) if absent else ''


def _environment(path: list[Path | None]) -> dict[str, str]:
    search = (*path, os.environ.get('PYTHONPATH'))
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, filter(None, search))), 'OMP_NUM_THREADS': '1'}


@functools.cache
def _template() -> subprocess.Popen:
    """The process that is forked; it ends when this one does, with which its standard input is closed."""
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tests/template.py')]
    return subprocess.Popen(
        command, env=_environment([]), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
