"""Tools in several processes that know of each other, forked from one that has imported all they need."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore
from yapf.yapflib import yapf_api

import densevit  # noqa: F401  (before mmdet)
from densevit.engine import runner, test, train  # noqa: F401  (imported once, for all)
from tests.tools.conftest import call

_TIMEOUT = 200.0
# A process that has computed gradients cannot be forked to compute more, and pytest's has: so from one of their own.
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['tests.engine.ranks', 'mmseg.datasets', 'mmdet.datasets', 'mmdet.models'])


@dataclass
class Ended:
    """How a process ended, and what it said."""

    status: int
    said: str


def start(processes: int, folder: Path, tool: str, *argv: str | Path) -> list:
    """Start ``tools/TOOL.py`` in so many processes; they write to files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if processes > 1:
        argv = (*argv, '--launcher', 'pytorch')
    return fork(processes, _run_tool, str(folder), tool, [str(each) for each in argv], folder=folder)


def fork(processes: int, function: Callable[..., None], *arguments: Any, folder: Path | None = None) -> list:
    """Start ``function(environment, *arguments)`` in so many processes; ``environment`` is what torchrun would set."""
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in range(processes):
        environment = {
            'RANK': str(rank),
            'LOCAL_RANK': str(rank),
            'WORLD_SIZE': str(processes),
            'MASTER_ADDR': '127.0.0.1',
            'MASTER_PORT': str(store.port),
            'TORCHELASTIC_USE_AGENT_STORE': 'True',
        }
        child = CONTEXT.Process(target=function, args=(environment, *arguments))
        child.start()
        child.store = store  # which is kept open as long as they
        child.log = _log(folder, rank) if folder else None
        children.append(child)
    return children


def _log(folder: Path, rank: int) -> Path:
    return folder / f'said_{rank}.txt'


def wait(children: list, timeout: float = _TIMEOUT) -> list[Ended]:
    """Wait for processes to end."""
    for child in children:
        child.join(timeout)
        if child.is_alive():
            for other in children:
                other.kill()
            raise TimeoutError('\n'.join(other.log.read_text()[-2000:] for other in children if other.log))
    return [Ended(child.exitcode, child.log.read_text() if child.log else '') for child in children]


def run(processes: int, folder: Path, tool: str, *argv: str | Path) -> list[Ended]:
    """Start and wait; all must end well."""
    ended = wait(start(processes, folder, tool, *argv))
    for each in ended:
        assert each.status == 0, each.said
    return ended


def _run_tool(environment: dict[str, str], folder: str, tool: str, argv: list[str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(_log(Path(folder), int(environment['RANK'])), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.dump_traceback_later(_TIMEOUT - 10)  # where it hangs
    gc.freeze()  # this and the next as in tests/conftest.py
    yapf_api.FormatCode = lambda text, **options: (text, True)
    torch.set_num_threads(1)
    status = call(tool, *argv)
    print('CPU seconds:', sum(os.times()[:2]), flush=True)
    sys.exit(status)
