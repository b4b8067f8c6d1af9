"""Write the demo's data set of generated scenes.

Example, the data set of `make demo`:

    python tools/make_scenes.py data/scenes --train 240 --val 60 --seed 0 --size 128x160
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densevit.data.scenes import generate  # noqa: E402
from densevit.errors import UserError  # noqa: E402


def parse_size(text: str) -> tuple[int, int]:
    """'128x160' -> (128, 160)."""
    match = re.fullmatch(r'(\d+)x(\d+)', text)
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH, for example 128x160')
    return int(match[1]), int(match[2])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='folder to write; ade/, coco/ and meta.json appear in it')
    parser.add_argument('--train', type=int, default=240, help='number of training scenes (default: 240)')
    parser.add_argument('--val', type=int, default=60, help='number of validation scenes (default: 60)')
    parser.add_argument('--seed', type=int, default=0, help='same seed, same files (default: 0)')
    parser.add_argument('--size', type=parse_size, default=(128, 160), help='HEIGHTxWIDTH in pixels (default: 128x160)')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        out = generate(args.out, num_train=args.train, num_val=args.val, size=args.size, seed=args.seed)
    except UserError as error:
        print(f'make_scenes: {error}', file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
