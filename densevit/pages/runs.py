"""Two tested runs in one page: from what their reports wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..errors import UserError
from .figures import DASHES, PALETTE, to_json
from .page import Card, Column, write_page
from .report import PERCENT, RECALLS, VERSION, known, training_figures
from .thumbnails import Picture

__all__ = ['compare_runs', 'read_report']

SHOWN = 24  # images
_MAIN = ('IoU', 'segm_mAP', 'bbox_mAP')  # the measure that classes are compared by: the first that both have


def read_report(folder: str | Path) -> dict[str, Any]:
    """The numbers of a report.

    Args:
        folder: what ``tools/test.py --report`` was given, or ``report.json`` in it.

    Raises:
        UserError: there is no report, or it is of another version.
    """
    path = Path(folder)
    path = path / 'report.json' if path.is_dir() else path
    if not path.is_file():
        raise UserError(f'{str(folder)!r} holds no report.json: write one with tools/test.py ... --report {folder}.')
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise UserError(f'{str(path)!r} is no JSON ({error}): write the report again.') from error
    version = data.get('version') if isinstance(data, dict) else None
    if version != VERSION:
        raise UserError(f'{str(path)!r} is a report of version {version}, expected {VERSION}: write it again.')
    return data


def compare_runs(first: str | Path, second: str | Path, out: str | Path) -> tuple[Path, list[str]]:
    """Write a page that holds two runs side by side, differences as second minus first.

    Returns its path, and a sentence for each condition of the tests that is not the same for both.

    Args:
        first, second: folders of reports.
        out: the page.

    Raises:
        UserError: a report is missing, or they are not of the same classes and images.
    """
    a, b = read_report(first), read_report(second)
    _check_same(a, b)
    names = _names(a, b, first, second)
    measure = next((name for name in _MAIN if all(_has(each, name) for each in (a, b))), None)
    rows = _class_rows(a, b, measure) if measure else []
    digits = _digits(measure)
    unequal = _unequal(a, b, names)
    parts = {
        'metrics': _metric_rows(a, b),
        'class_columns': _columns('class', 'class', names, digits),
        'class_rows': rows,
        'bars': _difference_bars(rows, measure, names) if rows else None,
        'curves': _curves(a, b, names),
        'failures': _failures(a, b, names),
        'cards': _cards(a, b, names, first, second),
        'training': training_figures({name: each['training'] for name, each in zip(names, (a, b))}),
    }
    shown = (
        ('metrics', 'Metrics', True),
        ('classes', 'Classes', rows),
        ('curves', 'Precision and recall', parts['curves']),
        ('failures', 'Where they fail', parts['failures']),
        ('images', 'Images', parts['cards']),
        ('training', 'Training', parts['training']),
        ('card', 'Model cards', True),
    )
    page = write_page(
        out,
        'runs.html.j2',
        title=f'{names[0]} and {names[1]}',
        subtitle=f'{len(a["images"])} images, {len(a["classes"])} classes; differences are {names[1]} minus {names[0]}',
        sections=[(id, name) for id, name, there in shown if there],
        plots=True,
        names=names,
        unequal=unequal,
        measure=measure,
        score=a['score'],
        metric_columns=_columns('name', 'metric', names, 3),
        facts=_facts(a, b),
        fact_columns=[Column('name', ''), Column('a', names[0]), Column('b', names[1])],
        **parts,
    )
    return page, unequal


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """In words, which conditions of the tests differ."""
    left, right = ({row['name']: row['value'] for row in each['conditions']} for each in (a, b))
    return [
        f'{name}: {left.get(name, "–")} ({names[0]}), {right.get(name, "–")} ({names[1]})'
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]


def _check_same(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    for what, mine, other in (
        ('tasks', [a['task']], [b['task']]),
        ('classes', a['classes'], b['classes']),
        ('images', [row['name'] for row in a['images']], [row['name'] for row in b['images']]),
    ):
        if mine != other:
            pairs = zip([*mine, 'nothing'], [*other, 'nothing'])
            left, right = next(pair for pair in pairs if pair[0] != pair[1])
            raise UserError(
                f'the runs were not tested on the same {what}: {len(mine)} and {len(other)}, the first difference is '
                f'{left!r} and {right!r}; test both with one data set.'
            )


def _names(a: Mapping[str, Any], b: Mapping[str, Any], first: str | Path, second: str | Path) -> tuple[str, str]:
    """The configs' names, or where they are the same as much of the folders' paths as tells them apart."""
    if a['name'] != b['name']:
        return a['name'], b['name']
    left, right = (path.parent if (path := Path(each).resolve()).is_file() else path for each in (first, second))
    for count in range(1, max(len(left.parts), len(right.parts)) + 1):
        pair = tuple('/'.join(folder.parts[-count:]) for folder in (left, right))
        if pair[0] != pair[1]:
            return pair
    return 'first', 'second'  # a run beside itself


def _digits(name: str | None) -> int:
    """Decimals of percentages, of a class or in the mean (``mIoU``, ``aAcc``), and of shares of one."""
    short = (name or '').rpartition('/')[2]
    return 2 if short in PERCENT or short[1:] in PERCENT else 3


def _columns(key: str, title: str, names: Sequence[str], digits: int) -> list[Column]:
    return [
        Column(key, title),
        Column('a', names[0], digits),
        Column('b', names[1], digits),
        Column('difference', 'difference', digits),
    ]


def _difference(a: float | None, b: float | None) -> float | None:
    a, b = known(a, None), known(b, None)
    return None if a is None or b is None else b - a


def _metric_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = dict.fromkeys([*a['metrics'], *b['metrics']])
    return [
        {'name': name, 'a': left, 'b': right, 'difference': _difference(left, right), 'digits': _digits(name)}
        for name in names
        for left, right in [(a['metrics'].get(name), b['metrics'].get(name))]
    ]


def _has(data: Mapping[str, Any], measure: str) -> bool:
    return any(measure in row for row in data['per_class'].values())


def _class_rows(a: Mapping[str, Any], b: Mapping[str, Any], measure: str) -> list[dict[str, Any]]:
    return [
        {'class': name, 'a': left, 'b': right, 'difference': _difference(left, right)}
        for name in a['per_class']
        for left, right in [(a['per_class'][name].get(measure), b['per_class'].get(name, {}).get(measure))]
    ]


def _difference_bars(rows: Sequence[Mapping[str, Any]], measure: str, names: Sequence[str]) -> str:
    ranked = sorted((row for row in rows if row['difference'] is not None), key=lambda row: row['difference'])
    figure, digits = go.Figure(), _digits(measure)
    for index, (name, sign) in enumerate((('better', 1), ('worse', -1))):
        some = [row for row in ranked if (row['difference'] >= 0) == (sign > 0)]
        figure.add_bar(
            y=[row['class'] for row in some], x=[row['difference'] for row in some], orientation='h',
            name=f'{names[1]} {name}', text=[f'{row["difference"]:+.{digits}f}' for row in some],
            textposition='outside', cliponaxis=False,
            marker=dict(color=PALETTE[2 + index], pattern_shape='/' if index else ''),
        )  # fmt: skip
    order = [row['class'] for row in ranked]
    figure.update_yaxes(type='category', categoryorder='array', categoryarray=order, dtick=1)
    low, high = min([0, *(row['difference'] for row in ranked)]), max([0, *(row['difference'] for row in ranked)])
    room = 0.2 * (high - low or 1)  # for the numbers beside the bars
    figure.update_xaxes(title=f'difference of {measure}', range=[low - room * (low < 0), high + room * (high > 0)])
    figure.update_layout(barmode='overlay', showlegend=True)
    return to_json(figure, 130 + 22 * len(ranked))


def _curves(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> str | None:
    kind = next((kind for kind in ('segm', 'bbox') if a['curves'].get(kind) and b['curves'].get(kind)), None)
    if kind is None:
        return None
    figure = go.Figure()
    for index, data in enumerate((a, b)):
        by_class = data['curves'][kind]
        for name, curve in {'mean over the classes': np.mean(list(by_class.values()), axis=0), **by_class}.items():
            figure.add_scatter(
                x=RECALLS, y=np.round(np.asarray(curve, float), 4), name=names[index], meta=name, mode='lines',
                line=dict(color=PALETTE[index], dash=DASHES[index], width=2.5),
            )  # fmt: skip
    figure.update_xaxes(title='recall', range=[0, 1.01])
    figure.update_yaxes(title=f'precision of {"masks" if kind == "segm" else "boxes"}', range=[0, 1.02])
    figure.update_layout(showlegend=True)
    return to_json(figure)


def _failures(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> list[tuple[dict[str, Any], str]]:
    found = []
    for left, right in zip(a['failures'], b['failures']):
        figure = go.Figure()
        for index, failure in enumerate((left, right)):
            figure.add_bar(
                y=[row['name'] for row in failure['rows']],
                x=[known(row['value'], None) for row in failure['rows']],
                name=names[index],
                orientation='h',
                marker=dict(color=PALETTE[index], pattern_shape='/' if index else ''),
            )
        figure.update_yaxes(autorange='reversed', type='category')
        figure.update_xaxes(title=left['value'], rangemode='tozero')
        figure.update_layout(barmode='group', showlegend=True)
        found.append((left, to_json(figure, 150 + 44 * len(left['rows']))))
    return found


def _cards(
    a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str], first: str | Path, second: str | Path
) -> list[Card]:
    """The images whose scores differ most."""
    pairs = [(left, _difference(left['score'], right['score'])) for left, right in zip(a['images'], b['images'])]
    scores = {row['index']: row['score'] for row in b['images']}
    ranked = sorted((pair for pair in pairs if pair[1] is not None), key=lambda pair: -abs(pair[1]))[:SHOWN]
    pictures = [_thumbnails(each) for each in (first, second)]
    cards = []
    for row, difference in ranked:
        shown = [each for each in pictures[0].get(str(row['index']), ()) if each.caption == 'truth']
        for name, some in zip(names, pictures):
            shown += [
                each._replace(caption=f'{each.caption}, {name}')
                for each in some.get(str(row['index']), ())
                if each.caption in ('prediction', 'errors')
            ]
        text = f'{row["score"]:.1f} and {scores[row["index"]]:.1f}: {difference:+.1f}'
        cards.append(Card(row['name'], shown, text, order={'difference': round(difference, 3)}))
    return cards


def _thumbnails(folder: str | Path) -> dict[str, list[Picture]]:
    """By the image's index; none where they are gone."""
    path = Path(folder)
    path = (path if path.is_dir() else path.parent) / 'thumbnails.json'
    if not path.is_file():
        return {}
    return {
        index: [Picture(*picture) for picture in pictures]
        for index, pictures in json.loads(path.read_text(encoding='utf-8')).items()
    }


def _facts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for title, unit, scale, key in (('parameters', 'M', 1e6, 'params'), ('multiply-adds', 'G', 1e9, 'macs')):
        row = {'name': title}
        for column, card in (('a', a['card']), ('b', b['card'])):
            total = next((known(part[key], None) for part in card['parts'] if part['part'] == 'total'), None)
            row[column] = '–' if total is None else f'{total / scale:.2f} {unit}'
            if key == 'macs' and total is not None:
                row[column] += f' for {card["parts_of"]}'
        rows.append(row)
    facts = [each['card']['facts'] for each in (a, b)]
    tested = [{f'tested: {row["name"]}': row['value'] for row in each['conditions']} for each in (a, b)]
    facts = [{**one, **two} for one, two in zip(facts, tested)]
    return rows + [
        {'name': name, 'a': facts[0].get(name, '–'), 'b': facts[1].get(name, '–')}
        for name in dict.fromkeys([*facts[0], *facts[1]])
    ]
