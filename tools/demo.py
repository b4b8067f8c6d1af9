#!/usr/bin/env python
"""See PatchConvNet learn to segment and to detect, on generated scenes, within minutes on two CPU cores.

make demo
python tools/demo.py --out work_dirs/demo

The exit status is 1 where a target is missed.
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
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'), help='default: work_dirs/demo')
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes (default: 0)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.demo import run_demo

    return 0 if all(result.reached for result in run_demo(args.out, args.seed)) else 1


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
