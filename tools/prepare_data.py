#!/usr/bin/env python
"""Bring a public data set into the layout that the shipped configs expect: ade20k, coco, camvid or nuclei.

    python tools/prepare_data.py ade20k                                        what is there, what is missing
    python tools/prepare_data.py ade20k --archive ADEChallengeData2016.zip     from an archive on this machine
    python tools/prepare_data.py coco --download                               from the official addresses, 20 GB
    python tools/prepare_data.py coco --download --url https://mirror/coco2017/

The wrong archive is named for what it is. What is complete is left alone; an interrupted run, of a download too, goes
on when it is started again. The exit status is 0 where the data set is complete at the end, 1 where parts are missing.
The data sets have terms of their own: ADE20K and CamVid are for research.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# from a clone the package stands beside tools/; an installed one is found without help
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from densevit.engine.cli import run_tool  # noqa: E402


def parser() -> argparse.ArgumentParser:
    from densevit.data.prepare.datasets import DATASETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', choices=sorted(DATASETS), help='which data set')
    parser.add_argument('--archive', nargs='+', metavar='FILE', help='zip or tar archives to take it from')
    parser.add_argument('--download', action='store_true', help='get the archives that are missing, into DIR/downloads')
    parser.add_argument(
        '--url',
        nargs='+',
        metavar='URL',
        help='with --download: other addresses of the archives, or of a folder that holds them under their names',
    )
    parser.add_argument(
        '--to',
        metavar='DIR',
        help="the data set's own folder, data_root of the configs (default: its place below $DENSEVIT_DATA, or data/)",
    )
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.engine.prepare_data import prepare_data

    return prepare_data(args)


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
