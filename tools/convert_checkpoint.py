#!/usr/bin/env python
"""Convert a checkpoint to the names of another package: a file of .pth or .safetensors, from either to either.

Whose names the tensors of IN have is recognised. Any command of this package takes any of them as they are; what a
conversion is for:

1. weights that were trained here, to go on with in the official code:

    python tools/convert_checkpoint.py work_dirs/.../best_mIoU.pth swin_upernet.pth --to official

2. official weights for the backbone that mmsegmentation or mmdetection has itself:

    python tools/convert_checkpoint.py pvt_v2_b2.pth pvt_v2_b2_mmdet.pth --to mm

3. one file, without code that could run, that names its tensors as models of this package do:

    python tools/convert_checkpoint.py https://.../pvt_small.pth pvt_small.safetensors --to densevit

Only the weights are written, in their precision. What the other package has no place for is left out, and listed.
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
    parser.add_argument('source', metavar='IN', help='.pth or .safetensors file, or a URL')
    parser.add_argument('out', metavar='OUT', type=Path, help='file to write; its suffix says which kind')
    parser.add_argument(
        '--to',
        required=True,
        metavar='PACKAGE',
        help='whose names: densevit, official, mm (of mmsegmentation and mmdetection), timm, transformers',
    )
    parser.add_argument(
        '--from', dest='origin', metavar='ORIGIN', help="whose names IN has, as in 'Swin, timm' (default: recognised)"
    )
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let IN run code; only for files of people you trust with this computer',
    )
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.checkpoints.export import convert_checkpoint

    print(convert_checkpoint(args.source, args.out, args.to, origin=args.origin, force=args.force))
    print(args.out.resolve())


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
