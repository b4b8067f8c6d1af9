"""Fixtures for what depends on the order of imports, which takes a process of its own each time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fresh import run_forked, run_fresh


@pytest.fixture(scope='session')
def fresh_python() -> Callable[..., str]:
    """Run code in a fresh interpreter with this densevit; returns the last line that it prints."""
    return lambda *args, **kwargs: run_fresh(*args, **kwargs).rpartition('\n')[2]


@pytest.fixture(scope='session')
def new_process() -> Callable[..., str]:
    """The same where torch and torchvision may be there already, in a fifth of the time."""
    return lambda *args, **kwargs: run_forked(*args, **kwargs).rpartition('\n')[2]


@pytest.fixture(scope='session')
def uncompiled_mmcv() -> None:
    """Skip where mmcv has compiled operators: densevit's stay out there."""
    pytest.importorskip('mmcv')
    from densevit.compat import ops_state

    if ops_state().source == 'compiled':
        pytest.skip('mmcv is compiled here, so densevit leaves it alone')
