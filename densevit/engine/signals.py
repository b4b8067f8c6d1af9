"""Signals of schedulers and terminals that ask a training to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ['StopSignals', 'Stopped', 'shield_worker']

# Of schedulers at the end and of `docker stop`, of Ctrl-C, and of `sbatch --signal=USR1@300` as a warning.
# (Windows has no SIGUSR1.)
_WARNING = getattr(signal, 'SIGUSR1', None)
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([_WARNING] if _WARNING else []))
# Seconds in which a signal is taken for an echo: torchrun passes on what the terminal has sent to all.
_ECHO = 2.0


class Stopped(SystemExit):
    """The end of a run that a signal has stopped; as in a shell, the exit status is 128 + the signal's number.

    Args:
        number: of the signal.
        what: what has become of the run; empty where another process says so.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(128 + number)
        self.message = f'stopped by {signal.Signals(number).name}: {what}' if what else ''

    def __str__(self) -> str:
        return self.message


class StopSignals:
    """Within this context SIGTERM, SIGINT and SIGUSR1 raise :class:`Stopped`, at once or when a run is ready for it.

    A run that takes steps says so by ``patient``: then the first signal is only noted, in ``received``. A second
    SIGTERM or SIGINT, two seconds after it or later, stops at once. (SIGUSR1 is a warning: what follows is not taken
    for impatience.) Signals that were ignored before, as in ``nohup`` or background jobs of a script, stay so, and
    processes that are forked here get back what was there before.
    """

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self._since = 0.0
        self._process = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *args: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: of a library, which Python cannot give back

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, self._before[number] or signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if not self.patient:
            raise Stopped(number, 'there was nothing to save yet.')
        now = time.monotonic()
        if self.received is None or self.received == _WARNING:
            if self.received is None:
                name = signal.Signals(number).name
                # print() may be at work when a signal comes
                os.write(2, f'{name}: finishing this iteration, then saving; a second one stops at once.\n'.encode())
            if self.received is None or number != _WARNING:
                self.received, self._since = number, now
        elif number != _WARNING and now - self._since > _ECHO:
            raise Stopped(number, 'at once, by a second signal; --resume goes on from the last checkpoint.')


def shield_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Make a data worker outlive the signals that are sent to a whole job, and call its ``init``.

    Ctrl-C, torchrun and Slurm send them to every process; the training process needs its workers to finish what it is
    at. It is also who may end them by SIGTERM, and a Python handler cannot tell from whom a signal comes: so the signal
    is blocked, and a thread waits for it. Workers notice by themselves that the training process is gone.

    Args:
        init: the loader's ``worker_init_fn``.
        worker: its number.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # macOS and Windows have none
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey_parent, daemon=True).start()
    if init is not None:
        init(worker)


def _obey_parent() -> None:
    while True:
        info = signal.sigwaitinfo([signal.SIGTERM])
        if info.si_pid == os.getppid():
            os._exit(0)
