#!/usr/bin/env python
"""Find all that is wrong with a run before it starts: config, model, weights, recipe, data, memory and disk.

    python tools/check.py configs/upernet_swin_ade20k.py
    python tools/check.py my_config.py --load-from swin_tiny_patch4_window7_224.pth --page check.html
    python tools/check.py my_config.py work_dirs/my_config/best_mIoU.pth --json check.json --quick

The exit status is 0 where training may start, 1 where there are errors, 2 after a mistake in the command itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import add_cfg_options, parse_positive, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('config', help='config file, or the name of a shipped one')
    add('checkpoint', nargs='?', help='weights to be held against the model, a file')
    add('--load-from', metavar='CHECKPOINT', help='weights that training would start from')
    add('--work-dir', help='folder that training would write to (default: work_dirs/<config>)')
    add('--json', metavar='FILE', help='write the findings as JSON')
    add('--page', metavar='FILE', help='write them as a page, FILE.html or FOLDER/index.html')
    add('--workers', type=parse_positive, default=2, metavar='N', help='processes that read data (default: 2)')
    add('--quick', action='store_true', help='look at a sample of the data only, as every training does first')
    add_cfg_options(parser)
    add('--trust-checkpoint', action='store_true', help='let checkpoint files run code, of people you trust only')
    add('--debug', action='store_true', help='show the traceback of a mistake, and all that the mm packages say')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.check import check

    return check(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
