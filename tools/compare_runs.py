#!/usr/bin/env python
"""Hold two tested runs side by side, in a page that opens offline: metrics, classes, images, training curves.

    python tools/test.py CONFIG a.pth --report reports/a
    python tools/test.py CONFIG b.pth --report reports/b
    python tools/compare_runs.py reports/a reports/b --out a_b.html

Both must have been tested on the same classes and images; where other conditions of the tests differ, the page and a
warning say so. Differences are the second minus the first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('first', metavar='RUN_A', help='folder that tools/test.py --report has written')
    parser.add_argument('second', metavar='RUN_B', help='another one')
    parser.add_argument('--out', metavar='FILE', default='runs.html', help='the page (default: runs.html)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.pages.runs import compare_runs

    page, unequal = compare_runs(args.first, args.second, args.out)
    for sentence in unequal:
        print(f'warning: not tested under the same conditions: {sentence}', file=sys.stderr)
    print(f'page: {page.resolve()}')


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
