"""How time and memory grow with the image and the batch: measured, fitted and drawn."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .measure import Timing, timer
from .run import Options, ours, peak_of, prepared_spec, work_of

__all__ = ['BATCHES', 'SIDES', 'draw', 'exponent', 'growth']

SIDES = (256, 384, 512, 768, 1024, 1280, 1536)
BATCHES = (1, 2, 4)
BATCH_SIDE = 512


def exponent(pixels: Sequence[float], values: Sequence[float]) -> float:
    """p of the power law values ~ pixels ** p, by least squares in logarithms."""
    slope, _ = np.polyfit(np.log(pixels), np.log(values), 1)
    return float(slope)


def growth(
    text: str, options: Options, *, sides: Sequence[int] = SIDES, batches: Sequence[int] = BATCHES,
    batch_side: int = BATCH_SIDE,
) -> dict[str, Any]:  # fmt: skip
    """Time and peak memory of a model for square images, and for batches of one size.

    Returns:
        The points, and the exponents of time and memory against the number of pixels, of all images of the batch
        together in the second pair.
    """
    points = []
    for side, batch in dict.fromkeys([*((side, 1) for side in sides), *((batch_side, batch) for batch in batches)]):
        chosen = replace(options, size=(side, side), batch=batch)
        spec = prepared_spec(text, chosen)
        work = work_of(spec, chosen)
        model = ours(spec, chosen)
        run, clock = work.runner(model), timer(work.device)
        for _ in range(max(1, options.warmups)):
            clock(run)
        timing = Timing(tuple(clock(run) for _ in range(options.rounds)))
        point = {'size': [side, side], 'batch': batch, **timing.to_json()}
        del model, run, work
        gc.collect()
        if options.memory:
            point['peak_bytes'] = peak_of(text, 'densevit', [], chosen)
        points.append(point)
    exponents = {}
    for what, chosen_points in (
        ('by size', [point for point in points if point['batch'] == 1 and point['size'][0] in sides]),
        ('by batch', [point for point in points if point['size'][0] == batch_side and point['batch'] in batches]),
    ):
        pixels = [point['batch'] * point['size'][0] * point['size'][1] for point in chosen_points]
        if len(set(pixels)) < 2:
            continue
        exponents[f'time {what}'] = exponent(pixels, [point['median_s'] for point in chosen_points])
        if options.memory:
            exponents[f'memory {what}'] = exponent(pixels, [max(1, point['peak_bytes']) for point in chosen_points])
    return {'model': text, 'dtype': options.dtype, 'train': options.train, 'points': points, 'exponents': exponents}


def draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and memory against the number of pixels, both axes logarithmic, as a PNG file.

    Two lines per model: one image of growing size, and growing batches of one size. A dotted line through the largest
    image shows growth with the first power.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.6), layout='constrained')
    for index, result in enumerate(results):
        largest = max(point['batch'] for point in result['points'])
        side = next(point['size'][0] for point in result['points'] if point['batch'] == largest)
        color = f'C{index}'
        for axis, what, factor in zip(axes, ('time', 'memory'), (1.0, 1e-9), strict=True):
            key = 'median_s' if what == 'time' else 'peak_bytes'
            known = [point for point in result['points'] if key in point]
            by_size = [point for point in known if point['batch'] == 1]
            by_batch = [point for point in known if point['size'][0] == side]
            for points, name, style in ((by_size, 'by size', 'o-'), (by_batch, 'by batch', 's--')):
                power = result['exponents'].get(f'{what} {name}')
                if power is None:
                    continue
                label = f'{result["model"]}, {name if points is by_size else f"batches of {side} x {side}"}'
                values = [factor * point[key] for point in points]
                axis.loglog(_megapixels(points), values, style, color=color, label=f'{label}: power {power:.2f}')
            if by_size:
                x, last = _megapixels(by_size), factor * by_size[-1][key]
                axis.loglog(x, [last * pixels / x[-1] for pixels in x], ':', color='gray')
    for axis, text in zip(axes, ('seconds', 'peak memory, GB'), strict=True):
        axis.set_xlabel('million pixels, of all images of the batch')
        axis.set_ylabel(text)
        axis.grid(True, which='both', alpha=0.3)
        axis.xaxis.set_major_formatter('{x:g}')
        axis.yaxis.set_major_formatter('{x:g}')
        if axis.get_legend_handles_labels()[0]:  # there may be no memory
            axis.legend(fontsize='small')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _megapixels(points: Sequence[dict[str, Any]]) -> list[float]:
    return [point['batch'] * point['size'][0] * point['size'][1] / 1e6 for point in points]
