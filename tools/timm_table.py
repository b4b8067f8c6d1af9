#!/usr/bin/env python
"""Look at one model of every family of timm, and say which can be a backbone; docs/timm.md is written by this.

    python tools/timm_table.py             # print the page
    python tools/timm_table.py --write     # write docs/timm.md, in a clone

Takes about ten minutes of one core, no network and no memory for weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(ROOT))

from densevit.engine.cli import parse_positive, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--write', action='store_true', help='write docs/timm.md')
    parser.add_argument('--jobs', type=parse_positive, default=2, help='processes (default: %(default)s)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.timm_table import render, sweep

    page = render(sweep(args.jobs))
    if args.write:
        path = ROOT / 'docs' / 'timm.md'
        path.write_text(page)
        print(f'wrote {path}')
    else:
        print(page, end='')
    return 0


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
