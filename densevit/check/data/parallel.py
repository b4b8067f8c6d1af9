"""One function over many items, in several processes, with a progress bar."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...errors import UserError

__all__ = ['Crew']

_job: tuple[Callable[[Any], Any], Sequence] | None = None  # a worker's


@dataclass(frozen=True)
class Crew:
    """Who does the work.

    Attributes:
        workers: number of processes; up to 1: this one alone.
        progress: whether a bar on stderr shows how far they are.
    """

    workers: int = 0
    progress: bool = False

    def run(self, function: Callable[[Any], Any], items: Sequence, title: str, size: int = 32) -> Iterator[Any]:
        """The function's results, in the order of the items.

        Args:
            function: what to do with an item; of a module, for platforms that cannot fork.
            items: inherited by the workers where processes are forked, pickled once for each elsewhere.
            title: of the bar.
            size: how many items a worker takes at once.

        Raises:
            UserError: a worker died; the message names the items that it may have died of.
        """
        if self.workers <= 1 or len(items) <= size:
            yield from self._shown(map(function, items), len(items), title)
            return
        # Forked, a worker costs milliseconds and neither torch nor the config is imported again; it calls nothing
        # that has threads. The bar, which has one, starts after the workers.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context('fork' if 'fork' in methods else 'spawn')
        pool = ProcessPoolExecutor(self.workers, context, initializer=_begin, initargs=(function, items))
        parts = [range(start, min(start + size, len(items))) for start in range(0, len(items), size)]
        done = 0
        try:
            found = pool.map(_work, parts)
            for result in self._shown((result for part in found for result in part), len(items), title):
                yield result
                done += 1
        except BrokenProcessPool as error:
            last = items[min(done + size * self.workers, len(items)) - 1]
            raise UserError(
                f'a worker of the check died, most likely for want of memory, at one of the {title} from '
                f'{str(items[done])[:200]!r} to {str(last)[:200]!r}; take fewer workers, and look at these.'
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _shown(self, results: Iterator[Any], total: int, title: str) -> Iterator[Any]:
        if not self.progress:
            yield from results
            return
        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            for result in results:
                yield result
                bar.advance(task)


def _begin(function: Callable[[Any], Any], items: Sequence) -> None:
    global _job
    _job = function, items
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends the workers
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libjpeg and others print of broken files, the findings say
    gc.freeze()  # looking for cycles among what was inherited would copy all of it
    if 'cv2' in sys.modules:
        sys.modules['cv2'].setNumThreads(0)  # its threads were not forked


def _work(part: range) -> list:
    function, items = _job
    return [function(items[index]) for index in part]
