"""What the comparison page shows: the models of the index, their results, and measurements of them, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..benchmark.report import conditions, machine_line
from ..errors import UserError
from .model_index import MEND, OURS, Family

__all__ = ['axes_of', 'models_of', 'results_of']

METHODS = {
    'upernet': 'UPerNet',
    'semfpn': 'Semantic FPN',
    'mask_rcnn': 'Mask R-CNN',
    'cascade_mask_rcnn': 'Cascade Mask R-CNN',
}
# What is plotted: by the metafiles' names the metric, and how it was tested where that is not as usual. Others are told
# beside these.
METRICS = {
    'mIoU': ('mIoU', ''),
    'mIoU(ms+flip)': ('mIoU', 'several scales and flips'),
    'box AP': ('box AP', ''),
    'mask AP': ('mask AP', ''),
}


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
    """A row for each number that somebody reported or we measured, with what is to be known of it.

    ``usual`` is what can be compared: tested at one scale without flips, and under no conditions of its own.
    """
    rows = []
    for family in families:
        for model in family.models:
            for result in model['Results']:
                others = [f'{key} {value}' for key, value in result['Metrics'].items() if key not in METRICS]
                measured = result['Source'] == OURS
                for name, (metric, tested) in METRICS.items():
                    if name not in result['Metrics']:
                        continue
                    own = [tested, *([] if measured else [result.get('Conditions', '')])]
                    rows.append(
                        {
                            'model': model['Name'],
                            'metric': f'{result["Dataset"]} {metric}',
                            'value': result['Metrics'][name],
                            'source': result['Source'],
                            'measured': measured,
                            'tested': tested,
                            'weights': result.get('Backbone Weights', {}).get('Training Data', ''),
                            'conditions': result.get('Conditions', ''),
                            'usual': not any(own),
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


def _schedule(metadata: Mapping[str, Any]) -> str:
    return f'{metadata["Epochs"]} epochs' if 'Epochs' in metadata else f'{metadata["Iterations"]} iterations'
