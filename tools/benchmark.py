#!/usr/bin/env python
"""Measure models: parameters, multiply-adds, time and memory by part, alone or beside other packages.

1. one model, a shipped config, a file, or a backbone with its arch and arguments:

    python tools/benchmark.py upernet_swin_ade20k
    python tools/benchmark.py densevit.SwinTransformer:T densevit.PyramidVisionTransformer:small,img_size=512 --train

2. the same model of other packages with the same weights, in turns in one process:

    python tools/benchmark.py densevit.SwinTransformerV2:T --against timm,transformers,torchvision
    python tools/benchmark.py upernet_swin_ade20k --against mmseg --fast --winograd --json result.json

3. the table of docs/performance.md, all of it (20 minutes on two quiet cores) or some cases, and how exact it is:

    python tools/benchmark.py --table --json docs/performance/table.json
    python tools/benchmark.py --table swin_t iou_metric --quick
    python tools/benchmark.py --accuracy --json docs/performance/accuracy.json

4. how cost grows with the image and the batch:

    python tools/benchmark.py --growth upernet_swin_ade20k --fast --picture docs/images/growth.png

5. docs/performance.md from such files:

    python tools/benchmark.py --write-docs docs/performance.md docs/performance/*.json

A ratio is the other's median time by ours. It is stated only where the results agree: else 'differs by' stands in its
place. The exit status is 1 where a result differs without a known reason, or a goal of the table is missed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import parse_positive, run_tool  # noqa: E402


def parse_size(text: str) -> tuple[int, int]:
    """'512x683' -> (512, 683); '512' -> (512, 512)."""
    match = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    if match is None or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form HEIGHTxWIDTH, for example 512x683')
    return int(match[1]), int(match[2] or match[1])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        'what', nargs='*', metavar='MODEL', help='configs or backbones; with --table or --accuracy names of cases '
        '(default: all); with --write-docs result files',
    )  # fmt: skip
    modes = parser.add_argument_group('what to do (default: measure the models alone)').add_mutually_exclusive_group()
    modes.add_argument(
        '--against', metavar='PACKAGE,...', help='run the same model of these packages in turns: mmseg, mmdet, timm, '
        "transformers, torchvision, or 'plain' for PatchConvNet as the official code writes it",
    )  # fmt: skip
    modes.add_argument('--table', action='store_true', help='measure the named cases and hold them against their goals')
    modes.add_argument('--accuracy', action='store_true', help='difference in float64, and error in float32')
    modes.add_argument('--growth', action='store_true', help='time and memory against size (256 to 1536) and batch')
    modes.add_argument('--write-docs', type=Path, metavar='FILE', help='write the results of JSON files as Markdown')
    how = parser.add_argument_group('how')
    how.add_argument(
        '--size', type=parse_size, metavar='HxW', help='of the images (default: 512x512, for detectors 800x1216)'
    )
    how.add_argument('--batch', type=parse_positive, default=1, help='images at once (default: 1)')
    how.add_argument('--train', action='store_true', help='a training step with AdamW instead of a forward pass')
    how.add_argument('--device', default='cpu', help="'cpu' or 'cuda' (default: cpu)")
    how.add_argument(
        '--dtype', choices=['float32', 'bf16', 'tf32', 'float64'], default='float32',
        help='bf16: autocast; tf32: float32 whose products round to 10 bits, on CUDA (default: float32)',
    )  # fmt: skip
    how.add_argument('--threads', type=parse_positive, help="of the CPU (default: torch's)")
    how.add_argument('--rounds', type=parse_positive, help='how often each is timed (default: 9; of --table, by case)')
    how.add_argument('--channels-last', action='store_true', help='images and weights in that memory format')
    how.add_argument(
        '--compile', action='store_true', help='torch.compile on all sides, on CUDA with CUDA graphs; on the CPU it '
        'needs a C++ compiler',
    )  # fmt: skip
    how.add_argument(
        '--fold', action=argparse.BooleanOptionalAction, help='fold BatchNorm and what else depends on the weights '
        'alone, on all sides (default: with --against)',
    )  # fmt: skip
    how.add_argument(
        '--fast', action='store_true', help="densevit's heads in the place of mmsegmentation's and mmdet's"
    )
    how.add_argument('--winograd', action='store_true', help="--fast, with Winograd's convolutions in UPerHead")
    how.add_argument('--no-memory', action='store_true', help='leave memory out, which takes processes of its own')
    how.add_argument(
        '--tolerance', type=float, metavar='X', help='largest difference, relative to the largest output, at which '
        'results count as equal (default: 1e-4 in float32, 1e-2 for gradients; more in bf16 and tf32)',
    )  # fmt: skip
    how.add_argument('--quick', action='store_true', help='few rounds and small inputs: whether it runs, not how fast')
    out = parser.add_argument_group('where to')
    out.add_argument('--json', type=Path, metavar='FILE', help='also write the results, the machine and the command')
    out.add_argument('--picture', type=Path, metavar='FILE', help='with --growth: a PNG file of the curves')
    out.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.benchmark.command import run_command

    return run_command(args, ' '.join(['python', 'tools/benchmark.py', *sys.argv[1:]]))


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
