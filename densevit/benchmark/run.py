"""Measure one model part by part, or side by side with other packages' models."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..analysis.complexity import complexity
from ..errors import UserError
from ..inference.folding import fold
from .child import in_child
from .measure import GRADIENT_TOLERANCES, TOLERANCES, Row, Side, Timing, duel, timer
from .memory import peak_bytes
from .models import Spec, Work, build, fold_peer, make, parse_spec
from .parts import part_names, part_times
from .peers import Peer, gradient_names, peers_of

__all__ = ['Options', 'against', 'compile_parts', 'inspect', 'on_meta', 'ours', 'peak_of', 'sides_of', 'work_of']


@dataclass(frozen=True)
class Options:
    """How to measure; the fields are the options of `tools/benchmark.py`."""

    size: tuple[int, int] | None = None
    batch: int = 1
    train: bool = False
    device: str = 'cpu'
    dtype: str = 'float32'
    rounds: int = 9
    warmups: int = 2
    channels_last: bool = False
    compile: bool = False
    fold: bool = False
    winograd: bool = False
    fast: bool = False
    tolerance: float | None = None
    memory: bool = True

    def tolerance_of(self, train: bool) -> float:
        """What was asked for, or what fits the dtype."""
        if self.tolerance is not None:
            return self.tolerance
        return (GRADIENT_TOLERANCES if train else TOLERANCES)[self.dtype]

    @property
    def torch_device(self) -> torch.device:
        """Checked.

        Raises:
            UserError: there is no such device.
        """
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition('\n')[0]
            raise UserError(f'--device {self.device!r} cannot be used: {reason}') from error
        return device


def work_of(spec: Spec, options: Options) -> Work:
    """The work for one batch; 512 x 512 pixels for backbones and segmentors, 800 x 1216 for detectors by default."""
    size = options.size or ((800, 1216) if spec.kind == 'detector' else (512, 512))
    return Work(
        spec, size, options.batch, train=options.train, dtype=options.dtype, device=options.torch_device,
        channels_last=options.channels_last,
    )  # fmt: skip


def prepared_spec(text: str, options: Options) -> Spec:
    """The spec of a name, with the options that change the model."""
    spec = parse_spec(text).without_dropping()
    if options.winograd or options.fast:
        spec = spec.with_fast_parts(winograd=options.winograd)
    if spec.kind == 'backbone' and spec.config['type'].endswith('.PyramidVisionTransformer') and options.size:
        spec.config.setdefault(
            'img_size', options.size
        )  # tables for the images' size, as packages interpolate otherwise
    return spec


def compile_parts(model: nn.Module, device: torch.device, *, train: bool) -> nn.Module:
    """torch.compile of the parts that are networks, for one size; on CUDA with CUDA graphs where nothing is trained.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """
    if device.type == 'cpu' and not any(map(shutil.which, ('g++', 'clang++'))):
        raise UserError('--compile on the CPU needs a C++ compiler (g++ or clang++), and none was found.')
    mode = 'reduce-overhead' if device.type == 'cuda' and not train else None
    for name, modules in part_names(model).items():
        for module in modules:
            if name != 'roi_head':  # as many regions as the image has
                module.forward = torch.compile(module.forward, mode=mode, dynamic=False)
    return model


def ours(spec: Spec, options: Options) -> nn.Module:
    """Our model, ready to be measured."""
    model = build(spec)
    return _ready(model, work_of(spec, options), options)


def _ready(model: nn.Module, work: Work, options: Options, *, is_peer: bool = False) -> nn.Module:
    model = work.prepared(model)
    if options.fold and not options.train:
        model = fold_peer(model) if is_peer else fold(model)
    return compile_parts(model, work.device, train=options.train) if options.compile else model


def _side(label: str, model: nn.Module, work: Work, options: Options, peer: Peer | None = None) -> Side:
    outputs = (lambda: work.gradients(model)) if work.train else (lambda: work.outputs(model))
    expected = None
    if peer is not None and work.train:
        if peer.comparable_gradients:
            expected = lambda found: gradient_names(found, peer)  # noqa: E731
        else:
            outputs = lambda: {'loss': work.gradients(model)['loss']}  # noqa: E731
            expected = lambda found: {'loss': found['loss']}  # noqa: E731
    elif peer is not None and peer.partial:
        expected = lambda found: dict(list(found.items())[:3])  # noqa: E731
    graphs = options.compile and work.device.type == 'cuda'
    return Side(
        label, work.runner(model), outputs, note=peer.note if peer else '', differs=peer.differs if peer else '',
        expected=expected, before=torch.compiler.cudagraph_mark_step_begin if graphs else None,
    )  # fmt: skip


def sides_of(
    spec: Spec, packages: Sequence[str], options: Options, *, model: nn.Module | None = None
) -> tuple[list[Side], list[nn.Module], Work]:
    """Ours first, then the peers with its weights; their models in the same order, and their work."""
    work = work_of(spec, options)
    model = build(spec) if model is None else model
    peers = [peer for package in packages for peer in peers_of(package, spec, model, work.size)]
    models = [_ready(model, work, options)] + [_ready(peer.model, work, options, is_peer=True) for peer in peers]
    labels = [('densevit', None), *((peer.label, peer) for peer in peers)]
    sides = [_side(label, m, work, options, peer) for (label, peer), m in zip(labels, models, strict=True)]
    return sides, models, work


def against(text: str, packages: Sequence[str], options: Options) -> dict[str, Any]:
    """Our model and the same one of other packages, in turns."""
    spec = prepared_spec(text, options)
    sides, models, work = sides_of(spec, packages, options)
    rows = duel(
        sides, dtype=options.dtype, rounds=options.rounds, warmups=options.warmups, clock=timer(work.device),
        tolerance=options.tolerance_of(work.train),
    )  # fmt: skip
    parts = {}
    if spec.kind != 'backbone' and not options.train and not options.compile:
        for side, model in zip(sides, models, strict=True):
            parts[side.label] = _medians(part_times(model, side.run, work.device, max(1, options.rounds // 3)))
    del sides, models
    gc.collect()
    if options.memory:
        rows = [_with_memory(row, text, packages, options) for row in rows]
    return {
        'model': text,
        'kind': spec.kind,
        **_conditions(work, options),
        'rows': [row.to_json() for row in rows],
        'parts': parts,
        'wrong': [row.label for row in rows if row.difference is not None and row.ratio is None],
    }


def _with_memory(row: Row, text: str, packages: Sequence[str], options: Options) -> Row:
    row.extra['peak_bytes'] = peak_of(text, row.label, packages, options)
    return row


def peak_of(text: str, label: str, packages: Sequence[str], options: Options) -> int:
    """Peak memory of one side; on the CPU in a child process."""
    if options.torch_device.type == 'cuda':
        return peak_here(text, label, packages, options)
    arguments = dict(
        kind='model', text=text, label=label, packages=list(packages), options=asdict(options),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    return in_child(arguments)['peak_bytes']


def peak_here(text: str, label: str, packages: Sequence[str], options: Options) -> int:
    """Peak memory of one side in this process."""
    spec = prepared_spec(text, options)
    package = next((name for name in packages if label.partition(',')[0] == name), None)
    sides, models, work = sides_of(spec, [package] if package else [], options)
    index = [side.label for side in sides].index(label)
    side, model = sides[index], models[index]
    del sides, models
    return peak_of_side(side, model, work)


def peak_of_side(side: Side, model: nn.Module, work: Work) -> int:
    """Two training steps, so that the optimizer's state counts, or one forward pass after a small one."""
    del model
    if work.train:
        return peak_bytes(lambda: [side.run() for _ in range(2)], work.device)
    x, samples = work.x, work._samples
    small = Work(work.spec, (128, 160), dtype=work.dtype, device=work.device)  # what is loaded once is loaded
    work.x, work._samples = small.x, small._samples
    try:
        side.run()
    finally:
        work.x, work._samples = x, samples
    return peak_bytes(side.run, work.device)


def inspect(text: str, options: Options) -> dict[str, Any]:
    """Parameters, multiply-adds, times by part, latency, throughput and peak memory of one model."""
    spec = prepared_spec(text, options)
    work = work_of(spec, options)
    counted = complexity(on_meta(spec), work.size)
    model = _ready(build(spec), work, options)
    run = work.runner(model)
    clock = timer(work.device)
    for _ in range(options.warmups):
        clock(run)
    timing = Timing(tuple(clock(run) for _ in range(options.rounds)))
    result = {
        'model': text,
        'kind': spec.kind,
        **_conditions(work, options),
        'params': counted['total'].params,
        'macs': counted['total'].macs * options.batch,
        'images_per_s': options.batch / timing.median,
        **timing.to_json(),
    }
    if not options.train and not options.compile:
        seconds = _medians(part_times(model, run, work.device, options.rounds))
        names = [name for name in seconds if name != 'total']
        result['parts'] = [
            {'name': name, 'median_s': seconds[name], 'share': seconds[name] / seconds['total']}
            | _counts(counted, name, spec.kind, options.batch)
            for name in names
        ]
    elif options.train:
        result['parts'] = _train_parts(model, work, options.rounds)
    del model, run
    gc.collect()
    if options.memory:
        result['peak_bytes'] = peak_of(text, 'densevit', [], options)
    return result


def _counts(counted: dict[str, Any], name: str, kind: str, batch: int) -> dict[str, int]:
    name = 'total' if kind == 'backbone' and name == 'backbone' else name
    if name not in counted:
        return {}
    return {'params': counted[name].params, 'macs': counted[name].macs * batch}


def on_meta(spec: Spec) -> nn.Module:
    """The model without memory, to be counted."""
    with torch.device('meta'):
        return make(spec)


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _train_parts(model: nn.Module, work: Work, rounds: int) -> list[dict[str, Any]]:
    """Loss, backward pass and update."""
    optimizer = work.optimizer(model)
    found: dict[str, list[float]] = {'forward and loss': [], 'backward': [], 'update': []}
    clock, kept = timer(work.device), []
    for turn in range(-1, rounds):
        kept.clear()
        seconds = [
            clock(lambda: kept.append(work.loss(model))),
            clock(lambda: kept[0].backward()),
            clock(lambda: (optimizer.step(), optimizer.zero_grad(set_to_none=True))),
        ]
        if turn >= 0:
            for values, value in zip(found.values(), seconds, strict=True):
                values.append(value)
    medians = _medians(found)
    total = sum(medians.values())
    return [{'name': name, 'median_s': value, 'share': value / total} for name, value in medians.items()]


def _conditions(work: Work, options: Options) -> dict[str, Any]:
    return {
        'size': list(work.size),
        'batch': options.batch,
        'train': options.train,
        'device': options.device,
        'dtype': options.dtype,
        'threads': torch.get_num_threads(),
        'channels_last': options.channels_last,
        'compile': options.compile,
        'fold': options.fold and not options.train,
        'winograd': options.winograd,
        'tolerance': options.tolerance_of(options.train),
    }
