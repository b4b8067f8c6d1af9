#!/usr/bin/env python
"""Evaluate a checkpoint: mIoU of a segmentor, box and mask AP of a detector, per class and in sum.

    python tools/test.py configs/upernet_patchconvnet_ade20k.py work_dirs/.../best_mIoU.pth
    python tools/test.py configs/mask_rcnn_patchconvnet_coco.py model.pth --tta --show-dir pictures
    python tools/test.py configs/upernet_patchconvnet_ade20k.py model.pth --report report  # see report/index.html

Metrics are printed as a table and written to metrics.json (with --tta: metrics_tta.json) in the work dir, by default
the checkpoint's folder; logs go to test/ in it.
The first N images, with random weights, to see that all is in place:

    python tools/test.py configs/upernet_patchconvnet_ade20k.py --cfg-options test_dataloader.dataset.indices=N

A COCO data set whose folders and files have other names:

    python tools/test.py configs/mask_rcnn_patchconvnet_coco.py model.pth --cfg-options data_root=/data/mine \\
        test_dataloader.dataset.ann_file=annotations/instances_val.json \\
        test_dataloader.dataset.data_prefix.img=val/ \\
        test_evaluator.ann_file=/data/mine/annotations/instances_val.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import add_common_options, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_options(parser)
    parser.add_argument(
        'checkpoint', nargs='?', help='weights to evaluate, a file or a URL; without them they are random (a dry run)'
    )
    parser.add_argument('--out', metavar='FILE', help='metrics as JSON (default: metrics.json in the work dir)')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside the truth into this folder')
    parser.add_argument('--report', metavar='DIR', help='write a page of results and pictures, DIR/index.html')
    parser.add_argument('--tta', action='store_true', help='average over scales and flips (tta_pipeline of the config)')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.engine.test import test

    test(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
