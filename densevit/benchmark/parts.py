"""Where the time goes: backbone, neck, heads, and what is done with their output."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ['REST', 'PartClock', 'part_names', 'part_times']

REST = 'post-processing'
_SEGMENTOR = ('backbone', 'neck', 'decode_head', 'auxiliary_head')
_DETECTOR = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
_ROI = ('bbox_roi_extractor', 'mask_roi_extractor', 'bbox_head', 'mask_head')


def part_names(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules whose ``forward`` belongs to each part; a backbone alone is one part."""
    if not hasattr(model, 'backbone'):
        return {'backbone': [model]}
    found: dict[str, list[nn.Module]] = {}
    for name in dict.fromkeys((*_SEGMENTOR, *_DETECTOR)):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module):
            found[name] = list(part) if isinstance(part, nn.ModuleList) else [part]
    roi_head = getattr(model, 'roi_head', None)
    if roi_head is not None:
        found['roi_head'] = []
        for name in _ROI:
            part = getattr(roi_head, name, None)
            if isinstance(part, nn.Module):
                found['roi_head'] += list(part) if isinstance(part, nn.ModuleList) else [part]
    return found


class PartClock:
    """Adds up the seconds that each part's ``forward`` takes, without those of the parts inside it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[list[Any]] = []  # part, when it began or went on

    def _now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _wrap(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            now = self._now()
            if self._running:
                outer = self._running[-1]
                self.seconds[outer[0]] += now - outer[1]
            self._running.append([name, now])
            try:
                return forward(*args, **kwargs)
            finally:
                now = self._now()
                self.seconds[name] += now - self._running.pop()[1]
                if self._running:
                    self._running[-1][1] = now

        return timed

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[PartClock]:
        """Time the parts of ``model`` inside the block."""
        watched = [(name, module) for name, modules in part_names(model).items() for module in modules]
        for name, module in watched:
            module.forward = self._wrap(name, module.forward)
        try:
            yield self
        finally:
            for _, module in watched:
                module.__dict__.pop('forward', None)

    def total(self, run: Callable[[], Any]) -> float:
        """Seconds of ``run``."""
        begin = self._now()
        run()
        return self._now() - begin


def part_times(model: nn.Module, run: Callable[[], Any], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part in each round, ``REST`` for what is outside of all, and ``'total'``; after one warm-up."""
    found: dict[str, list[float]] = defaultdict(list)
    for turn in range(-1, rounds):
        clock = PartClock(device)
        with clock.watching(model):
            total = clock.total(run)
        if turn < 0:
            continue
        for name in part_names(model):
            found[name].append(clock.seconds[name])
        found[REST].append(total - sum(clock.seconds.values()))
        found['total'].append(total)
    return {name: seconds for name, seconds in found.items() if name == 'total' or np.median(seconds) > 0}
