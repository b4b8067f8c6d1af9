#!/usr/bin/env python
"""Make a data set and a config of your own images and labels, ready for tools/train.py.

1. Images and masks, in two folders or in one. Masks hold values, a palette, or colours:

    python tools/import_data.py photos --masks masks --out data/mine
    python tools/import_data.py photos --masks colored --classes classes.csv --void void --out data/mine

2. A COCO file, which is split, or two:

    python tools/import_data.py photos --coco annotations.json --out data/mine --model mask_rcnn_swin
    python tools/import_data.py train val --coco train.json val.json --out data/mine

Your files are only read: the data set holds links to them (--copy: copies), label maps where yours had to be converted,
and the config. What was found is printed: classes, how much there is of each, void, what was left out. A second run
brings the data set up to date. --classes takes names, or a file: a name per line, "name r g b", CSV, JSON, CVAT's
labelmap.txt (docs/own_data.md).
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
    add = parser.add_argument
    add('images', nargs='+', metavar='IMAGES', help='folder of the images; with two COCO files, of each')
    add('--masks', metavar='DIR', help='folder of the masks (default: among the images, or a folder beside them)')
    add('--coco', nargs='+', metavar='FILE', help='COCO file of instances, or two: training and validation')
    add('--out', required=True, metavar='DIR', help='folder of the data set and the config')
    add('--model', metavar='CONFIG', help='a shipped config (default: upernet_swin, with --coco mask_rcnn_swin)')
    add('--classes', nargs='+', metavar='NAME', help='names of the classes in order, or a file, see above')
    add('--void', nargs='+', default=[], metavar='LABEL', help="names, values or 'r,g,b' of pixels not to learn")
    add('--val', metavar='X', help='a fraction, or a file of names (default: folders train and val, else 0.2)')
    add('--seed', type=int, default=0, help='of the split by chance (default: 0)')
    add('--copy', action='store_true', help='copy the images instead of linking them')
    add('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.engine.import_data import import_data

    import_data(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
