#!/usr/bin/env python
"""Hold metafiles, the configs' docstrings and README's tables of models together.

    python tools/model_index.py            # say what is out of date; exit status 1 where something is
    python tools/model_index.py --write    # count parameters and multiply-adds, and write them and the tables

Works in a clone. Takes about a minute: every config's model is counted, without memory for its weights.
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
    parser.add_argument('--write', action='store_true', help='write what is out of date')
    parser.add_argument('--debug', action='store_true', help='show the traceback of a mistake')
    return parser


def main(args: argparse.Namespace) -> int:
    from densevit.config.reading import configs_dir
    from densevit.engine.model_index import mistakes, outdated, write
    from densevit.errors import UserError

    root = configs_dir().parent
    if not (root / 'README.md').is_file():
        raise UserError(f'{root} has no README.md: run this in a clone.')
    found = mistakes(root)
    if not found and args.write:
        for path in write(root):
            print(f'wrote {root / path}')
    elif not found:
        found = outdated(root)
    print('\n'.join(found) or 'model-index.yml, its metafiles, docstrings and README agree.')
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(run_tool(parser(), main))
