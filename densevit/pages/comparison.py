"""The comparison page: what the models of the index reach, against what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from .figures import PALETTE, SYMBOLS, to_json
from .page import Column, write_page

__all__ = ['write_comparison']

# What results are plotted against where nothing was measured: key of a model, name, whether less is better.
COUNTED = (
    {'id': 'macs', 'name': 'multiply-adds', 'title': 'multiply-adds of one image, G', 'less': True},
    {'id': 'params', 'name': 'parameters', 'title': 'parameters, M', 'less': True},
)
SECTIONS = {'plot': 'Plot', 'results': 'Results', 'without': 'Without a result', 'conditions': 'Conditions'}


def write_comparison(
    path: str | Path,
    models: Mapping[str, Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]] = (),
    unknown: Sequence[str] = (),
) -> Path:
    """Write the page and return its path.

    Args:
        path: the file.
        models, results: see :func:`densevit.engine.model_table.models_of` and ``results_of``.
        measured, unknown: what ``axes_of`` has made of measurements.
    """
    axes = [{**axis, 'values': {name: model[axis['id']] for name, model in models.items()}} for axis in COUNTED]
    axes += map(dict, measured)
    names = list(dict.fromkeys(model['family'] for model in models.values()))
    with_result = {row['model'] for row in results}
    rows = [{**models[row['model']], **row} for row in results]
    for row in rows:
        row['hover'] = _hover(row)
        row['how'] = _how(row)
        row |= {axis['id']: axis['values'].get(row['model']) for axis in measured}
    without = [
        {**model, **{axis['id']: axis['values'].get(name) for axis in measured}}
        for name, model in models.items()
        if name not in with_result
    ]
    columns = [
        Column('params', 'parameters, M', 1),
        Column('macs', 'multiply-adds, G', 1, 'of one image'),
        *(
            Column(
                axis['id'],
                'images/s' if axis['kind'] == 'throughput' else 'peak memory, MB',
                2,
                f'measured: {axis["under"]}; {axis["where"]}',
            )
            for axis in measured
        ),
    ]
    keys = ('model', 'short', 'family', 'method', 'metric', 'value', 'measured', 'tested', 'usual', 'hover')
    data = {
        'metrics': list(dict.fromkeys(row['metric'] for row in rows)),
        'axes': [{key: axis[key] for key in ('id', 'name', 'title', 'less', 'values')} for axis in axes],
        'families': [
            {'name': name, 'color': PALETTE[index % len(PALETTE)], 'symbol': SYMBOLS[index % len(SYMBOLS)]}
            for index, name in enumerate(names)
        ],
        'results': [{key: row[key] for key in keys} | {'series': _series(row)} for row in rows],
    }
    speeds = {name for axis in measured for name in axis['values']}
    return write_page(
        path,
        'comparison.html.j2',
        title='Models: what they reach and what they cost',
        subtitle='All configs of densevit, with the results that their authors, other packages or we have reported.',
        sections=list(SECTIONS.items()),
        plots=True,
        headline=[
            ('models', str(len(models)), f'of {len(names)} families'),
            ('with a published result', str(len({row['model'] for row in rows if not row['measured']})), ''),
            ('with a result of ours', str(len({row['model'] for row in rows if row['measured']})), ''),
            ('with measured speed', str(len(speeds)), 'throughput and memory'),
        ],
        column=Column,
        data=data,
        figure=to_json(_frame(), height=520),
        columns=columns,
        rows=rows,
        without=without,
        measurements=[
            {'what': axis['name'].partition(',')[0], 'models': len(axis['values'])}
            | {key: axis[key] for key in ('under', 'where', 'date')}
            for axis in measured
        ],
        unknown=sorted(set(unknown)),
    )  # fmt: skip


def _series(row: Mapping[str, Any]) -> str:
    """Points with the same are joined by a line: a method, a schedule and a source, on the same weights."""
    return ', '.join(row[key] for key in ('method', 'schedule', 'source', 'weights', 'tested'))


def _how(row: Mapping[str, Any]) -> str:
    """What is to be said of a result, but for numbers."""
    weights = f'on {row["weights"]} weights' if row['weights'] else ''
    return ', '.join(filter(None, (row['tested'], weights, row['conditions'])))


def _hover(row: Mapping[str, Any]) -> str:
    height, width = row['size']
    lines = [
        f'<b>{row["model"]}</b>',
        f'{row["metric"]} {row["value"]}' + (f' ({row["others"]})' if row['others'] else ''),
        f'{row["method"]}, {row["schedule"]}, {row["source"]}',
        _how(row),
        f'{row["params"]:.1f} M parameters, {row["macs"]:.1f} G multiply-adds at {height} x {width}',
    ]
    return '<br>'.join(line for line in lines if line)


def _frame() -> go.Figure:
    """Axes without points, which the page's script draws as its reader chooses."""
    figure = go.Figure()
    figure.update_layout(hovermode='closest')
    figure.update_xaxes(title='', showline=True, ticks='outside', title_standoff=8)
    figure.update_yaxes(title='', showline=True, ticks='outside', title_standoff=8)
    return figure
