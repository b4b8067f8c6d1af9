"""The page of ``tools/check.py``: findings that can be filtered, classes, and the files that are affected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from ..check.data import DatasetReport
from ..check.data.heads import VOID
from ..check.finding import Finding
from ..check.report import LEVELS, CheckReport
from .figures import PALETTE, to_json
from .page import Card, Column, write_page
from .thumbnails import picture

__all__ = ['write_check']

MOST_CARDS, MOST_OF_ONE = 48, 6  # pictures of files, in all and of one finding
MOST_FILES = 1000  # names of files that a finding lists; the JSON file has all
MOST_BARS = 60
SIDE = 240  # longer side of a picture, in pixels
_MOST_PIXELS = 40_000_000  # larger ones take too long for a small picture
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.gif')
_MARKS = {'error': '✖', 'warning': '⚠', 'note': '•'}


def write_check(path: str | Path, report: CheckReport) -> Path:
    """Write the page; return its path.

    Args:
        path: the file.
        report: of :func:`densevit.check.run.check_run`.
    """
    findings = sorted(report.findings, key=lambda found: (-LEVELS.index(found.level), found.place))
    cards = _cards(findings)
    datasets = [each for each in report.datasets if each.images]
    plot = _class_plot(datasets)
    images = sum(each.images for each in datasets)
    sections = [('findings', 'Findings')]
    sections += [('files', 'Affected files')] if cards else []
    sections += [('data', 'Data')] if datasets else []
    return write_page(
        path,
        'check.html.j2',
        title=f'{Path(report.config).stem}: check',
        subtitle=report.verdict,
        sections=[*sections, ('about', 'About this check')],
        plots=plot is not None,
        headline=[
            *((f'{level}s', str(len(report.of(level))), '') for level in reversed(LEVELS)),
            ('images', f'{images:,}' if images else '–', 'in all data sets that were looked at' if images else ''),
        ],
        may_start=report.may_start,
        counts=[(level, _MARKS[level], len(report.of(level))) for level in reversed(LEVELS) if report.of(level)],
        marks=_MARKS,
        findings=findings,
        most_files=MOST_FILES,
        cards=cards,
        column=Column,
        class_plot=plot,
        class_rows=[row for each in datasets for row in _class_rows(each)],
        datasets=[(each.path, _summary(each)) for each in datasets],
        facts=_facts(report),
    )


def _facts(report: CheckReport) -> list[tuple[str, str]]:
    form = 'quick: a sample of the data' if report.quick else 'thorough: all data'
    rows = [('config', report.config), ('form', form)]
    if report.memory:
        (height, width), batch = report.memory.size, report.memory.batch
        total = f'about {report.memory.total / 2**30:.2f} GiB'
        rows.append(('memory', f'{total} for {batch} images of {height} x {width}'))
    if report.disk:
        each = f'{report.disk.checkpoint / 2**30:.2f} GiB'
        rows.append(('checkpoints', f'{report.disk.count} of {each} in {report.disk.folder}'))
    return rows


def _summary(dataset: DatasetReport) -> str:
    count = f'{dataset.images:,} images'
    if dataset.instances is not None:
        return f'{count}, {dataset.instances:,} objects, in {dataset.root}'
    return f'{count}, {dataset.ignored:.1%} of the pixels void, in {dataset.root}'


def _class_rows(dataset: DatasetReport) -> list[dict[str, Any]]:
    return [{'name': name, 'path': dataset.path, 'share': 100 * share} for name, share in dataset.shares.items()]


def _class_plot(datasets: Sequence[DatasetReport]) -> str | None:
    figure, most = go.Figure(), 0
    for each in datasets:
        shares = sorted(each.shares.items(), key=lambda item: -item[1])[:MOST_BARS]
        if shares:
            most = max(most, len(shares))
            unit = 'pixels' if each.instances is None else 'objects'
            bar = go.Bar(
                x=[100 * share for _, share in shares], y=[name for name, _ in shares], orientation='h', meta=each.path,
                marker_color=PALETTE[0], hovertemplate=f'%{{y}}: %{{x:.2f}} % of the {unit}<extra></extra>',
                showlegend=False,
            )  # fmt: skip
            figure.add_trace(bar)
    if not most:
        return None
    figure.update_yaxes(autorange='reversed', tickmode='linear')
    figure.update_xaxes(title='% of the pixels or objects', rangemode='tozero')
    return to_json(figure, height=120 + 24 * most)


# ---------------------------------------------------------------------------------------------------- pictures
def _cards(findings: Sequence[Finding]) -> list[Card]:
    cards: list[Card] = []
    for found in findings:
        names = [name for name in found.files if name.lower().endswith(_SUFFIXES)]
        for name in names[:MOST_OF_ONE]:
            image = _thumbnail(name) if len(cards) < MOST_CARDS else None
            if image is not None:
                shown = picture(image, found.kind)
                cards.append(Card(Path(name).name, [shown], text=f'{_MARKS[found.level]} {found.kind}', words=name))
    return cards


def _thumbnail(name: str) -> np.ndarray | None:
    """A file as a small RGB picture; None if it cannot be read.

    Label maps, whose values are small, are stretched, and void is white.
    """
    try:
        with Image.open(name) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                return None
            opened.draft('RGB', (2 * SIDE, 2 * SIDE))  # of a JPEG file a reduced copy is decoded
            is_map = opened.mode not in ('RGB', 'RGBA', 'CMYK', 'YCbCr', 'P')
            how = Image.Resampling.NEAREST if is_map or opened.mode == 'P' else Image.Resampling.BOX
            opened.thumbnail((SIDE, SIDE), how)
            if not is_map:
                return np.asarray(opened.convert('RGB'))
            values = np.asarray(opened, dtype=np.float64)
    except Exception:  # what cannot be read is among the findings
        return None
    if values.ndim != 2 or not np.isfinite(values).all():
        return None
    shown = values[values != VOID]
    stretched = np.where(values == VOID, 255, 200 * values / max(shown.max(initial=0), 1))
    return np.repeat(stretched[..., None], 3, axis=2).clip(0, 255).astype(np.uint8)
