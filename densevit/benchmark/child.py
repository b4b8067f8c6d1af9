"""Measuring in a process of its own, whose allocator has no history: what ran before moves times by 20 to 40 %."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ['in_child']

_ROOT = Path(__file__).resolve().parents[2]
_MARK = 'result of the child: '


def in_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``python -m densevit.benchmark.child`` with these arguments and return its result.

    Args:
        arguments: ``kind`` (``'model'`` and ``'side'``: the peak memory of one side of a comparison or a case;
            ``'case'``: all of a case of the table), ``threads``, ``options``, and what that kind needs.

    Raises:
        UserError: the child failed; the message has its last lines.
    """
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(_ROOT), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run(
        [sys.executable, '-m', 'densevit.benchmark.child', json.dumps(arguments)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            return json.loads(line.removeprefix(_MARK))
    last = ' | '.join(done.stderr.strip().splitlines()[-3:])
    raise UserError(f'the child process that measures ended with status {done.returncode}: {last}')


def _measure(arguments: Mapping[str, Any]) -> dict[str, Any]:
    threads, given = arguments['threads'], dict(arguments['options'])  # before what takes seconds to import

    import torch

    from .cases import CASES, peak_of_case, run_case
    from .run import Options, peak_here

    torch.set_num_threads(threads)
    given['size'] = given['size'] and tuple(given['size'])
    options = Options(**given)
    if arguments['kind'] == 'model':
        return {'peak_bytes': peak_here(arguments['text'], arguments['label'], arguments['packages'], options)}
    case, quick = arguments['case'], arguments['quick']
    if arguments['kind'] == 'side':
        return {'peak_bytes': peak_of_case(case, arguments['label'], quick=quick, options=options)}
    return run_case(CASES[case], options, quick=quick, rounds=arguments['rounds'])


if __name__ == '__main__':
    from ..noise import ignore_warnings

    ignore_warnings()
    print(f'\n{_MARK}{json.dumps(_measure(json.loads(sys.argv[1])))}', flush=True)
