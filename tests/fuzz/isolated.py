"""Tests in a forked process, so that a crash, a hang or a full memory fails one test and names its case."""

from __future__ import annotations

import faulthandler
import functools
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.strategies import SearchStrategy

from densevit.errors import UserError

SCALE = int(os.environ.get('DENSEVIT_TEST_SCALE', '1'))  # 6: more than 5,000 cases, in five minutes of one core
DEADLINE = 60  # seconds for one case; on a free core none takes one
_MEMORY = 3 * 2**30  # bytes that a case may ask for; asking for more is a MemoryError

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / 'densevit-hypothesis')  # not the working tree


def isolated(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a forked process; what it raises, or dies of, is raised here."""

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            os._exit(_run(test, args, kwargs, writing))
        os.close(writing)
        with os.fdopen(reading, 'rb') as pipe:
            notes = pipe.read().decode('utf-8', 'replace').split('\0')
        _, status = os.waitpid(child, 0)
        print(f'{test.__name__}: {len(notes) - 1} cases')  # shown by pytest -rP
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            what = f'took more than {DEADLINE} s' if number == signal.SIGALRM else signal.Signals(number).name
            raise AssertionError(f'{what}; the last case was {notes[-1]}')
        if os.WEXITSTATUS(status):
            raise AssertionError(notes[-1])

    return wrapper


def _run(test: Callable[..., None], args: tuple, kwargs: dict, writing: int) -> int:
    global _pipe
    _pipe = writing
    faulthandler.disable()  # pytest's, which would print all stacks
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even within C
    torch.set_num_threads(1)  # the threads of the parent were not forked
    cv2.setNumThreads(0)
    limit = _of_process('VmSize') + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        test(*args, **kwargs)
    except BaseException:
        text = traceback.format_exc()[-20_000:].replace('\0', '\\0')
        os.write(writing, b'\0' + text.encode('utf-8', 'backslashreplace'))
        return 1
    return 0


_pipe = -1


def begin(case: str) -> None:
    """Start the clock of a case, and note it as what the process may die of."""
    signal.alarm(DEADLINE)
    os.write(_pipe, b'\0' + ascii(case[:300]).encode())


def fuzz(count: int, strategy: SearchStrategy) -> Callable[[Callable[..., None]], None]:
    """Run the decorated function at once, with ``count`` times :data:`SCALE` drawn cases, the same in every run."""

    def decorate(function: Callable[..., None]) -> None:
        def case(drawn: Any) -> None:
            begin(repr(drawn))
            function(drawn)

        settings(
            max_examples=count * SCALE,
            deadline=None,
            database=None,
            derandomize=True,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(given(strategy)(case))()

    return decorate


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What the function returns; None where it refuses its arguments in a sentence that can be printed."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        assert_sentence(str(error))
        return None


def assert_sentence(text: str) -> None:
    """A message has a reasonable length and nothing that a terminal cannot print or would obey."""
    assert text.strip() and len(text) < 20_000, f'{len(text)} characters: {text[:300]}'
    text.encode('utf-8')
    assert all(each.isprintable() or each == '\n' for each in text), repr(text[:2000])


def _of_process(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise ValueError(f'/proc/self/status has no {field}')


def peak_memory(function: Callable[[], Any]) -> int:
    """How many bytes a call had more in memory than there were before."""
    Path('/proc/self/clear_refs').write_text('5')  # the peak is now what there is
    before = _of_process('VmRSS')
    function()
    return _of_process('VmHWM') - before
