"""The run behind ``tools/compare_models.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..benchmark.machine import describe
from ..benchmark.models import threads
from ..benchmark.report import machine_line, read_results
from ..benchmark.report import write_json as write_results
from ..benchmark.run import Options, inspect
from ..config.reading import configs_dir
from ..errors import UserError, did_you_mean
from ..pages.comparison import write_comparison
from .model_index import read_families
from .model_table import axes_of, models_of, results_of

__all__ = ['compare_models', 'measure']


def compare_models(args: argparse.Namespace) -> int:
    """Measure where that is asked for, write the page and print its path; 1 where a model could not be measured.

    Raises:
        UserError: a name that no model has, or a file that holds no measurements.
    """
    families = read_families(configs_dir().parent)
    models = models_of(families)
    failed: list[str] = []
    if args.measure is not None:
        names = chosen(args.measure, models)
        options = Options(device=args.device, dtype=args.dtype, batch=args.batch, rounds=args.rounds, fold=True)
        with threads(args.threads):
            failed = measure(names, {name: model['size'] for name, model in models.items()}, options, args.json)
    files = [*([args.json] if args.json.is_file() else []), *args.results]
    contents = read_results(files)
    for file, content in zip(files, contents, strict=True):
        if content['kind'] != 'inspect':
            raise UserError(
                f'{str(file)!r} has results of kind {content["kind"]!r}, in which no model was measured alone; give '
                'what `tools/benchmark.py MODEL --json FILE` or --measure has written.'
            )
    page = write_comparison(args.out, models, results_of(families), *axes_of(models, contents))
    print(page.resolve())
    return 1 if failed else 0


def chosen(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The models that patterns such as ``'upernet_*'`` mean; all where there is none.

    Raises:
        UserError: a pattern that means none.
    """
    names = list(names)
    found: dict[str, None] = {}
    for pattern in patterns or ['*']:
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise UserError(f'--measure: no model is called {pattern!r}{did_you_mean(pattern, names) or "."}')
        found |= dict.fromkeys(fitting)
    return list(found)


def measure(names: Sequence[str], sizes: dict[str, tuple[int, int]], options: Options, file: Path) -> list[str]:
    """Measure models one after the other, into a JSON file of ``tools/benchmark.py``'s form, which is always whole.

    Models that the file has under the same conditions are not measured again, so a run that was stopped goes on.

    Args:
        names: of shipped configs.
        sizes: of the images, by name.
        options: how to measure; ``size`` is not used.
        file: where the measurements are kept.

    Returns:
        The models that could not be measured; what was against it has been printed.

    Raises:
        UserError: the file is of another machine, whose times would be mixed with this one's.
    """
    console = Console(stderr=True)
    machine = describe(options.torch_device, measure=False)
    results: list[dict[str, Any]] = []
    if file.is_file():
        (content,) = read_results([file])
        if content['kind'] != 'inspect' or machine_line(content['machine']) != machine_line(machine):
            raise UserError(
                f'{str(file)!r} holds other measurements ({machine_line(content["machine"])}, this is '
                f'{machine_line(machine)}); choose another file by --json, and give this one as an argument.'
            )
        results = content['results']
    failed = []
    for number, name in enumerate(names, 1):
        if any(_same(result, name, sizes[name], options) for result in results):
            continue
        console.print(f'{number} of {len(names)}: {name}', highlight=False)
        try:
            results.append(inspect(name, replace(options, size=sizes[name])))
        except Exception as error:  # most likely there is too little memory for this one
            failed.append(name)
            reason = str(error).strip().partition('\n')[0] or type(error).__name__
            console.print(f'{name} was not measured: {reason}', highlight=False)
            continue
        part = file.with_name(f'{file.name}.part')
        write_results(part, 'inspect', machine, ' '.join(['python', *sys.argv]), results)
        part.replace(file)
    return failed


def _same(result: dict[str, Any], name: str, size: tuple[int, int], options: Options) -> bool:
    """Whether a result is of this model under these conditions."""
    wanted = {**asdict(options), 'model': name, 'size': list(size), 'threads': torch.get_num_threads()}
    keys = ('model', 'size', 'batch', 'train', 'device', 'dtype', 'threads', 'channels_last', 'compile', 'fold')
    return all(result[key] == wanted[key] for key in keys)
