"""Peak memory of one step: on CUDA the allocator's, on the CPU the resident set of the process."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ['peak_bytes']


def peak_bytes(step: Callable[[], Any], device: torch.device) -> int:
    """How much more memory than before ``step`` takes, at its peak.

    On the CPU that is the resident set of this process, so it says something only once in a process that has not been
    larger before; see :func:`densevit.benchmark.child.in_child`.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide what the step takes
    before = _resident()
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')  # Linux: the peak counts from here
    step()
    return max(0, _peak() - before)


def _status(key: str) -> int | None:
    """A line of /proc/self/status, in bytes."""
    with suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith(f'{key}:'):
                return int(line.split()[1]) * 1024
    return None


def _resident() -> int:
    now = _status('VmRSS')
    return _peak() if now is None else now


def _peak() -> int:
    peak = _status('VmHWM')
    if peak is not None:
        return peak
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
