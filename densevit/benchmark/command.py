"""What `tools/benchmark.py` does with its arguments."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..errors import UserError
from .accuracy import ACCURATE, accuracy
from .cases import Case, run_case, select, without_numbers
from .child import in_child
from .growth import draw, growth
from .machine import describe
from .models import threads
from .report import print_report, read_results, to_markdown, write_json
from .run import Options, against, inspect

__all__ = ['run_command']

QUICK_SIDES, QUICK_BATCHES, QUICK_SIDE = (64, 96, 128), (1, 2), 64


def run_command(args: argparse.Namespace, command: str) -> int:
    """Measure, print and write; the exit status.

    Raises:
        UserError: arguments that do not fit together, or name something that is not there.
    """
    if args.write_docs is not None:
        return _write_docs(args)
    kind = next((name for name in ('table', 'accuracy', 'growth') if getattr(args, name)), None)
    kind = kind or ('against' if args.against else 'inspect')
    if not args.what and kind not in ('table', 'accuracy'):
        raise UserError("name a config or a backbone, such as 'densevit.SwinTransformer:T'; --help shows examples.")
    if args.picture is not None and kind != 'growth':
        raise UserError('--picture draws the curves of --growth.')
    with threads(args.threads):
        options = _options(args, kind)
        results = _measure(kind, args, options)
        machine = describe(options.torch_device, measure=not args.quick)
    print_report(kind, results)
    if args.picture is not None:
        draw(results, args.picture)
        for result in results:
            result['picture'] = args.picture.name
        print(args.picture.resolve())
    if args.json is not None:
        write_json(args.json, kind, machine, command, results)
        print(args.json.resolve())
    return _status(kind, results)


def _options(args: argparse.Namespace, kind: str) -> Options:
    rounds = args.rounds or (2 if args.quick else 3 if kind == 'growth' else 9)
    return Options(
        size=args.size,
        batch=args.batch,
        train=args.train,
        device=args.device,
        dtype=args.dtype,
        rounds=rounds,
        warmups=1 if args.quick else 2,
        channels_last=args.channels_last,
        compile=args.compile,
        fold=args.fold if args.fold is not None else kind == 'against',
        winograd=args.winograd,
        fast=args.fast,
        tolerance=args.tolerance,
        memory=not args.no_memory,
    )


def _measure(kind: str, args: argparse.Namespace, options: Options) -> list[dict[str, Any]]:
    if kind == 'inspect':
        return [inspect(name, options) for name in args.what]
    if kind == 'against':
        packages = [name.strip() for name in args.against.split(',') if name.strip()]
        return [against(name, packages, options) for name in args.what]
    if kind == 'accuracy':
        return [accuracy(name, seeds=1 if args.quick else 5, size=args.size) for name in args.what or ACCURATE]
    if kind == 'growth':
        chosen = dict(sides=QUICK_SIDES, batches=QUICK_BATCHES, batch_side=QUICK_SIDE) if args.quick else {}
        return [growth(name, options, **chosen) for name in args.what]
    console, results = Console(stderr=True), []
    cases = select(args.what)
    for index, case in enumerate(cases):
        console.print(f'{index + 1} of {len(cases)}: {case.name}', highlight=False)
        try:
            results.append(_case(case, options, args))
        except Exception as error:  # the other cases have taken minutes, and are not lost
            if args.debug:
                raise
            why = str(error).strip().partition('\n')[0] or type(error).__name__
            console.print(f'{case.name} failed: {why}', highlight=False)
            results.append(without_numbers(case, f'not measured: {why}'))
    return results


def _case(case: Case, options: Options, args: argparse.Namespace) -> dict[str, Any]:
    """A case in a process of its own; in this one with --debug, for its traceback."""
    if args.debug:
        return run_case(case, options, quick=args.quick, rounds=args.rounds)
    arguments = dict(
        kind='case', case=case.name, quick=args.quick, rounds=args.rounds, options=asdict(options),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return in_child(arguments)


def _status(kind: str, results: list[dict[str, Any]]) -> int:
    if kind == 'table':
        return int(any(case['met'] is False or case.get('wrong') for case in results))
    if kind == 'accuracy':
        return int(not all(row['within'] for result in results for row in result['rows']))
    return int(any(result.get('wrong') for result in results))


def _write_docs(args: argparse.Namespace) -> int:
    if not args.what:
        raise UserError('--write-docs needs result files, such as docs/performance/table.json.')
    text = to_markdown(read_results([Path(name) for name in args.what]))
    args.write_docs.parent.mkdir(parents=True, exist_ok=True)
    args.write_docs.write_text(text)
    print(args.write_docs.resolve())
    return 0
