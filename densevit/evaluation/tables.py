"""Results as a text table and as a JSON file."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ['merged', 'metrics_table', 'write_json', 'write_text']


def metrics_table(
    per_class: Mapping[str, Mapping[str, float]], summary: Mapping[str, float], *, digits: int = 2
) -> str:
    """One row per class, one column per measure, and below it one line with the ``summary``.

    Args:
        per_class: class name to {measure: value}; every class has the measures of the first one.
        summary: name to value.
        digits: decimals printed. nan (nothing to score) is printed as ``-``.
    """
    columns = list(next(iter(per_class.values()), {}))
    table = Table(box=box.ASCII)
    table.add_column('class', overflow='fold')
    for column in columns:
        table.add_column(column, justify='right')
    for name, row in per_class.items():
        table.add_row(name, *(_number(row[column], digits) for column in columns))
    # As wide as it needs to be: this goes to a log file, not to a terminal of some width.
    console = Console(file=io.StringIO(), width=400, color_system=None, markup=False, emoji=False, highlight=False)
    console.print(table)
    line = '  '.join(f'{name}: {_number(value, digits)}' for name, value in summary.items())
    return f'{console.file.getvalue()}{line}'


def merged(metrics: Iterable[Any], name: str) -> dict[str, dict]:
    """What several metrics have in an attribute ``name`` that maps to rows: the rows of one key, joined."""
    rows: dict[str, dict] = {}
    for metric in metrics:
        for key, row in getattr(metric, name, {}).items():
            rows.setdefault(key, {}).update(row)
    return rows


def write_json(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Write ``results`` as strict JSON (nan and infinities become null), whole or not at all.

    Numpy and torch scalars and arrays become numbers and lists.
    """
    write_text(path, json.dumps(_plain(results), indent=2, allow_nan=False, ensure_ascii=False) + '\n')


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all.

    It is written beside ``path``, flushed to the disk and renamed; the folder is made where it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        'w', encoding='utf-8', dir=path.parent, prefix=f'.{path.name}.', delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            # A temporary file is private; a result is as readable as any file that its owner makes.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _number(value: float, digits: int) -> str:
    return '-' if math.isnan(value) else f'{value:.{digits}f}'


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, 'tolist'):  # numpy and torch, scalars too
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
