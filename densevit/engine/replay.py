"""The run behind ``tools/replay.py``: a training step whose loss was not finite, once more and under watch."""

from __future__ import annotations

import argparse
import math
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..check.model import telling_what_is_wrong
from ..checkpoints import load_weights, read_checkpoint
from ..checkpoints.safe import load_torch_file
from ..errors import UserError
from .guards import STEP_FORMAT, image_paths
from .plain import from_plain

__all__ = ['replay']

_SHOWN = 5  # of a list of names
_FRAME = re.compile(r'File "(.+)", line (\d+), in .+\n\s+(.+)')


@dataclass(frozen=True)
class _Place:
    """Where values stop being finite: a module, and which of its outputs or gradients."""

    name: str
    kind: str
    shape: tuple[int, ...]
    count: int
    rows: tuple[int, ...]  # of the batch, where the first axis is the batch's

    def __str__(self) -> str:
        total = math.prod(self.shape)
        return f'{self.name or "the model"} ({self.kind}), {self.count:,} of {total:,} values of {self.shape}'


def replay(args: argparse.Namespace) -> int:
    """Repeat a saved step, print where it stops being finite; return 0, or 1 where all of it is finite here.

    Raises:
        UserError: the file is none of a saved step, or the device is not there.
    """
    device = _device(args.device)
    saved = _read(args.file)
    batch = from_plain(saved['batch'])
    paths = image_paths(batch)
    print(f'{args.file}: iteration {saved["iteration"]}, seed {saved["seed"]}, trained on {saved["device"]}')
    print(f'in the run: {saved["what"]} {saved["value"]}; repeated on {device}')
    for number, path in enumerate(paths):
        print(f'  image {number}: {path}')
    model = _model(saved, args.checkpoint, device)
    spoiled = [name for name, value in model.state_dict().items() if not _finite(value)]
    if spoiled:
        print(f'not finite before the step already: {_few(spoiled)}')
        print(
            'so an earlier step has spoiled the weights, with a finite loss and a gradient that was not: go on from '
            'the last checkpoint with optim_wrapper.clip_grad=dict(max_norm=1e9), which looks at every gradient.'
        )
        return 0
    largest = max(_sizes(model), default=(0.0, ''))
    print(f'weights and statistics before the step: finite, the largest {largest[0]:.3g} in {largest[1]}')
    step = _Step(model, _autocast(saved['config'], device), from_plain(saved['random']))
    inputs = _report_inputs(step.fed(batch), paths)
    found, losses = _report_forward(step, batch, paths)
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    gradient = None if bad or found else _report_gradient(step, batch)
    if bad or found or gradient or inputs:
        _report_images(step, batch, paths, gradient is not None)
        return 0
    print(
        'all is finite here: the run differs in its device, its precision or its operators (--device cuda repeats it '
        'on a GPU), or something outside of the model was at fault.'
    )
    return 1


# --------------------------------------------------------------------------------------------- reading, building
def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    if name.startswith('cuda') and not torch.cuda.is_available():
        raise UserError(f'--device {name}: torch finds no GPU here; use --device cpu.')
    return torch.device(name)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f'{str(file)!r}: there is no such file.')
    try:
        saved = load_torch_file(file, map_location='cpu')
    except UserError:
        raise
    except Exception as error:  # of a file that is something else, torch's reader can raise anything
        raise UserError(f'{str(file)!r} cannot be read ({str(error).partition(chr(10))[0]}).') from error
    if not isinstance(saved, Mapping) or saved.get('format') != STEP_FORMAT:
        raise UserError(
            f'{str(file)!r} is no step that a run has saved; train.py writes nonfinite_iter_N.pth into its work dir '
            'when a loss is not finite.'
        )
    return dict(saved)


def _model(saved: Mapping[str, Any], checkpoint: str | None, device: torch.device) -> nn.Module:
    cfg = Config(saved['config'])
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), telling_what_is_wrong():
        config = dict(cfg.model)
        if cfg.get('data_preprocessor'):
            config.setdefault('data_preprocessor', cfg.data_preprocessor)
        # SyncBN is for several processes, and this is one
        model = revert_sync_batchnorm(registries.MODELS.build(config))
    if saved['state_dict'] is not None:
        model.load_state_dict(saved['state_dict'])
    elif checkpoint is None:
        raise UserError(
            'each process of that run held a part of the weights, so they are not in the file: give --checkpoint, the '
            'last one before it.'
        )
    if checkpoint is not None:
        load_weights(model, read_checkpoint(checkpoint))
    return model.to(device).train()


def _autocast(config: Mapping[str, Any], device: torch.device) -> AbstractContextManager:
    """The precision of the run's forward pass."""
    wrapper = config.get('optim_wrapper') or {}
    kind = str(wrapper.get('type')).rpartition('.')[2]
    if kind == 'BF16OptimWrapper':
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if kind == 'AmpOptimWrapper':
        dtype = getattr(torch, str(wrapper.get('dtype') or 'float16').removeprefix('torch.'))
        return torch.autocast(device.type, dtype=dtype)
    return nullcontext()


class _Step:
    """A model and what a forward pass depends on beside the batch."""

    def __init__(self, model: nn.Module, precision: AbstractContextManager, state: Mapping[str, Any]) -> None:
        self.model, self.precision, self.state = model, precision, state

    def fed(self, batch: Any) -> Any:
        """What the data preprocessor makes of the batch."""
        self._reset()
        return self.model.data_preprocessor(batch, True)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The loss to go backward from, and its parts."""
        with self.precision:
            fed = self.fed(batch)
            losses = self.model(**fed, mode='loss') if isinstance(fed, dict) else self.model(*fed, mode='loss')
        loss, parts = self.model.parse_losses(losses)
        return loss, {name: float(value.detach()) for name, value in parts.items()}

    def _reset(self) -> None:
        version, keys, gauss = self.state['python']
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state(self.state['numpy'])
        torch.set_rng_state(self.state['torch'])
        if 'cuda' in self.state and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.state['cuda'])


# ---------------------------------------------------------------------------------------------------- reporting
def _report_inputs(fed: Any, paths: Sequence[str]) -> bool:
    """Say which images are not finite after normalization."""
    inputs = fed.get('inputs') if isinstance(fed, dict) else None
    if not isinstance(inputs, Tensor):
        return False
    rows = [row for row, image in enumerate(inputs) if not _finite(image)]
    for row in rows:
        count = int((~torch.isfinite(inputs[row])).sum())
        print(f'the input is not finite: {count:,} values of {_image(row, paths)}')
    if not rows:
        print(f'input {tuple(inputs.shape)}: finite, {float(inputs.min()):.3g} to {float(inputs.max()):.3g}')
    return bool(rows)


def _report_forward(step: _Step, batch: Any, paths: Sequence[str]) -> tuple[_Place | None, dict[str, float]]:
    """Say which module's output is the first that is not finite, and the losses."""
    places: list[_Place] = []
    with _watched(step.model, len(paths), places):
        loss, parts = step.loss(batch)
    del loss
    found = places[0] if places else None
    if found:
        print(f'forward: the first output that is not finite is that of {found}')
        if found.rows and len(found.rows) < len(paths):
            print(f'  of {", ".join(_image(row, paths) for row in found.rows)} alone')
    else:
        print('forward: the outputs of all modules are finite')
    print('losses: ' + ', '.join(f'{name} {value:.6g}' for name, value in parts.items()))
    if not math.isfinite(parts['loss']) and (not found or 'loss' in found.name.rpartition('.')[2]):
        print('  so it begins in the loss itself: look at the labels of the images below')
    return found, parts


@contextmanager
def _watched(model: nn.Module, images: int, places: list[_Place]) -> Iterator[None]:
    """Note the modules whose output is not finite, in the order in which they are done: the innermost comes first."""
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, args: tuple, output: Any) -> None:
        if not places and not names[module].startswith('data_preprocessor'):
            places.extend(_place(module, names[module], each, images) for each in _tensors(output) if not _finite(each))

    # the model's own output are the losses
    handles = [module.register_forward_hook(look) for module in names if module is not model]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _place(module: nn.Module, name: str, value: Tensor, images: int) -> _Place:
    wrong = ~torch.isfinite(value.detach())
    by_image = value.dim() > 1 and value.shape[0] == images
    rows = tuple(wrong.flatten(1).any(dim=1).nonzero().flatten().tolist()) if by_image else ()
    return _Place(name, type(module).__name__, tuple(value.shape), int(wrong.sum()), rows)


def _report_gradient(step: _Step, batch: Any) -> list[str]:
    """Say which gradients are not finite, and which operation has made them so; their parameters."""
    step.model.zero_grad()
    loss, _ = step.loss(batch)
    loss.backward()
    wrong = [name for name, each in step.model.named_parameters() if each.grad is not None and not _finite(each.grad)]
    step.model.zero_grad()
    if not wrong:
        print('gradient: finite for all parameters')
        return []
    print(f'gradient: not finite for {len(wrong)} parameters: {_few(wrong)}')
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter('always')
        try:
            loss, _ = step.loss(batch)
            loss.backward()
        except RuntimeError as error:  # "Function 'SqrtBackward0' returned nan values in its 0th output."
            print(f'  backward: {str(error).partition(chr(10))[0]}')
            # torch warns with the traceback of the operation's forward
            frames = [frame for each in caught for frame in _FRAME.findall(str(each.message)) if _ours(frame[0])]
            if frames:
                print(f'  of {frames[-1][2]} ({frames[-1][0]}, line {frames[-1][1]})')
    step.model.zero_grad()
    return wrong


def _ours(path: str) -> bool:
    """Whether a file is none of torch's own."""
    return not Path(path).is_relative_to(Path(torch.__file__).parent)


def _report_images(step: _Step, batch: Any, paths: Sequence[str], gradient: bool) -> None:
    """Repeat the step with each image alone, taken twice: BatchNorm has no variance of one value."""
    if not isinstance(batch, dict) or len(paths) < 2 or any(len(each) != len(paths) for each in batch.values()):
        return
    culprits = []
    for row in range(len(paths)):
        single = {key: [each[row], each[row]] for key, each in batch.items()}
        loss, parts = step.loss(single)
        finite = math.isfinite(parts['loss'])
        if gradient and finite:
            step.model.zero_grad()
            loss.backward()
            finite = all(_finite(each.grad) for each in step.model.parameters() if each.grad is not None)
        print(f'  {_image(row, paths)} alone: loss {parts["loss"]:.6g}{"" if finite else ", not finite"}')
        if not finite:
            culprits.append(row)
    if 0 < len(culprits) < len(paths):
        print(f'culprit: {", ".join(_image(row, paths) for row in culprits)}')
    elif culprits:
        print('every image does it, so no single one is at fault: a lower learning rate, longer warm-up or clip_grad.')
    else:
        print('no image does it alone.')


def _sizes(model: nn.Module) -> Iterator[tuple[float, str]]:
    """The largest absolute value of each of the weights and statistics."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.numel():
            yield float(value.abs().max()), name


def _image(row: int, paths: Sequence[str]) -> str:
    return f'image {row} ({paths[row]})' if row < len(paths) else f'image {row}'


def _few(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')


def _finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or not value.is_floating_point() or bool(torch.isfinite(value).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
