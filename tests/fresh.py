"""A fresh interpreter: for what depends on which modules are imported, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]

# Refuses modules as if they were not installed.
_BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

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
    block = _BLOCK.format(names=set(absent)) if absent else ''
    search = (path, ROOT, os.environ.get('PYTHONPATH'))
    done = subprocess.run(
        [sys.executable, *(options or ('-W', 'ignore')), '-c', block + dedent(code)],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, filter(None, search))), 'OMP_NUM_THREADS': '1'},
        cwd=folder or ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
