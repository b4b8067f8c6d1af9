#!/usr/bin/env python
"""Write generated scenes, by default the data set of the demo, in the ADE20K and the COCO layout.

    python tools/make_scenes.py data/scenes
    python tools/make_scenes.py data/more --train 2000 --val 200 --seed 1 --size 192x256

A folder that holds anything else is left as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densevit.engine.cli import run_tool  # noqa: E402


def parse_size(text: str) -> tuple[int, int]:
    """'128x160' -> (128, 160)."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH, for example 128x160')
    return int(match[1]), int(match[2])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='folder to write; ade/, coco/ and meta.json appear in it')
    parser.add_argument('--train', type=int, default=400, help='number of training scenes (default: 400)')
    parser.add_argument('--val', type=int, default=80, help='number of validation scenes (default: 80)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same files (default: 0)')
    parser.add_argument('--size', type=parse_size, default=(128, 160), help='HEIGHTxWIDTH in pixels (default: 128x160)')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.data.scenes import generate

    print(generate(args.out, num_train=args.train, num_val=args.val, size=args.size, seed=args.seed))


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
