"""The process behind :func:`tests.fresh.run_forked`: it imports what takes long, and forks for every request.

A request is a line of JSON; the answer is a line with the exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import suppress

# What the mm packages import, which takes four fifths of the time; no mm package, and nothing that a test says is
# absent.
HEAVY = (
    'torch.distributed.fsdp', 'torch.distributed.optim', 'torch._dynamo', 'torchvision', 'timm', 'cv2',
    'matplotlib.pyplot', 'scipy.optimize', 'scipy.stats', 'sklearn.gaussian_process', 'sklearn.mixture', 'numba',
    'transformers.modeling_utils', 'transformers.models.bert.modeling_bert', 'yapf.yapflib.yapf_api',
)  # fmt: skip


def serve() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what is printed by an import is no answer
    for name in HEAVY:
        with suppress(Exception):  # absent, or made for another torch
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            answers.close()
            os._exit(_run(**request))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    os._exit(0)  # nothing is to be put in order, which takes a second


def _run(code: str, path: list[str], folder: str, environment: dict[str, str], said: list[str], limit: int) -> int:
    """Run code as ``python -c`` does, with what it prints in two files; returns the exit status."""
    signal.alarm(limit)
    for stream, file in zip((0, 1, 2), (os.devnull, *said)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if stream else os.O_RDONLY)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[:] = ['-c']
    sys.path[:1] = ['', *path]  # in the place of this file's folder
    status = 0
    try:
        exec(compile(code, '<string>', 'exec'), {'__name__': '__main__', '__builtins__': __builtins__})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == '__main__':
    serve()
