"""The comparison page: what the models of the index reach, against what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..benchmark.report import conditions, machine_line
from ..engine.model_index import MEND, OURS, Family
from ..errors import UserError
from .figures import PALETTE, SYMBOLS, to_json
from .page import Column, write_page

__all__ = ['axes_of', 'models_of', 'results_of', 'write_comparison']

METHODS = {
    'upernet': 'UPerNet',
    'semfpn': 'Semantic FPN',
    'mask_rcnn': 'Mask R-CNN',
    'cascade_mask_rcnn': 'Cascade Mask R-CNN',
}
# Results for one image size and no averaging; the others are told beside them.
METRICS = ('mIoU', 'box AP', 'mask AP')
# What results are plotted against where nothing was measured: key of a model, name, whether less is better.
COUNTED = (
    {'id': 'macs', 'name': 'multiply-adds', 'title': 'multiply-adds of one image, G', 'less': True},
    {'id': 'params', 'name': 'parameters', 'title': 'parameters, M', 'less': True},
)
SECTIONS = {'plot': 'Plot', 'results': 'Results', 'without': 'Without a result', 'conditions': 'Conditions'}


def models_of(families: Iterable[Family]) -> dict[str, dict[str, Any]]:
    """By its name: family, method, data, size of the image, parameters in millions and multiply-adds in billions.

    Raises:
        UserError: a model was not counted yet.
    """
    found = {}
    for family in families:
        for model in family.models:
            if 'Metadata' not in model:
                raise UserError(f'{family.path}: {model["Name"]} has no Metadata: {MEND}.')
            metadata = model['Metadata']
            method, backbone, _ = model['Name'].rsplit('_', 2)
            found[model['Name']] = {
                'model': model['Name'],
                'short': backbone,
                'family': family.collection['Name'],
                'method': METHODS.get(method, method),
                'data': metadata['Training Data'],
                'size': tuple(metadata['Input Size']),
                'params': metadata['Parameters'] / 1e6,
                'macs': metadata['MACs'] / 1e9,
                'schedule': _schedule(metadata),
            }
    return found


def results_of(families: Iterable[Family]) -> list[dict[str, Any]]:
    """A row for each number that somebody reported or we measured, with what is to be known of it."""
    rows = []
    for family in families:
        for model in family.models:
            for result in model['Results']:
                for name, value in result['Metrics'].items():
                    if name not in METRICS:
                        continue
                    others = [f'{key} {each}' for key, each in result['Metrics'].items() if key not in METRICS]
                    rows.append(
                        {
                            'model': model['Name'],
                            'metric': f'{result["Dataset"]} {name}',
                            'value': value,
                            'source': result['Source'],
                            'measured': result['Source'] == OURS,
                            'weights': result.get('Backbone Weights', {}).get('Training Data', ''),
                            'conditions': result.get('Conditions', ''),
                            'others': ', '.join(others),
                        }
                    )
    return rows


def axes_of(
    models: Mapping[str, Mapping[str, Any]], contents: Iterable[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """What was measured of the models: throughput and peak memory under each of the conditions.

    Args:
        models: of :func:`models_of`.
        contents: of result files of ``tools/benchmark.py``, of its kind ``'inspect'``.

    Returns:
        The axes, each with its ``values`` by model, and the measured models that the index does not know.
    """
    axes: dict[tuple, dict[str, Any]] = {}
    unknown = []
    for content in contents:
        for result in content['results']:
            name = Path(result['model']).stem
            if name not in models:
                unknown.append(result['model'])
                continue
            # images have the size that a model's multiply-adds are counted for, or this is another experiment
            usual = tuple(result['size']) == models[name]['size']
            under = conditions(result)
            if usual:
                under = under.replace(f', {result["size"][0]} x {result["size"][1]},', ',')
            where = machine_line(content['machine']).partition(', measured ')[0]
            for kind, key, title, scale in (
                ('throughput', 'images_per_s', 'images per second', 1.0),
                ('memory', 'peak_bytes', 'peak memory, MB', 1e-6),
            ):
                if result.get(key) is None:
                    continue
                axis = axes.setdefault(
                    (kind, under, where),
                    {
                        'id': f'{kind}-{len(axes)}',
                        'name': f'{kind}, measured: {under}',
                        'title': f'{title} ({result["device"]}, {result["dtype"]}, batch {result["batch"]})',
                        'less': kind == 'memory',
                        'kind': kind,
                        'under': under,
                        'where': where,
                        'date': content['machine'].get('date', ''),
                        'values': {},
                    },
                )
                axis['values'][name] = result[key] * scale
    return list(axes.values()), unknown


def write_comparison(path: str | Path, families: Sequence[Family], contents: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write the page and return its path.

    Args:
        path: the file.
        families: the metafiles, :func:`densevit.engine.model_index.read_families`.
        contents: measurements, the content of JSON files of ``tools/benchmark.py``.
    """
    models, results = models_of(families), results_of(families)
    measured, unknown = axes_of(models, contents)
    axes = [{**axis, 'values': {name: model[axis['id']] for name, model in models.items()}} for axis in COUNTED]
    axes += measured
    names = list(dict.fromkeys(model['family'] for model in models.values()))
    with_result = {row['model'] for row in results}
    rows = [{**models[row['model']], **row} for row in results]
    for row in rows:
        row['hover'] = _hover(row)
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
    keys = ('model', 'short', 'family', 'method', 'metric', 'value', 'measured', 'conditions', 'hover')
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
    return ', '.join(row[key] for key in ('method', 'schedule', 'source', 'weights'))


def _schedule(metadata: Mapping[str, Any]) -> str:
    return f'{metadata["Epochs"]} epochs' if 'Epochs' in metadata else f'{metadata["Iterations"]} iterations'


def _hover(row: Mapping[str, Any]) -> str:
    height, width = row['size']
    lines = [
        f'<b>{row["model"]}</b>',
        f'{row["metric"]} {row["value"]}' + (f' ({row["others"]})' if row['others'] else ''),
        f'{row["method"]}, {row["schedule"]}, {row["source"]}',
        f'on {row["weights"]} weights' if row['weights'] else '',
        row['conditions'],
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
