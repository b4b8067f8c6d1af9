"""The page of ``tools/browse_data.py``: what a model is fed, picture by picture, and what its labels add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from PIL import Image

from ..analysis.pictures import Color, class_colors, draw_instances, draw_labels, with_names
from ..data.samples import VOID, FedSamples, Sample, View, resized
from .figures import PALETTE, SYMBOLS, to_json
from .page import Column, write_page
from .thumbnails import Picture, picture

__all__ = ['ClassStatistics', 'draw_view', 'write_browse']

LARGE, SMALL = 512, 150  # longer sides of the pictures in the page, in pixels
ENLARGED = 3  # tiny pictures grow at most so many times
OUTSIDE = (255, 0, 255)  # labels that no class has
MOST_BARS = 40


class Cell(NamedTuple):
    """A picture in the full view."""

    caption: str
    plain: Picture | None
    drawn: Picture | None
    regions: Sequence[tuple[int, Sequence[float]]]  # number of a version, and what it shows: left, top, width, height
    steps: Sequence[str]
    warnings: Sequence[str]
    error: str


class ClassStatistics:
    """How much of each class there is: pixels, or objects, of the files and of what is fed."""

    def __init__(self, count: int) -> None:
        self.disk, self.fed, self.images = (np.zeros(count, np.int64) for _ in range(3))
        self.void = np.zeros(2, np.int64)  # ignored pixels or objects, of the files and of what is fed
        self.sizes: list[float] = []  # of objects as they are fed: square root of the box's area, in pixels
        self.counts_objects = False
        self.versions = 1

    def add(self, sample: Sample, ignore_index: int) -> list[int]:
        """Count a sample; return the classes in it, of its file and of its versions."""
        disk, void = self._count(sample.original, ignore_index)
        self.disk += disk
        self.void[0] += void
        fed = np.zeros_like(disk)
        self.versions = len(sample.fed)
        for view in sample.fed:
            counts, void = self._count(view, ignore_index)
            fed += counts
            self.void[1] += void
            boxes = [each.box for each in view.instances or () if not each.ignored]
            self.sizes += [max(0.0, (x2 - x1) * (y2 - y1)) ** 0.5 for x1, y1, x2, y2 in boxes]
        self.fed += fed
        present = np.flatnonzero(disk + fed)
        self.images[present] += 1
        return present.tolist()

    def _count(self, view: View, ignore_index: int) -> tuple[np.ndarray, int]:
        length = len(self.disk)
        if view.instances is not None:
            self.counts_objects = True
            labels = np.array([each.label for each in view.instances if not each.ignored], np.int64)
            void = sum(each.ignored for each in view.instances)
        elif view.labels is not None:
            labels = view.labels[: view.size[0], : view.size[1]].ravel()
            ignored = (labels == VOID) | (labels == ignore_index)
            labels, void = labels[~ignored], int(ignored.sum())
        else:
            return np.zeros(length, np.int64), 0
        labels = labels[(labels >= 0) & (labels < length)]
        return np.bincount(labels, minlength=length), void


def write_browse(
    path: str | Path,
    fed: FedSamples,
    samples: Iterable[Sample],
    *,
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str]] = (),
) -> tuple[Path, int]:
    """Write the page; return its path and how many of the images have a warning.

    Args:
        path: the file.
        fed: where the samples come from.
        samples: one after the other; none is kept.
        title: heading of the page.
        subtitle: below it.
        facts: names and values about the data, shown below the samples.
    """
    palette = class_colors(fed.palette, len(fed.classes))
    statistics = ClassStatistics(len(fed.classes))
    cards, warned = [], []
    sizes: dict[str, list] = {'on the disk': [], 'fed': []}
    factors: list[float] = []
    for sample in samples:
        present = statistics.add(sample, fed.ignore_index)
        cards.append(_card(sample, present, fed, palette))
        warned += [{'name': cards[-1]['title'], 'text': text} for text in sample.warnings]
        for name, views in (('on the disk', [sample.original]), ('fed', sample.fed)):
            sizes[name] += [(*view.size, cards[-1]['title']) for view in views if not view.error]
        placements = [view.placement for view in sample.fed if not view.error and view.placement]
        factors += [1 / abs(place.dx * place.dy) ** 0.5 for place in placements]
    rows = _class_rows(statistics, fed.classes)
    odd = sum(bool(card['warnings']) for card in cards)
    unit = 'objects' if statistics.counts_objects else 'pixels'
    sections = [('samples', 'Samples'), ('classes', 'Classes'), ('sizes', 'Sizes'), ('about', 'About the data')]
    written = write_page(
        path,
        'browse.html.j2',
        title=title,
        subtitle=subtitle,
        sections=[*([('warnings', 'Warnings')] if warned else []), *sections],
        plots=True,
        column=Column,
        headline=[
            ('images', f'{len(fed):,}', 'in the data set, after filtering'),
            ('shown', f'{len(cards):,}', ''),
            ('classes seen', str(sum(row['images'] > 0 for row in rows)), f'of {len(fed.classes)}'),
            ('with a warning', str(odd), ''),
        ],
        cards=cards,
        warned=warned,
        legend=_legend(rows, palette),
        odd=odd,
        unit=unit,
        class_rows=rows,
        class_plot=to_json(_class_plot(rows, unit), height=120 + 26 * min(len(rows), MOST_BARS)),
        size_plot=to_json(_size_plot(sizes)),
        factor_plot=to_json(_histogram(factors, 'pixels fed for one on the disk')) if factors else None,
        object_plot=to_json(_object_plot(statistics.sizes)) if statistics.sizes else None,
        facts=facts,
    )  # fmt: skip
    return written, odd


# ------------------------------------------------------------------------------------------------ pictures
def draw_view(
    view: View, palette: Sequence[Color], names: Sequence[str], ignore_index: int, side: int = LARGE
) -> tuple[np.ndarray, np.ndarray]:
    """A view as it is and with its labels, at the size of the page, RGB uint8.

    Classes have their colour and, unless the picture is small, the large ones their name; ignored pixels are hatched,
    labels outside the classes magenta, and over the padding lies a chessboard.
    """
    height, width = view.image.shape[:2]
    factor = min(side / max(height, width), ENLARGED)
    shown = max(1, round(height * factor)), max(1, round(width * factor))
    content = min(shown[0], round(view.size[0] * factor)), min(shown[1], round(view.size[1] * factor))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    plain = np.asarray(Image.fromarray(view.image).resize(shown[::-1], how))
    drawn = plain.copy()
    if view.labels is not None:
        labels = resized(view.labels, shown)
        inside = np.zeros(shown, bool)
        inside[: content[0], : content[1]] = True
        ignored = ((labels == VOID) | (labels == ignore_index)) & inside
        known = (labels >= 0) & (labels < len(palette)) & ~ignored & inside
        drawn = draw_labels(plain, np.where(known, labels, len(palette)), palette)
        drawn[inside & ~known & ~ignored] = OUTSIDE
        drawn = _hatched(drawn, plain, ignored)
        if side > SMALL:
            drawn = with_names(drawn, np.where(known, labels, len(names)), names)
    elif view.instances is not None:
        drawn = _with_instances(plain, view, palette, names, shown, factor)
    rows, columns = np.indices(shown) // 8
    padding = np.ones(shown, bool)
    padding[: content[0], : content[1]] = False
    drawn[padding] = np.where((rows + columns) % 2, 190, 120)[padding][:, None]
    return plain, drawn


def _with_instances(
    plain: np.ndarray, view: View, palette: Sequence[Color], names: Sequence[str], shown: tuple[int, int], factor: float
) -> np.ndarray:
    drawn = plain
    # with one class its name would only hide what lies below
    known = names if len(names) > 1 else [''] * len(names)
    colors, texts = [*palette, OUTSIDE, (150, 150, 150)], [*known, 'no class', 'ignored']
    # crowds first, as they lie below the others
    instances = sorted(view.instances or (), key=lambda each: not each.ignored)
    if instances:
        count = len(palette)
        labels = [count + 1 if each.ignored else each.label if 0 <= each.label < count else count for each in instances]
        masks = None
        if all(each.mask is not None for each in instances):
            masks = (resized(each.mask, shown) for each in instances)
        boxes = np.array([each.box for each in instances]) * factor
        drawn = draw_instances(plain, labels, colors, texts, masks=masks, boxes=boxes, alpha=0.45)
    return drawn.copy()


def _hatched(image: np.ndarray, plain: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Grey with dark stripes where ``mask`` is set."""
    rows, columns = np.indices(mask.shape)
    grey = (plain.mean(-1, keepdims=True) * 0.5 + 90).astype(np.uint8)
    stripe = (rows + columns) % 10 < 3
    image[mask] = np.broadcast_to(grey, image.shape)[mask]
    image[mask & stripe] = 30
    return image


# --------------------------------------------------------------------------------------------------- cards
def _card(sample: Sample, present: Sequence[int], fed: FedSamples, palette: Sequence[Color]) -> dict[str, Any]:
    names = [fed.classes[index] for index in present]
    title = Path(sample.path).name
    shown = ', '.join(names[:6]) + (f' and {len(names) - 6} more' if len(names) > 6 else '')
    cells, small = [], []
    regions = _regions(sample)
    for number, view in enumerate((sample.original, *sample.fed)):
        caption = 'on the disk' if number == 0 else 'fed' if len(sample.fed) == 1 else f'version {number}'
        plain = drawn = None
        if not view.error:
            pictures = draw_view(view, palette, fed.classes, fed.ignore_index)
            plain, drawn = (picture(each, caption) for each in pictures)
            # names of objects shrink with the picture, those of pixels are better left out
            reduced = pictures[1]
            if view.labels is not None:
                _, reduced = draw_view(view, palette, fed.classes, fed.ignore_index, SMALL)
            small.append(picture(reduced, caption, SMALL))
        size = '' if view.error else f', {view.image.shape[0]} x {view.image.shape[1]}'
        cells.append(
            Cell(caption + size, plain, drawn, () if number else regions, view.steps, view.warnings, view.error)
        )
    return {
        'title': title,
        'path': sample.path,
        'text': shown or 'no class',
        'words': ' '.join([*map(token, names), *(['odd;'] if sample.warnings else []), *names]),
        'warnings': sample.warnings,
        'cells': cells,
        'small': small,
        'order': {'index': sample.index, 'classes': len(present), 'objects': len(sample.original.instances or ())},
    }


def token(name: str) -> str:
    """What the filter finds a class by, and no other."""
    return f'class:{"-".join(name.lower().split())};'


def _regions(sample: Sample) -> list[tuple[int, list[float]]]:
    """Which part of the original each version shows, as fractions of it, where that is known and not all of it."""
    found = []
    if sample.original.error:
        return found
    height, width = sample.original.size
    for number, view in enumerate(sample.fed, 1):
        if view.error or view.placement is None:
            continue
        x1, y1, x2, y2 = view.placement.region(*view.size)
        if x1 > 0.5 or y1 > 0.5 or x2 < width - 0.5 or y2 < height - 0.5:
            found.append((number, [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]))
    return found


# -------------------------------------------------------------------------------------------------- numbers
def _class_rows(statistics: ClassStatistics, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each class, the most frequent first; objects in one version of all, or percent of labelled pixels."""
    disk, fed = statistics.disk, statistics.fed / statistics.versions
    if not statistics.counts_objects:
        disk, fed = (100 * each / max(1, each.sum()) for each in (disk, fed))
    rows = [
        {
            'name': name,
            'index': index,
            'disk': float(disk[index]),
            'fed': float(fed[index]),
            'images': int(statistics.images[index]),
        }
        for index, name in enumerate(classes)
    ]
    return sorted(rows, key=lambda row: -row['disk'])


def _legend(rows: Sequence[dict[str, Any]], palette: Sequence[Color]) -> list[dict[str, Any]]:
    return [
        {**row, 'color': '#{:02x}{:02x}{:02x}'.format(*palette[row['index']]), 'token': token(row['name'])}
        for row in rows
        if row['images']
    ]


def _class_plot(rows: Sequence[dict[str, Any]], unit: str) -> go.Figure:
    figure = go.Figure()
    shown = list(reversed(rows[:MOST_BARS]))
    names = [row['name'] for row in shown]
    for key, name, color, pattern in (('fed', 'fed', PALETTE[1], '/'), ('disk', 'on the disk', PALETTE[0], '')):
        marker = dict(color=color, pattern=dict(shape=pattern))
        figure.add_bar(x=[row[key] for row in shown], y=names, name=name, orientation='h', marker=marker)
    figure.update_layout(barmode='group', bargap=0.25, legend=dict(traceorder='reversed'))
    figure.update_xaxes(title='objects' if unit == 'objects' else '% of the labelled pixels')
    return figure


def _size_plot(sizes: dict[str, list]) -> go.Figure:
    figure = go.Figure()
    for index, (name, found) in enumerate(sizes.items()):
        at = Counter((width, height) for height, width, _ in found)
        places = list(at)
        examples = {(width, height): title for height, width, title in found}
        figure.add_scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            name=name,
            mode='markers',
            marker=dict(
                color=PALETTE[index], symbol=SYMBOLS[index], opacity=0.8,
                size=[6 + 4 * count**0.5 if count < 100 else 46 for count in at.values()],
            ),
            hovertext=[f'{y} x {x}: {at[x, y]}, such as {examples[x, y]}' for x, y in places],
            hoverinfo='text',
        )  # fmt: skip
    figure.update_xaxes(title='width, pixels', rangemode='tozero')
    figure.update_yaxes(title='height, pixels', rangemode='tozero')
    return figure


def _histogram(values: Sequence[float], title: str) -> go.Figure:
    counts, edges = np.histogram(values, bins=20)
    centres, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    figure = go.Figure(go.Bar(x=centres.tolist(), y=counts.tolist(), width=width, marker_color=PALETTE[0]))
    figure.update_xaxes(title=title)
    figure.update_yaxes(title='pictures')
    return figure


def _object_plot(sizes: Sequence[float]) -> go.Figure:
    """How large objects are, in powers of two; COCO's borders of small and large lie at 32 and 96."""
    edges = 2.0 ** np.arange(0, 12)
    counts, _ = np.histogram(np.maximum(sizes, 1), bins=edges)
    names = [f'{low:.0f} to {high:.0f}' for low, high in zip(edges[:-1], edges[1:], strict=True)]
    figure = go.Figure(go.Bar(x=names, y=counts.tolist(), marker_color=PALETTE[0]))
    figure.update_xaxes(title='square root of the box’s area as it is fed, pixels')
    figure.update_yaxes(title='objects')
    return figure
