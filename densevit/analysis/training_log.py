"""What mmengine's log of a training run says, as curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ['training_curves']

_TIMES = ('data_time', 'time', 'memory', 'step', 'iter', 'epoch')


def training_curves(work_dir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of the newest training run in a work dir, with those of the runs that it was resumed from.

    Returns:
        By name, pairs of an iteration and a value: ``loss`` and ``lr`` of training, ``val/loss`` and the metrics of
        validation. Empty where no log is there.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    begin: float = float('inf')
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json'), key=lambda path: path.parts[-3], reverse=True):
        lines = _lines(path)
        first = next((line['step'] for line in lines if 'lr' in line and 'step' in line), None)
        if first is None or first >= begin:  # of a test, or of a run that went further before it was begun anew
            continue
        earlier = _curves(lines, begin)
        for name, points in earlier.items():
            later = curves.get(name, [])
            # a validation may have been done by both, the one before it was killed and the one that went on
            curves[name] = [point for point in points if not later or point[0] < later[0][0]] + later
        begin = first
        if _from_the_start(lines):
            break
    return curves


def _from_the_start(lines: list[dict[str, Any]]) -> bool:
    """Whether a run was not resumed: its first line is not further from the start than its second from the first."""
    steps = [line['step'] for line in lines if 'lr' in line and 'step' in line]
    return len(steps) > 1 and steps[0] <= steps[1] - steps[0]


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding='utf-8').splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a run that was killed
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _curves(lines: list[dict[str, Any]], end: float) -> dict[str, list[tuple[int, float]]]:
    """Those before the iteration ``end``."""
    curves: dict[str, list[tuple[int, float]]] = {}
    steps = [line['step'] for line in lines if 'lr' in line and 'step' in line]
    interval = steps[1] - steps[0] if len(steps) > 1 else 1
    # validation counts epochs where training does: the iteration is that of the line before. A resumed run may begin
    # with the validation that was due.
    step = max(0, steps[0] - interval) if steps else 0
    for line in lines:
        training = 'lr' in line
        if training:
            step = line.get('step', step)
        if step >= end:
            break
        for name, value in line.items():
            wanted = name in ('loss', 'lr') if training else name not in _TIMES and not name.startswith('val/decode')
            if wanted and isinstance(value, (int, float)):
                curves.setdefault(name, []).append((step, value))
    return curves
