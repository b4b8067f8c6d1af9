"""Fixtures for what depends on the order of imports, which takes a fresh interpreter each time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='session')
def fresh_python() -> Callable[..., str]:
    """Run code in a fresh interpreter with this densevit; returns the last line that it prints."""

    def run(code: str, *options: str, path: Path | None = None) -> str:
        environment = os.environ | {
            'PYTHONPATH': os.pathsep.join(map(str, filter(None, (path, ROOT, os.environ.get('PYTHONPATH'))))),
            'OMP_NUM_THREADS': '1',
        }
        done = subprocess.run(
            [sys.executable, *options, '-c', dedent(code)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip().rpartition('\n')[2]

    return run


@pytest.fixture(scope='session')
def uncompiled_mmcv() -> None:
    """Skip where mmcv has compiled operators: densevit's stay out there."""
    pytest.importorskip('mmcv')
    from densevit.compat import ops_state

    if ops_state().source == 'compiled':
        pytest.skip('mmcv is compiled here, so densevit leaves it alone')
