#!/usr/bin/env python
"""Predict images, folders, videos or a webcam: overlays, label maps, COCO's JSON. No ground truth is needed.

    python tools/predict.py configs/upernet_swin_ade20k.py model.pth photos/ more/*.jpg --out pictures
    python tools/predict.py mask_rcnn_swin_coco model.pth street.mp4 --out street --score 0.5
    python tools/predict.py upernet_swin_ade20k model.pth city.tif --out city --window 512 512
    python tools/predict.py mask_rcnn_swin_coco model.pth webcam:0 --out camera     (until Ctrl-C)

An input is an image in any mode, a video, a folder (all below it), a pattern in quotes ('photos/**/*.png'), a .txt file
with a path per line, or webcam:N. Below --out come, under the input's path and name,

    overlays/NAME.jpg            the image with what was found in it; of a video NAME.mp4
    labels/NAME.png              of a segmentor: the class of every pixel, coloured by a palette; of a video a folder
    predictions.json             of a detector, and with --json of a segmentor: COCO's format with run-length codes
    classes.json                 the legend: index, name and colour of every class

An input that is not there ends the run before it begins; files that cannot be read are listed at its end, and the exit
status is 1. After Ctrl-C all that was written is whole.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import densevit  # noqa: E402, F401  (before mmdet)
from densevit.engine.cli import add_cfg_options, run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument('checkpoint', help="weights, a file or a URL; 'none': random ones, to see that all is in place")
    parser.add_argument('inputs', nargs='+', metavar='input', help='see above')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder of the results; files in it are replaced')
    parser.add_argument('--score', type=float, default=0.3, help='leave out detections below it (default: %(default)s)')
    parser.add_argument('--device', help="'cpu', 'cuda:1', ... (default: the GPU where there is one)")
    parser.add_argument('--batch', type=int, metavar='N', help='images at a time (default: 4, on a CPU 1)')
    parser.add_argument(
        '--window', type=int, nargs=2, metavar=('H', 'W'), help='cut larger images into windows of this size in pixels'
    )
    parser.add_argument(
        '--stride', type=int, nargs=2, metavar=('H', 'W'), help='from window to window (default: 3/4 of the window)'
    )
    parser.add_argument('--no-overlays', action='store_true', help='write no overlays')
    parser.add_argument('--format', choices=['jpg', 'png'], default='jpg', help='of overlays (default: %(default)s)')
    parser.add_argument('--json', action='store_true', help='write predictions.json of a segmentor too')
    parser.add_argument(
        '--dataset-ids',
        action='store_true',
        help="write the data set's own labels, where it has 0 for void (reduce_zero_label): ADE20K's 1 to 150",
    )
    parser.add_argument(
        '--max-pixels',
        type=int,
        default=178_956_970,
        metavar='N',
        help='refuse larger images, which may be small files that fill the memory (default: %(default)s)',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoint files run code; only for files of people you trust with this computer',
    )
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of a mistake, and all that the mm packages say'
    )
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.predict import predict

    return predict(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
