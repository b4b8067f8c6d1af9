#!/usr/bin/env python
"""Repeat the training step at which a loss was not finite, and say where it begins and with which image.

    python tools/replay.py work_dirs/CONFIG/nonfinite_iter_1234.pth
    python tools/replay.py work_dirs/CONFIG/nonfinite_iter_1234.pth --device cpu

tools/train.py writes such a file when it stops. The exit status is 0 where the fault shows again, and 1 where all is
finite here.
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
    parser.add_argument('file', type=Path, help='nonfinite_iter_N.pth in the work dir of the run')
    parser.add_argument('--checkpoint', help='weights instead of those in the file, which a run with --fsdp leaves out')
    parser.add_argument('--device', help='cpu, cuda, cuda:1 (default: cuda where there is one)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.replay import replay

    return replay(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
