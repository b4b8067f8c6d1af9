"""What ``docs/timm.md`` says: of every family of timm's models, whether the smallest can be a backbone, and why not."""

from __future__ import annotations

import multiprocessing
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import timm
import torch
from timm.models import model_entrypoint

from ..backbones.timm_geometry import Geometry, create, geometry_of

__all__ = ['Row', 'families', 'look_at', 'render', 'smallest', 'sweep']

_LONGEST = 160  # characters of a reason; timm's own may quote whole tables


@dataclass(frozen=True)
class Row:
    """What was found of one model; ``why`` is empty where it can be a backbone."""

    module: str
    model: str
    of: int
    parameters: int
    geometry: Geometry | None
    why: str = ''


def families(names: Iterable[str] | None = None) -> dict[tuple[str, str], list[str]]:
    """timm's models by module and by the letters that their names begin with, such as ``('resnet', 'resnetrs')``.

    Left out are the ones that timm has for its own tests.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for name in timm.list_models() if names is None else names:
        if not name.startswith('test_'):
            stem = re.match(r'[a-z]+', name.removeprefix('tf_'))
            found.setdefault((module_of(name), stem[0] if stem else name), []).append(name)
    return dict(sorted(found.items()))


def module_of(name: str) -> str:
    """The file of ``timm.models`` that defines a model."""
    return model_entrypoint(name).__module__.rpartition('.')[2]


def smallest(names: Sequence[str]) -> tuple[str, int]:
    """The model with the fewest parameters, and how many; without a classifier."""
    with torch.device('meta'):
        counts = {name: sum(p.numel() for p in create(name, {}).parameters()) for name in names}
    name = min(counts, key=counts.__getitem__)
    return name, counts[name]


def look_at(names: Sequence[str]) -> Row:
    """The row of a family."""
    name, parameters = smallest(names)
    row = Row(module_of(name), name, len(names), parameters, None)
    try:
        return Row(**{**vars(row), 'geometry': geometry_of(name, {'in_chans': 3})})
    except ValueError as error:
        why = str(error).partition('cannot be a backbone: ')[2] or str(error)
        why = re.sub(r'\s+', ' ', why).rstrip('. ')
        return Row(**{**vars(row), 'why': why if len(why) <= _LONGEST else f'{why[:_LONGEST]} ...'})


def sweep(jobs: int, chosen: Mapping[tuple[str, str], list[str]] | None = None) -> list[Row]:
    """The rows of all families, found by ``jobs`` processes without memory for weights."""
    groups = list((families() if chosen is None else chosen).values())
    with multiprocessing.get_context('spawn').Pool(jobs, initializer=_quiet) as pool:
        return sorted(pool.imap_unordered(look_at, groups), key=lambda row: (row.module, row.model))


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')


def render(rows: Sequence[Row]) -> str:
    """The page, in Markdown."""
    good = [row for row in rows if row.geometry]
    models = sum(row.of for row in rows)
    parts = [
        '# Models of timm as backbones',
        '<!-- written by `python tools/timm_table.py --write` -->',
        f'timm {timm.__version__} has {models} models in {len(rows)} families: those of one file whose names begin '
        f'alike. Of each the smallest was looked at, without weights: {len(good)} can be a `densevit.TimmBackbone`, '
        f'{len(rows) - len(good)} cannot. Other members of a family can differ, and building one tells.',
        'Channels and strides are those of the maps that are returned unless `out_indices` asks for others. Images are '
        'padded to multiples of *padded to*, and the maps cut to ceil(H / stride) x ceil(W / stride) again; models '
        'with 1 there take every size by themselves. Between a column, whose maps have one stride, and a head goes '
        '`densevit.ColumnarPyramid`.',
        '## Supported',
        _table(
            ['file', 'model', 'of', 'parameters', 'channels', 'strides', 'padded to'], [_supported(r) for r in good]
        ),
        '## Refused',
        _table(['file', 'model', 'of', 'why'], [_refused(r) for r in rows if not r.geometry]),
    ]
    return '\n\n'.join(parts) + '\n'


def _supported(row: Row) -> list[str]:
    geometry = row.geometry
    assert geometry is not None
    indices = geometry.default_indices
    channels, strides = ([values[i] for i in indices] for values in (geometry.channels, geometry.strides))
    return [*_head(row), f'{row.parameters / 1e6:.1f} M', _short(channels), _short(strides), str(geometry.divisor)]


def _refused(row: Row) -> list[str]:
    return [*_head(row), row.why.replace('|', '\\|').replace('<', '&lt;')]


def _head(row: Row) -> list[str]:
    return [f'`{row.module}`', f'`{row.model}`', str(row.of)]


def _short(numbers: Sequence[int]) -> str:
    """Numbers, those that repeat once: ``4 x 384``."""
    runs = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ', '.join(f'{count} x {number}' if count > 1 else str(number) for number, count in runs)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (heads, ['---'] * len(heads), *rows))
