#!/usr/bin/env python
"""Train a segmentor or a detector.

    python tools/train.py configs/upernet_patchconvnet_ade20k.py --amp
    python tools/train.py configs/mask_rcnn_patchconvnet_coco.py --accumulate 8
    python tools/train.py configs/upernet_patchconvnet_ade20k.py --processes 8

What stands later wins: file, then --cfg-options, then the other options.
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
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='CHECKPOINT',
        help='go on from a checkpoint, or from the newest of the work dir: weights, optimizer, schedule, iteration',
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights, a file or a URL')
    parser.add_argument(
        '--new-classes',
        action='store_true',
        help="with --load-from: leave out the heads' tensors that are for another number of classes",
    )
    parser.add_argument('--amp', action='store_true', help='bfloat16 mixed precision, GPU or CPU')
    parser.add_argument(
        '--fsdp',
        action='store_true',
        help='divide weights, gradients and optimizer state among the processes, instead of a whole model in each',
    )
    parser.add_argument(
        '--accumulate', type=int, default=1, metavar='N', help='update the weights every N batches (default: 1)'
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help="scale the learning rate to the recipe's batch, linearly"
    )
    parser.add_argument(
        '--ema',
        type=float,
        nargs='?',
        const=0.0005,
        metavar='MOMENTUM',
        help='keep and evaluate a moving average of the weights (default momentum: 0.0005)',
    )
    parser.add_argument(
        '--skip-broken',
        type=float,
        nargs='?',
        const=5.0,
        metavar='PERCENT',
        help='go on without training samples that cannot be used, count and list them; stop above this share (5)',
    )
    parser.add_argument('--tensorboard', action='store_true', help='write TensorBoard logs too')
    parser.add_argument('--wandb', action='store_true', help='log to Weights & Biases too')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.engine.train import train

    train(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
