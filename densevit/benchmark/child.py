"""What a child process of :mod:`densevit.benchmark.memory` runs: one side, once."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from .memory import report

__all__ = ['main']


def main(arguments: dict[str, Any]) -> None:
    """Measure and say the peak."""
    torch.set_num_threads(arguments['threads'])
    from .run import Options, peak_here

    given = dict(arguments['options'])
    given['size'] = given['size'] and tuple(given['size'])
    options = Options(**given)
    if arguments['kind'] == 'model':
        report(peak_here(arguments['text'], arguments['label'], arguments['packages'], options))
    else:
        from .cases import peak_of_case

        report(peak_of_case(arguments['case'], arguments['label'], quick=arguments['quick'], options=options))


if __name__ == '__main__':
    from ..engine.noise import ignore_warnings

    ignore_warnings()
    main(json.loads(sys.argv[1]))
