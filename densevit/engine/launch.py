"""Starting the processes of a run on this machine, and seeing them to their end: ``--processes N``."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch.distributed import TCPStore

from ..errors import UserError
from .distributed import claim_failure
from .signals import SIGNALS

__all__ = ['launch']

# Seconds between two looks; for the others to end when one has failed; and, after SIGTERM, until they are killed.
_LOOK, _GRACE = 0.1, 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(command: Sequence[str], processes: int) -> int:
    """Run ``command`` in several processes that know of each other as torchrun's do; return the exit status.

    They meet at a port that the system has chosen and that is taken from then on, so runs do not get into each other's
    way. Signals to this process reach each of them once: they are in sessions of their own. When one fails, the others
    have some seconds to end by themselves, and are then ended. When this process is killed, they get SIGTERM.

    Returns:
        The status of the first process that failed, 128 + the signal's number if it was killed, else 0.

    Raises:
        UserError: this machine has GPUs, and fewer than processes.
    """
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes:
        raise UserError(f'--processes {processes}: one GPU is used by one process, and this machine shows {gpus}.')
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    shared = {
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(store.port),
        'WORLD_SIZE': str(processes),
        'LOCAL_WORLD_SIZE': str(processes),
        # the store is here: none of them is to open one
        'TORCHELASTIC_USE_AGENT_STORE': 'True',
        'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS') or str(max(1, _cores() // processes)),
    }
    libc = ctypes.CDLL(None)
    children: list[subprocess.Popen] = []
    passed_on: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: (passed_on.append(number), _send(children, number)))
    try:
        for rank in range(processes):
            children.append(
                subprocess.Popen(
                    command,
                    env={**os.environ, **shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
                    start_new_session=True,
                    preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
                )
            )
        failed = _watch(children)
        if failed is None:
            return 0
        status = children[failed].returncode
        if status < 0:
            claim_failure(store, 'launcher')  # the others need not guess
        # after a signal they save, which takes what it takes
        _end(children, grace=math.inf if passed_on and status > 0 else _GRACE)
        if status < 0:
            print(f'error: {_what_killed(failed, processes, -status)}', file=sys.stderr)
        return 128 - status if status < 0 else status
    finally:
        _end(children, grace=0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _watch(children: Sequence[subprocess.Popen]) -> int | None:
    """Wait until all have ended well, or one has not: its number. Of several, one that was killed."""
    while True:
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            return min(failed, key=lambda rank: codes[rank])
        if all(code == 0 for code in codes):
            return None
        time.sleep(_LOOK)


def _end(children: Sequence[subprocess.Popen], grace: float = _GRACE) -> None:
    """Wait for the processes that are left, then ask them to stop, then kill them."""
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            _send(children, number)
        if number == signal.SIGKILL:
            grace = _GRACE
        until = time.monotonic() + grace
        while any(child.poll() is None for child in children) and time.monotonic() < until:
            time.sleep(_LOOK)


def _send(children: Sequence[subprocess.Popen], number: int) -> None:
    for child in children:
        with suppress(ProcessLookupError):
            child.send_signal(number)


def _what_killed(rank: int, processes: int, number: int) -> str:
    name = signal.Signals(number).name
    reason = {
        signal.SIGKILL: ', as the system does where memory runs out (`dmesg` says so)',
        signal.SIGSEGV: ', a fault in compiled code',
        signal.SIGBUS: ', often of a full /dev/shm: use fewer num_workers',
        signal.SIGABRT: ': see above for what it said',
    }.get(number, '')
    return (
        f'process {rank} of {processes} was killed by {name}{reason}; the others were stopped. '
        '--resume goes on from the newest checkpoint.'
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))
