"""Samples that are of no use: what is done about them, how many there were, and what a worker was loading.

The workers of a data loader keep both in memory that they share with the main process, so that it is still there
when one of them has been killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import get_worker_info
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from ..errors import UserError, did_you_mean

__all__ = [
    'BrokenSamples', 'Ledger', 'add_to_list', 'deaths_held_back', 'name_lost_workers', 'raise_deaths', 'read_list',
]  # fmt: skip

POLICIES = ('stop', 'skip')
LIMIT = 0.05  # of all samples: beyond it the data set is wrong, not a file
IN_A_ROW = 20  # so many broken samples one after the other are no accident

_SLOT = 4096 + 256  # bytes of a worker's note: header, and a path, which Linux keeps below 4096
_HEADER = struct.Struct('<qdqq')  # pid, since when it has been loading (0: it is not), bytes of path and of step
_SEEN, _BROKEN, _FIRST_STEP = 0, 1, 2  # columns of the counts; from the third on, one per kind of step
_COLUMNS = 64

# How torch words the loss of a worker (torch/csrc/DataLoader.cpp, torch/utils/data/dataloader.py).
_LOST = re.compile(r'DataLoader worker.*\(pid(?:\(s\))? ([\d, ]+)\)')
_KILLED = re.compile(r'killed by signal: ([A-Z][a-z]*(?: [a-z]+)*)')
_EXITED = re.compile(r'exit code (\d+)')
_TIMED_OUT = re.compile(r'DataLoader timed out after (\S+) seconds')


@dataclass(frozen=True)
class BrokenSamples:
    """What a run does about samples that it cannot use.

    Args:
        policy: ``'stop'`` at the first, with its name, or ``'skip'``: take another in its place, count and list it.
        limit: the share of all samples from which on ``'skip'`` stops too.
    """

    policy: str = 'stop'
    limit: float = LIMIT

    @classmethod
    def of(cls, given: Any) -> BrokenSamples:
        """From ``broken_samples`` of a config: one of the policies, or a dict with this class's arguments.

        Raises:
            UserError: it is neither.
        """
        given = dict(policy=given) if isinstance(given, str) else given
        if not isinstance(given, Mapping):
            raise UserError(f"broken_samples={given!r}: give 'stop', 'skip', or dict(policy='skip', limit={LIMIT}).")
        for key in given:
            if key not in ('policy', 'limit'):
                raise UserError(
                    f'broken_samples.{key}: there is policy and limit{did_you_mean(key, ("policy", "limit")) or "."}'
                )
        made = cls(**given)
        if made.policy not in POLICIES:
            raise UserError(
                f"broken_samples.policy={made.policy!r}: give 'stop' or 'skip'"
                f'{did_you_mean(made.policy, POLICIES) or "."}'
            )
        if isinstance(made.limit, bool) or not isinstance(made.limit, int | float) or not 0 < made.limit <= 1:
            raise UserError(f'broken_samples.limit={made.limit!r}: give a share of the samples, above 0 and up to 1.')
        return made


class Ledger:
    """What each worker of a data loader is loading, and how many of its samples were of no use.

    Every worker writes into a row of its own, so nothing is locked; a row outlives its worker.

    Args:
        workers: of the loader.
    """

    # of this process, for name_lost_workers; a worker's signal may arrive anywhere in the main process
    _living: weakref.WeakSet[Ledger] = weakref.WeakSet()

    def __init__(self, workers: int) -> None:
        # the last row is the main process's, which loads by itself where there are no workers
        self._notes = torch.zeros(workers + 1, _SLOT, dtype=torch.uint8).share_memory_()
        self._counts = torch.zeros(workers + 1, _COLUMNS, dtype=torch.int64).share_memory_()
        self._steps: list[str] = []
        Ledger._living.add(self)

    # ------------------------------------------------------------------------------------- written by the worker
    def begin(self, path: str) -> None:
        """This process loads a sample now; ``path`` names it."""
        text = os.fsencode(path)[:4096]
        note = self._notes.numpy()[self._row()]
        _HEADER.pack_into(note, 0, os.getpid(), 0.0, len(text), 0)
        note[256 : 256 + len(text)] = memoryview(text)
        _HEADER.pack_into(note, 0, os.getpid(), time.monotonic(), len(text), 0)

    def at_step(self, name: str) -> None:
        """It has come to this step of the pipeline."""
        text = name.encode()[: 256 - _HEADER.size]
        note = self._notes.numpy()[self._row()]
        note[_HEADER.size : _HEADER.size + len(text)] = memoryview(text)
        struct.pack_into('<q', note, _HEADER.size - 8, len(text))

    def end(self, broken: bool = False, dropped_by: str | None = None) -> None:
        """The sample is loaded, or was broken, or a step of the pipeline has dropped it."""
        row = self._row()
        struct.pack_into('<d', self._notes.numpy()[row], 8, 0.0)
        counts = self._counts.numpy()[row]
        counts[_SEEN] += 1
        counts[_BROKEN] += broken
        if dropped_by is not None:
            counts[self._column(dropped_by)] += 1

    def _row(self) -> int:
        worker = get_worker_info()
        return -1 if worker is None else worker.id

    def _column(self, step: str) -> int:
        return _FIRST_STEP + (self._steps.index(step) if step in self._steps else _COLUMNS - 1 - _FIRST_STEP)

    # ------------------------------------------------------------------------------- written before workers start
    def add_steps(self, names: list[str]) -> None:
        """Make room to count what these steps drop."""
        self._steps += [name for name in dict.fromkeys(names) if name not in self._steps]
        del self._steps[_COLUMNS - 1 - _FIRST_STEP :]

    # ------------------------------------------------------------------------------------ read by the main process
    def counts(self) -> Counter[str]:
        """``'seen'``, ``'broken'``, and for each step that has dropped samples ``'dropped by <step>'``."""
        total = self._counts.numpy().sum(axis=0)
        found = Counter({'seen': int(total[_SEEN]), 'broken': int(total[_BROKEN])})
        for column, count in enumerate(total[_FIRST_STEP:]):
            if count:
                name = self._steps[column] if column < len(self._steps) else 'another step'
                found[f'dropped by {name}'] = int(count)
        return found

    def notes(self) -> Iterator[_Note]:
        """One per process that has ever loaded a sample."""
        for row, note in enumerate(self._notes.numpy()):
            pid, since, length, step = _HEADER.unpack_from(note)
            if pid:
                path = os.fsdecode(note[256 : 256 + length].tobytes())
                name = note[_HEADER.size : _HEADER.size + step].tobytes().decode(errors='replace')
                yield _Note(row, pid, since, path, name)


@dataclass(frozen=True)
class _Note:
    """What a worker had written."""

    worker: int
    pid: int
    since: float  # time.monotonic(), which all processes of a machine share
    path: str
    step: str

    def __str__(self) -> str:
        if not self.since:
            return f'after loading {self.path!r}, between two samples'
        return f'while loading {self.path!r}{_size(self.path)}{f", in {self.step}" if self.step else ""}'


def _size(path: str) -> str:
    """In pixels, as far as the header knows: what fills the memory is often one huge image."""
    try:
        with Image.open(path) as image:
            return f' ({image.width} x {image.height} pixels)'
    except Exception:  # no image, a bomb, gone
        return ''


@contextmanager
def name_lost_workers() -> Iterator[None]:
    """Within it a data worker that dies or hangs ends in a :class:`UserError` with the sample that it was loading."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        message = _about_lost_worker('\n'.join([*_texts(error), *_texts(_lost_since(error))]))
        if message is None:
            raise
        raise UserError(message) from error


def _texts(error: BaseException | None) -> list[str]:
    """Of an error and those that it came from."""
    texts: list[str] = []
    while error is not None and len(texts) < 10:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    return texts


def _lost_since(error: BaseException) -> RuntimeError | None:
    """What torch's handler of SIGCHLD has to say, or will have in a moment; it is not to say it while others speak.

    A worker hands on the memory of its tensors by a socket of its own. So with its death the training process may
    first find a closed connection, and the signal arrives somewhat later.
    """
    with deaths_held_back():
        end = time.monotonic() + (3.0 if isinstance(error, ConnectionError | EOFError | FileNotFoundError) else 0.0)
        while True:
            try:
                _error_if_any_worker_fails()
            except RuntimeError as lost:
                return lost
            if time.monotonic() >= end:
                return None
            time.sleep(0.02)


@contextmanager
def deaths_held_back() -> Iterator[None]:
    """Within it torch's handler of SIGCHLD is not called, which would raise wherever the process is just then."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'SIGCHLD'):  # Windows
        yield
        return
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def raise_deaths() -> None:
    """Raise torch's error of a worker that has died meanwhile."""
    _error_if_any_worker_fails()


def _about_lost_worker(text: str) -> str | None:
    """What to say of the errors of torch's data loader; None for others."""
    notes = [note for ledger in Ledger._living for note in ledger.notes()]
    if timed_out := _TIMED_OUT.search(text):
        busy = [note for note in notes if note.since and note.pid != os.getpid() and _is_alive(note.pid)]
        if not busy:
            return f'no data came for {timed_out[1]} s, and no worker was loading any; look for what keeps them.'
        longest = min(busy, key=lambda note: note.since)
        seconds = time.monotonic() - longest.since
        return (
            f'no data came for {timed_out[1]} s: worker {longest.worker} (pid {longest.pid}) has been busy for '
            f'{seconds:.0f} s {longest}; look at that file, and at the disk or network that it is on, or, if a sample '
            'may take so long, raise train_dataloader.timeout (seconds).'
        )
    lost = _LOST.search(text)
    if lost is None:
        return None
    pids = [int(pid) for pid in lost[1].split(',')]
    found = [note for note in notes if note.pid in pids]
    who = f'worker {found[0].worker} (pid {found[0].pid})' if found else f'a worker (pid {pids[0]})'
    where = str(found[0]) if found else 'before its first sample'
    killed, exited = _KILLED.search(text), _EXITED.search(text)
    if killed:
        number = _number_of(killed[1])
        how = f'was killed by signal {number} ({killed[1]})' if number else f'was killed: {killed[1]}'
    else:
        number, how = None, f'ended with exit code {exited[1]}' if exited else 'ended unexpectedly'
    return f'{who} {how} {where}; {_advice(number)}'


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _number_of(name: str) -> int | None:
    return next((int(each) for each in signal.valid_signals() if signal.strsignal(each) == name), None)


def _advice(number: int | None) -> str:
    if number == getattr(signal, 'SIGKILL', 0):
        return (
            'most often the machine has run out of memory: use fewer num_workers or a smaller prefetch_factor, and see '
            'whether that image is huge.'
        )
    if number == getattr(signal, 'SIGBUS', 0):
        return 'shared memory is full: use fewer num_workers, or more of it (docker run --shm-size=16g).'
    if number == signal.SIGTERM:
        return 'somebody has ended it; --resume goes on.'
    return 'open that file alone, or run with num_workers=0 to see the error itself; take it out if it is broken.'


def add_to_list(file: Path, path: str, reason: str) -> None:
    """Note a skipped sample; one line per sample, written at once, so that several workers may."""
    line = json.dumps({'file': path, 'reason': reason}) + '\n'
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())  # plain ASCII: names that are no UTF-8 too
    finally:
        os.close(descriptor)


def read_list(file: Path) -> dict[str, str]:
    """The skipped files and why, in the order in which they came up."""
    found: dict[str, str] = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            with suppress(ValueError):  # the last one, where a disk was full
                entry = json.loads(line)
                found.setdefault(entry['file'], entry['reason'])
    return found
