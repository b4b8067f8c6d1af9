"""What the tools share: options, and how a mistake ends."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mmengine.config import DictAction

from ..analysis.environment import require_one_mm_line
from ..errors import UserError
from ..noise import ignore_warnings, quiet_prints
from .signals import Stopped

__all__ = ['add_cfg_options', 'add_common_options', 'add_safe_config', 'parse_positive', 'run_tool']

# How torch words a mistake that a data worker has raised: with its traceback, which ends in the class and the message.
_IN_WORKER = re.compile(r'^densevit\.errors\.UserError: (.+)', re.MULTILINE | re.DOTALL)


class _KeyValues(DictAction):
    """mmengine's action, which fails with a traceback on a word without ``=``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string} {value}: expected KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options of every tool that runs a config."""
    parser.add_argument('config', help='config file, or the name of a shipped one')
    parser.add_argument(
        '--work-dir',
        help="folder for logs, checkpoints and results (default: work_dirs/<config>; of test.py the checkpoint's)",
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help="'pytorch' under torchrun, 'slurm' under srun (default: none)",
    )
    parser.add_argument(
        '--processes',
        type=parse_positive,
        metavar='N',
        help='start N processes on this machine, one per GPU or on CPUs',
    )
    parser.add_argument('--seed', type=int, help="seed of all random numbers (default: the config's)")
    parser.add_argument(
        '--deterministic', action='store_true', help='use operators that give the same result again; slower on a GPU'
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoint files run code; only for files of people you trust with this computer',
    )
    parser.add_argument('--skip-data-check', action='store_true', help='do not look through the data set first')
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of a mistake, and all that the mm packages say'
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK in the environment
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options``, of every tool that reads a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_KeyValues,
        metavar='KEY=VALUE',
        help='change the config, e.g. data_root=/data/ade train_dataloader.batch_size=4 (beats the file)',
    )
    add_safe_config(parser)


def add_safe_config(parser: argparse.ArgumentParser) -> None:
    """``--safe-config``, of every tool that takes a config file."""
    parser.add_argument(
        '--safe-config',
        action='store_true',
        help='read the config as data, for one of somebody whom you do not trust with this computer: a config is a '
        'program',
    )


def parse_positive(text: str) -> int:
    """A whole number from 1, as an option's type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 1')
    return int(text)


def run_tool(
    parser: argparse.ArgumentParser,
    main: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run ``main`` and return the exit status: ``main``'s own, 2 after a user's mistake, 130 after Ctrl-C.

    After another signal that ``main`` handles, it is 128 + the signal's number.

    An option may stand between two arguments: ``test.py CONFIG --tta CHECKPOINT``.
    """
    args = parser.parse_intermixed_args(argv)
    try:
        require_one_mm_line()
        if getattr(args, 'processes', None) and args.launcher == 'none':
            from .launch import launch  # imports torch

            return launch([sys.executable, *sys.orig_argv[1:], '--launcher', 'pytorch'], args.processes)
        with _guarded(args):
            if args.debug:
                status = main(args)
            else:
                ignore_warnings()
                with quiet_prints():
                    status = main(args)
    except Stopped as stop:
        print(stop, end='\n' if str(stop) else '', file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print('stopped.', file=sys.stderr)
        return 130
    except Exception as error:
        mistake = _mistake(error)
        if getattr(args, 'launcher', 'none') != 'none':
            from .distributed import failure_of_process, leave

            mistake, is_first = failure_of_process(error, mistake)
            if not is_first and not args.debug:
                return leave(2)  # its message would only follow from another's
        if mistake is None:
            raise
        if args.debug:
            traceback.print_exc()
        print(f'error: {mistake}', file=sys.stderr)
        return leave(2) if getattr(args, 'launcher', 'none') != 'none' else 2
    if getattr(args, 'launcher', 'none') != 'none':
        from .distributed import stop_processes  # imports torch

        return stop_processes(status or 0)
    return status or 0


@contextmanager
def _guarded(args: argparse.Namespace) -> Iterator[None]:
    """No checkpoint runs code in a tool that reads any, unless ``--trust-checkpoint`` says so; nor does a config
    with ``--safe-config``.
    """
    with ExitStack() as guards:
        if 'trust_checkpoint' in args:
            from ..checkpoints import safe  # imports torch

            guards.enter_context(safe.guard(args.trust_checkpoint))
        if getattr(args, 'safe_config', False):
            from ..config import safe_parts

            guards.enter_context(safe_parts.guard())
        yield


def _mistake(error: BaseException) -> str | None:
    """The user's mistake in an error's chain: mmengine and data workers raise it again inside their own."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, UserError):
            inner = _IN_WORKER.search(str(link))
            return inner[1].strip() if inner else str(link)
        seen.add(id(link))
        link = link.__cause__ or link.__context__
    return None
