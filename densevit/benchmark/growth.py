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
    """Time and memory against the number of pixels, both axes logarithmic, a line per model, as a PNG file."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), layout='constrained')
    for result in results:
        points = [point for point in result['points'] if point['batch'] == 1]
        pixels = [point['size'][0] * point['size'][1] / 1e6 for point in points]
        for axis, key, factor in zip(axes, ('median_s', 'peak_bytes'), (1.0, 1e-9), strict=True):
            values = [factor * point[key] for point in points if key in point]
            if not values:
                continue
            name = 'time by size' if key == 'median_s' else 'memory by size'
            power = result['exponents'].get(name)
            label = result['model'] + (f' (power {power:.2f})' if power is not None else '')
            axis.loglog(pixels, values, marker='o', label=label)
    for axis, text in zip(axes, ('seconds', 'peak memory, GB'), strict=True):
        axis.set_xlabel('million pixels')
        axis.set_ylabel(text)
        axis.grid(True, which='both', alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize='small').set_in_layout(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
