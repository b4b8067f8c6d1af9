#!/usr/bin/env python
"""See what a model attends to, from one forward pass.

1. A classifier with learned aggregation, as PatchConvNet's official weights are: which patches made it decide.

    python tools/explain.py densevit.PatchConvNet:S60 s60_multi_finetune_1k.pth cat.jpg --out pictures

   writes per image NAME_attention.png (the photo lit where the attention is), NAME_classes.png (a colour per class,
   where the model has a query per class), NAME_top.png (what each of the best classes is seen in, with its
   probability) and NAME.json (the numbers). --classes 'tabby,remote control' draws these classes instead of the best.
   The same of a segmentor or detector with a class_attention head:

    python tools/explain.py configs/upernet_patchconvnet-tiny-classattn_scenes.py work_dirs/.../best_mIoU.pth scene.png

2. Any model with attention layers, a classifier or a config's segmentor or detector: what those attend to.

    python tools/explain.py configs/upernet_swin_ade20k.py model.pth street.jpg --out pictures --layers all
    python tools/explain.py densevit.PyramidVisionTransformerV2:b2 pvt_v2_b2.pth cat.jpg --layers 'stages.3.*' \\
        --query 120,80

   writes one sheet per stage: a row per layer, with the mean over its heads and each head; of all queries in the mean
   (NAME_stages3_received.png) or of one (NAME_stages3_query.png); and attention rollout where that is defined.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import add_safe_config, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'model',
        metavar='CONFIG_OR_BACKBONE',
        help="config file, name of a shipped one, or the backbone of a classifier, such as 'densevit.PatchConvNet:S60'",
    )
    parser.add_argument('checkpoint', help='weights, a file or a URL')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files of any kind and size')
    parser.add_argument('--out', type=Path, default=Path('explained'), metavar='DIR', help='default: explained')
    parser.add_argument('--top-k', type=int, default=3, metavar='K', help='how many classes to draw (default: 3)')
    parser.add_argument('--classes', metavar='NAMES', help="draw these, by name or index: 'tabby,285'")
    parser.add_argument(
        '--class-names',
        metavar='FILE',
        help="names of the classes, one a line (default: the checkpoint's; of 1000 and of 21k classes ImageNet's)",
    )
    parser.add_argument(
        '--size', type=int, metavar='PIXELS', help="side of a classifier's square input (default: 224, as evaluated)"
    )
    parser.add_argument(
        '--whole', action='store_true', help='feed a classifier the whole image, its short side --size, not the middle'
    )
    parser.add_argument(
        '--layers', metavar='NAMES', help="draw attention layers instead: all, or names such as 'stages.3.*,pool'"
    )
    parser.add_argument('--query', metavar='X,Y', help='with --layers: the pixel of the image whose attention to draw')
    parser.add_argument('--device', metavar='DEVICE', help='default: cuda if there is a GPU, else cpu')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let the checkpoint run code; only for files of people you trust with this computer',
    )
    add_safe_config(parser)
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> None:
    from densevit.engine.explain import explain

    explain(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
