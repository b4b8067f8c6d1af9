#!/usr/bin/env python
"""Write a page that shows what a config's model is really fed: after the pipeline and the data preprocessor's padding.

    python tools/browse_data.py configs/upernet_swin_ade20k.py
    python tools/browse_data.py configs/mask_rcnn_swin_coco.py --split val --num 100 --out coco.html

Each image stands as it lies on the disk beside the versions that training draws from it, with its labels drawn; then
how much there is of each class, sizes and scales. An image that cannot be read, or whose labels fit no class, is shown
with the reason. Needs no checkpoint, and builds no model.
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
    add('--split', choices=['train', 'val', 'test'], default='train', help='whose data (default: %(default)s)')
    add('--num', type=parse_positive, default=50, metavar='N', help='images, chosen by chance (default: %(default)s)')
    add('--versions', type=parse_positive, metavar='N', help='of each image (default: 3 for train, 1 for val and test)')
    add('--seed', type=int, default=0, help='of the choice and of the augmentation (default: %(default)s)')
    add('--out', metavar='FILE', help='the page (default: work_dirs/<config>/data_<split>.html)')
    add_cfg_options(parser)
    add('--debug', action='store_true', help='show the traceback of a mistake, and all that the mm packages say')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.engine.browse import browse

    browse(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
