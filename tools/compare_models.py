#!/usr/bin/env python
"""Write a page that holds the results of all models against what they cost: multiply-adds, parameters, speed, memory.

1. from the index of models alone:

    python tools/compare_models.py

2. measure throughput and peak memory on this machine, of some models or of all; what was measured is kept, and the
   same command goes on where it was stopped:

    python tools/compare_models.py --measure 'upernet_*' --threads 2
    python tools/compare_models.py --measure --device cuda --dtype bf16

3. with measurements of other machines, written by this tool or by tools/benchmark.py:

    python tools/compare_models.py laptop.json server.json --out models.html

The page is one file of 5 MB that needs no network. Images have the size that multiply-adds are counted for, weights are
random, and what depends on weights alone is folded. The exit status is 1 where a model could not be measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import parse_positive, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('results', nargs='*', type=Path, metavar='FILE', help='JSON files of measurements, shown besides --json')
    add(
        '--out',
        type=Path,
        default=Path('work_dirs/models.html'),
        metavar='FILE',
        help='the page (default: %(default)s)',
    )
    how = parser.add_argument_group('measuring')
    how.add_argument('--measure', nargs='*', metavar='MODEL', help="models, such as 'upernet_swin*' (default: all)")
    how.add_argument(
        '--json', type=Path, default=Path('work_dirs/models.json'), metavar='FILE',
        help='where measurements are kept (default: %(default)s)',
    )  # fmt: skip
    how.add_argument('--device', default='cpu', help="'cpu' or 'cuda' (default: cpu)")
    how.add_argument('--dtype', choices=['float32', 'bf16', 'tf32'], default='float32', help='(default: float32)')
    how.add_argument('--batch', type=parse_positive, default=1, help='images at once (default: 1)')
    how.add_argument('--threads', type=parse_positive, help="of the CPU (default: torch's)")
    how.add_argument('--rounds', type=parse_positive, default=5, help='how often each is timed (default: 5)')
    add('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.compare_models import compare_models

    return compare_models(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
