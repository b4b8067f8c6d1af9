#!/usr/bin/env python
"""Train and score the configs for real data, CPU or GPU, and hold the results against their targets.

    DENSEVIT_DATA=/data python tools/reproduce.py camvid nuclei

expects /data/camvid and /data/nuclei, see configs/_base_/datasets.
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

# mIoU in percent, AP in 0 to 1
TARGETS = {
    'camvid': ('upernet_patchconvnet-tiny_camvid', {'mIoU': 60.0}),
    'nuclei': ('mask_rcnn_patchconvnet-tiny_nuclei', {'coco/segm_mAP': 0.42, 'coco/segm_mAP_50': 0.75}),
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', nargs='+', choices=[*TARGETS], help='what to train on')
    parser.add_argument('--out', type=Path, default=Path('work_dirs'), help='default: work_dirs')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.reproduce import Task, reproduce

    results = [reproduce(Task(*TARGETS[name]), (args.out / TARGETS[name][0]).resolve()) for name in args.data]
    print(*results, sep='\n')
    return 0 if all(result.reached for result in results) else 1


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
