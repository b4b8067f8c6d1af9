"""The page of a test: from the numbers of ``report.json`` and the images' cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .figures import DASHES, PALETTE, to_json
from .page import Card, Column, write_page

__all__ = ['PERCENT', 'RECALLS', 'VERSION', 'known', 'training_figures', 'write_report_page']

VERSION = 2  # of report.json
RECALLS = np.linspace(0, 1, 101)  # those of COCO's curves
PERCENT = ('IoU', 'Acc', 'Dice', 'Fscore', 'Precision', 'Recall')  # of a class; all other scores are 0 to 1
_WORDS = {
    'mIoU': 'mean over the classes, %',
    'mAcc': 'pixels found, mean over the classes, %',
    'aAcc': 'pixels right, %',
    'bbox_mAP': 'boxes, IoU 0.5 to 0.95',
    'segm_mAP': 'masks, IoU 0.5 to 0.95',
    'bbox_mAP_50': 'boxes, IoU 0.5',
    'segm_mAP_50': 'masks, IoU 0.5',
    'bbox_mAP_75': 'boxes, IoU 0.75',
    'segm_mAP_75': 'masks, IoU 0.75',
    'pointing': 'highest attention lies on the class',
    'centre': 'centre of the image does',
    'energy': 'share of attention on the class',
    'area': 'share of the pixels',
}
BACKGROUND = 'nothing'  # of detections
_CONFUSIONS = 40  # rows of the table
_WITH_NUMBERS = 24  # classes of a confusion matrix whose cells have room for a number


def write_report_page(
    path: Path,
    data: Mapping[str, Any],
    *,
    cards: Sequence[Card],
    worst: Sequence[Card],
    best: Sequence[Card],
    examples: Sequence[Card],
) -> Path:
    """Write the page of a test.

    Args:
        path: the file.
        data: what ``report.json`` holds, see :func:`densevit.engine.report.write_report`.
        cards: of all images.
        worst, best: of some, with large pictures.
        examples: in place of these where nothing is scored.
    """
    segmentation = data['task'] == 'segmentation'
    parts = {
        'columns': _columns(data['per_class']),
        'rows': [{'class': name, **row} for name, row in data['per_class'].items()],
        'bars': _class_bars(data['per_class'], segmentation) if data['per_class'] else None,
        'confusion': None,
        'confusions': [],
        'curves': _precision_recall(data['curves']) if data['curves'] else None,
        'points': None,
        'failures': [(failure, _failure_bars(failure)) for failure in data['failures']],
        'position': _position(data['position']) if data['position'] else None,
        'training': training_figures({'': data['training']}),
    }
    if data['confusion'] is not None:
        matrix = np.asarray(data['confusion'])
        names = [*data['classes'], *([] if segmentation else [BACKGROUND])]
        parts['confusion'] = _confusion(matrix, names, 'pixels' if segmentation else 'objects')
        parts['confusions'] = _most_confused(matrix, names)
        if segmentation:
            parts['points'] = _precision_recall_points(matrix, names)
    shown = (
        ('metrics', 'Metrics', True),
        ('classes', 'Classes', parts['rows']),
        ('confusion', 'Confusion', parts['confusion']),
        ('curves', 'Precision and recall', parts['curves'] or parts['points']),
        ('failures', 'Where it fails', parts['failures']),
        ('worst', 'Worst images', worst),
        ('best', 'Best images', best),
        ('examples', 'Examples', examples),
        ('images', 'All images', cards),
        ('training', 'Training', parts['training']),
        ('card', 'Model card', True),
    )
    sections = [(id, name) for id, name, there in shown if there]
    facts = data['card']['facts']
    return write_page(
        path,
        'report.html.j2',
        title=data['name'],
        subtitle=f'{facts["checkpoint"]}, tested on {facts["data"]}, {facts["date"]}',
        sections=sections,
        plots=True,
        conditions=data['conditions'],
        headline=headline(data['metrics']),
        segmentation=segmentation,
        data=data,
        cards=cards,
        worst=worst,
        best=best,
        examples=examples,
        attention=any(each.caption.startswith('attention') for card in (*worst, *best) for each in card.large),
        complexity=_complexity(data['card']),
        **parts,
    )


def headline(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """Name, value and explanation of the metrics, those by object size left out."""
    chosen = [(name, value) for name, value in metrics.items() if not name.endswith(('_s', '_m', '_l'))]
    rows = []
    for name, value in chosen[:8]:
        short = name.rpartition('/')[2]
        percent = short in ('mIoU', 'mAcc', 'aAcc')
        scored = known(value, -1) != -1  # which is COCO's word for it
        rows.append((short, f'{value:.{1 if percent else 3}f}' if scored else '–', _WORDS.get(short, '')))
    return rows


def _columns(per_class: Mapping[str, Mapping[str, float]]) -> list[Column]:
    names = list(next(iter(per_class.values()), {}))
    return [Column('class', 'class'), *(Column(name, name, _digits(name)) for name in names)]


def _digits(name: str) -> int:
    """Of percentages, counts, and shares of one."""
    return 1 if name in PERCENT else 0 if name == 'images' else 3


def _class_bars(per_class: Mapping[str, Mapping[str, float]], segmentation: bool) -> str:
    wanted = ('IoU', 'Acc') if segmentation else ('bbox_mAP', 'segm_mAP')
    measures = [name for name in wanted if name in next(iter(per_class.values()))]
    if not measures:
        measures = list(next(iter(per_class.values())))[:2]
    ranked = sorted(per_class.items(), key=lambda item: known(item[1][measures[0]], -1))
    names = [name for name, _ in ranked]
    figure = go.Figure()
    for index, measure in enumerate(measures):
        figure.add_bar(
            y=names,
            x=[known(row[measure], None) for _, row in ranked],
            name=measure,
            orientation='h',
            marker=dict(color=PALETTE[index], pattern_shape='/' if index else ''),
        )
    figure.update_layout(
        barmode='group', bargap=0.25, showlegend=True, yaxis_dtick=1, yaxis_type='category', legend_traceorder='normal'
    )
    figure.update_xaxes(range=[0, 100 if segmentation else 1], side='top')
    return to_json(figure, 90 + (14 + 10 * len(measures)) * len(names))


def _confusion(matrix: np.ndarray, names: Sequence[str], unit: str) -> str:
    """Each row in percent of its truth; once as it is, once as logarithm. Cells of few classes have the number too."""
    totals = matrix.sum(1, keepdims=True)
    percent = 100 * np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    text = dict(customdata=np.stack([matrix, percent.round(3)], -1).astype(np.float32), x=names, y=names)
    text['hovertemplate'] = (
        f'truth %{{y}}<br>predicted %{{x}}<br>%{{customdata[1]:.2f}} % of the truth, %{{customdata[0]:,}} {unit}'
        '<extra></extra>'
    )
    if len(names) <= _WITH_NUMBERS:
        shown = np.where(percent >= 0.5, np.char.mod('%.0f', percent), '')  # of nan too
        text |= dict(text=shown, texttemplate='%{text}')
    bar = dict(orientation='h', y=1, yanchor='bottom', thickness=12, x=0.5)
    with np.errstate(divide='ignore'):
        log = np.log10(percent.clip(min=1e-3))
    ticks = [-3, -2, -1, 0, 1, 2]
    figure = go.Figure([
        go.Heatmap(
            z=percent.astype(np.float32), zmin=0, zmax=100, meta='linear', colorscale='Viridis',
            colorbar=dict(bar, title='% of the truth'), **text,
        ),
        go.Heatmap(
            z=log.astype(np.float32), zmin=-3, zmax=2, meta='logarithmic', colorscale='Viridis',
            colorbar=dict(
                bar, title='% of the truth, logarithmic', tickvals=ticks,
                ticktext=['≤ 0.001', '0.01', '0.1', '1', '10', '100'],
            ),
            **text,
        ),
    ])  # fmt: skip
    figure.update_xaxes(title='predicted', type='category', tickangle=-90, showgrid=False)
    figure.update_yaxes(title='truth', type='category', autorange='reversed', showgrid=False)
    return to_json(figure, int(np.clip(260 + 22 * len(names), 420, 690)))


def _most_confused(matrix: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """The largest entries beside the diagonal."""
    totals, wrong = matrix.sum(1), matrix.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind='stable')[:_CONFUSIONS]
    pairs = [(int(index) // len(names), int(index) % len(names)) for index in largest]
    return [
        {
            'truth': names[row],
            'predicted': names[column],
            'share': None if names[row] == BACKGROUND else 100 * float(matrix[row, column] / totals[row]),
            'count': int(matrix[row, column]),
        }
        for row, column in pairs
        if wrong[row, column] > 0
    ]


def _precision_recall(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Per class and their mean, boxes and masks; one class is shown at a time."""
    figure = go.Figure()
    words = {'bbox': 'boxes', 'segm': 'masks'}
    for index, (kind, by_class) in enumerate(curves.items()):
        if not by_class:
            continue
        mean = np.mean(list(by_class.values()), axis=0)
        for name, curve in {'mean over the classes': mean, **by_class}.items():
            figure.add_scatter(
                x=RECALLS, y=np.round(np.asarray(curve, float), 4), name=words.get(kind, kind), meta=name,
                mode='lines', line=dict(color=PALETTE[index], dash=DASHES[index], width=2.5),
            )  # fmt: skip
    figure.update_xaxes(title='recall', range=[0, 1.01])
    figure.update_yaxes(title='precision', range=[0, 1.02])
    figure.update_layout(showlegend=True)
    return to_json(figure)


def _precision_recall_points(matrix: np.ndarray, names: Sequence[str]) -> str:
    hits, true, found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    there = (true > 0) & (found > 0)
    recall, precision = 100 * hits[there] / true[there], 100 * hits[there] / found[there]
    shown = [name for name, each in zip(names, there) if each]
    figure = go.Figure(
        go.Scatter(
            x=recall, y=precision, text=shown, mode='markers+text' if len(shown) <= 25 else 'markers',
            textposition='top center', textfont=dict(size=11), cliponaxis=False,
            marker=dict(color=PALETTE[0], size=9, symbol='diamond', line=dict(width=1, color='white')),
            hovertemplate='%{text}<br>recall %{x:.1f} %<br>precision %{y:.1f} %<extra></extra>',
        )
    )  # fmt: skip
    figure.update_xaxes(title='recall, % of the pixels of a class', range=[0, 104])
    figure.update_yaxes(title='precision, % of the pixels called so', range=[0, 108])
    return to_json(figure, 480)


def _failure_bars(failure: Mapping[str, Any]) -> str:
    rows = failure['rows']
    figure = go.Figure(
        go.Bar(
            y=[row['name'] for row in rows],
            x=[known(row['value'], None) for row in rows],
            text=['' if known(row['value'], None) is None else f'{row["value"]:.1f}' for row in rows],
            customdata=[row['count'] for row in rows],
            hovertemplate=f'%{{y}}: %{{x:.2f}} %<br>%{{customdata:,}} {failure["count"]}<extra></extra>',
            orientation='h',
            marker_color=PALETTE[0],
        )
    )
    figure.update_yaxes(autorange='reversed', type='category')
    figure.update_xaxes(title=failure['value'], rangemode='tozero')
    return to_json(figure, 110 + 34 * len(rows))


def _position(position: Mapping[str, Any]) -> str:
    values = np.array([[known(value, math.nan) for value in row] for row in _listed(position['values'])])
    figure = go.Figure(
        go.Heatmap(
            z=values,
            colorscale='Viridis',
            texttemplate='%{z:.0f}',
            hovertemplate='%{z:.2f} %<extra></extra>',
            colorbar=dict(thickness=12),
        )
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange='reversed')
    return to_json(figure, 380)


def training_figures(runs: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> list[tuple[str, str, str]]:
    """Title, figure and summary of the curves of one or several runs, by the runs' names."""
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    metrics = [name for name in names if not name.startswith('val/') and name not in ('loss', 'lr')]
    main = [name for name in metrics if name.rpartition('/')[2] in ('mIoU', 'mAcc', 'aAcc', 'bbox_mAP', 'segm_mAP')]
    groups = (
        ('Loss', ['loss', 'val/loss'], 'Training and validation loss by iteration.'),
        ('Metrics', main or metrics[:6], 'Metrics of the validations by iteration.'),
        ('Learning rate', ['lr'], 'Learning rate by iteration.'),
    )
    words = {'loss': 'training', 'val/loss': 'validation'}
    found = []
    for title, wanted, summary in groups:
        figure = go.Figure()
        for number, (run, curves) in enumerate(runs.items()):
            for index, name in enumerate(each for each in wanted if each in curves):
                x, y = zip(*curves[name])
                color = index if len(runs) == 1 else number
                figure.add_scatter(
                    x=x, y=y, name=' '.join(filter(None, [run, words.get(name, name.rpartition('/')[2])])),
                    mode='lines' if name in ('loss', 'lr') else 'lines+markers',
                    line=dict(color=PALETTE[color % len(PALETTE)], dash=DASHES[index % len(DASHES)]),
                )  # fmt: skip
        if figure.data:
            figure.update_xaxes(title='iteration')
            figure.update_layout(showlegend=len(figure.data) > 1, hovermode='x')
            found.append((title, to_json(figure, 340), summary))
    return found


def _complexity(card: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        {
            'part': row['part'],
            'params': row['params'] / 1e6,
            'macs': None if row['macs'] is None else row['macs'] / 1e9,
        }
        for row in card['parts']
    ]
    columns = [Column('part', 'part'), Column('params', 'parameters, M', 2), Column('macs', 'multiply-adds, G', 2)]
    return {'columns': columns, 'rows': rows, 'of': card['parts_of']}


def known(value: float | None, otherwise: Any) -> Any:
    """A number, or something else where it is nan or, out of JSON, None."""
    return otherwise if value is None or math.isnan(value) else value


def _listed(values: Any) -> list[list[float | None]]:
    return values.tolist() if hasattr(values, 'tolist') else values
