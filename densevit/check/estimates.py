"""What a run will need: memory of the device, and room for its checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from .data.steps import crop_size, kind_of, leaves, steps
from .finding import Finding

__all__ = ['Disk', 'Memory', 'estimate_disk', 'estimate_memory', 'training_size']

# Tensors of the parameters' size that an optimizer keeps between its steps.
_STATES = {
    'Adam': 2, 'AdamW': 2, 'NAdam': 2, 'RAdam': 2, 'Adamax': 2, 'Adadelta': 2, 'SGD': 0, 'RMSprop': 1, 'Adagrad': 1,
    'Lion': 1,
}  # fmt: skip
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Memory:
    """An estimate of the memory that training takes on its device, in bytes.

    Attributes:
        parameters: weights and buffers.
        optimizer: its state, and the average of the weights where one is kept.
        gradients: of the weights.
        activations: what the backward pass needs of the forward pass, of one batch; None where it is not known.
        batch: images in it.
        size: their height and width, in pixels.
        available: of the GPU, or of the computer where there is none; None where it is not known.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int | None
    batch: int
    size: tuple[int, int]
    available: int | None

    @property
    def total(self) -> int:
        """The peak: gradients come while the activations go."""
        return self.parameters + self.optimizer + max(self.gradients, self.activations or 0)

    def findings(self) -> Iterator[Finding]:
        """Too little memory, or the estimate."""
        height, width = self.size
        known = self.activations is not None
        message = (
            f'about {_gib(self.total)} for {self.batch} images of {height} x {width}'
            f'{"" if known else ", without activations, which could not be counted"}: weights {_gib(self.parameters)}, '
            f'optimizer {_gib(self.optimizer)}, gradients {_gib(self.gradients)}'
            f'{f", activations {_gib(self.activations)} in float32 (about half with --amp)" if known else ""}'
        )
        place = 'train_dataloader.batch_size'
        if self.available is not None and self.total > self.available:
            where = 'the GPU has' if torch.cuda.is_available() else 'this computer has'
            cure = 'use --amp, a smaller batch_size with --accumulate, smaller crops, or backbone.with_cp=True'
            yield Finding('warning', 'memory', place, f'{message}; {where} {_gib(self.available)}: {cure}.')
        else:
            yield Finding('note', 'memory', place, f'{message}.')


@dataclass(frozen=True)
class Disk:
    """An estimate of the room that the checkpoints of a run take, in bytes.

    Attributes:
        checkpoint: one of the run: weights, optimizer, average.
        count: how many lie there at the same time.
        folder: where.
        free: room there.
    """

    checkpoint: int
    count: int
    folder: str
    free: int

    @property
    def total(self) -> int:
        """Of all checkpoints."""
        return self.checkpoint * self.count

    def findings(self) -> Iterator[Finding]:
        """Too little room, or the estimate."""
        message = f'{self.count} checkpoints of {_gib(self.checkpoint)} each, {_gib(self.total)} in {self.folder!r}'
        place = 'work_dir'
        if self.checkpoint > self.free:
            message = (
                f'a checkpoint takes {_gib(self.checkpoint)}, and {self.folder!r} has {_gib(self.free)} left: not even '
                'the first can be saved; make room, or use --work-dir on another disk.'
            )
            yield Finding('error', 'disk', place, message)
        elif self.total > self.free:
            cure = 'give default_hooks.checkpoint.max_keep_ckpts, make room, or use --work-dir on another disk'
            yield Finding('warning', 'disk', place, f'{message}, which has {_gib(self.free)} left; {cure}.')
        else:
            yield Finding('note', 'disk', place, f'{message}, which has {_gib(self.free)} left.')


def training_size(cfg: Config) -> tuple[int, int]:
    """Height and width of the largest images that training is fed, as far as the config says."""
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    size, sizes = preprocessor.get('size'), []
    for place, leaf in leaves((cfg.get('train_dataloader') or {}).get('dataset'), ''):
        crop = crop_size(leaf)
        if crop:
            sizes.append(crop)
            continue
        for _, step in steps(leaf, place):
            if kind_of(step) in ('Resize', 'RandomChoiceResize', 'RandomResize'):
                scales = step.get('scale', step.get('scales'))
                scales = scales if isinstance(scales, list) and scales and not isinstance(scales[0], int) else [scales]
                sizes += [tuple(sorted(each)) for each in scales if _is_size(each)]
    if _is_size(size):
        sizes.append(tuple(size))
    height, width = max(sizes, key=lambda each: each[0] * each[1], default=(512, 512))
    divisor = preprocessor.get('pad_size_divisor') or preprocessor.get('size_divisor') or 1
    return tuple(-(-side // divisor) * divisor for side in (height, width))


def _is_size(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(s, int) and s > 0 for s in value)


def estimate_memory(cfg: Config, model: nn.Module, saved: int | None, size: tuple[int, int]) -> Memory:
    """From the parameters of a model, and what :func:`densevit.check.model.training_pass` counted."""
    parameters, trained = _sizes(model)
    return Memory(
        parameters=parameters,
        optimizer=trained * _states(cfg) + parameters * _averages(cfg),
        gradients=trained,
        activations=saved,
        batch=cfg.train_dataloader.get('batch_size', 1),
        size=size,
        available=_available(),
    )


def estimate_disk(cfg: Config, model: nn.Module) -> Disk:
    """From the parameters of a model and the hook that saves."""
    parameters, trained = _sizes(model)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    state = trained * _states(cfg) if hook.get('save_optimizer', True) else 0
    folder = Path(cfg.get('work_dir') or 'work_dirs').absolute()
    while not folder.is_dir():
        folder = folder.parent
    # the best is kept beside, and a new one is there before the old one goes
    best = hook.get('save_best')
    count = _kept(cfg, hook) + (len(best) if isinstance(best, (list, tuple)) else int(bool(best))) + 1
    return Disk(parameters * (1 + _averages(cfg)) + state, count, str(folder), shutil.disk_usage(folder).free)


def _kept(cfg: Config, hook: dict) -> int:
    train, interval = cfg.get('train_cfg') or {}, hook.get('interval', -1)
    length = train.get('max_iters') or train.get('max_epochs') or 1
    saved = max(1, length // interval) if isinstance(interval, int) and interval > 0 else 1
    limit = hook.get('max_keep_ckpts', -1)
    return min(saved, limit) if isinstance(limit, int) and limit > 0 else saved


def _sizes(model: nn.Module) -> tuple[int, int]:
    """Bytes of the state, and of what is trained."""
    every = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return every, sum(each.numel() for each in model.parameters() if each.requires_grad) * _BYTES


def _states(cfg: Config) -> int:
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = kind_of(optimizer)
    momentum = kind in ('SGD', 'RMSprop') and bool(optimizer.get('momentum'))
    return _STATES.get(kind, 2) + int(momentum) + int(bool(optimizer.get('amsgrad')))


def _averages(cfg: Config) -> int:
    return sum(kind_of(hook) == 'EMAHook' for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict))


def _available() -> int | None:
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError, AttributeError):  # not on every system
        return None


def _gib(size: int) -> str:
    return f'{size / 2**30:.2f} GiB' if size >= 2**27 else f'{size / 2**20:.0f} MiB'
