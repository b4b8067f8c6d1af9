"""Whether the weights that a run is to start from are there, can be read without running code, and fit the model."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import CheckpointError, load_weights, read_checkpoint
from ..checkpoints.download import is_url
from ..checkpoints.read import unwrap
from .finding import Finding

__all__ = ['weight_findings']

# How much of a part mmengine's loader, which takes what fits, has to find: below it the file is another model's.
_ENOUGH = 0.5
_STATE = ('optimizer', 'message_hub')  # what the checkpoint of a run holds beside the weights


def weight_findings(cfg: Config, model: nn.Module | None, checkpoint: str | None = None) -> Iterator[Finding]:
    """What is wrong with ``load_from``, ``resume`` and the checkpoints of every ``init_cfg``.

    URLs are not fetched. Nothing is loaded: the model is on the meta device.

    Args:
        cfg: with ``load_from``, as the run would have it.
        model: of :func:`densevit.check.model.build_on_meta`, or None where it cannot be built.
        checkpoint: one more file to be held against the model.
    """
    yield from _confusions(cfg)
    source = cfg.get('load_from')
    for place, file in (('load_from', source), ('CHECKPOINT', checkpoint)):
        if isinstance(file, str) and not (place == 'CHECKPOINT' and file == source):
            yield from _whole_model(cfg, model, place, file)
    starts = list(_initial(cfg.get('model'), 'model'))
    for place, given in starts:
        if source:
            message = f'load_from={source!r} overwrites what this loads, {given["checkpoint"]!r}; give one of them.'
            yield Finding('note', 'weights-twice', place, message)
        yield from _of_part(model, place, given)
    if not source and not checkpoint and not starts:
        yield from _random(cfg, model)


# ---------------------------------------------------------------------------------------- which of them is meant
def _confusions(cfg: Config) -> Iterator[Finding]:
    resume, source = cfg.get('resume'), cfg.get('load_from')
    if isinstance(resume, str):
        message = (
            f'{resume!r} is a path, where a config has True or False: write load_from={resume!r} and resume=True, or '
            'use tools/train.py --resume CHECKPOINT.'
        )
        yield Finding('error', 'resume-is-a-path', 'resume', message)
    if source is not None and not isinstance(source, (str, bool)):
        message = f'{source!r} is no path: give the path or the URL of a .pth or .safetensors file.'
        yield Finding('error', 'weights-not-found', 'load_from', message)
    if isinstance(source, bool) and source:
        message = 'load_from=True: give the path of a checkpoint, or resume=True to go on with a run.'
        yield Finding('error', 'weights-not-found', 'load_from', message)
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    for place, part in (('model', model), ('model.backbone', backbone)):
        given = part.get('pretrained')
        both = isinstance(part.get('init_cfg'), Mapping)
        if given and (both or str(backbone.get('type')).startswith('densevit.')):
            why = 'and init_cfg are both there' if both else "is mm's old way, which this backbone does not know"
            message = (
                f'pretrained={given!r} {why}; give model.backbone.init_cfg=dict(type='
                f"'densevit.Pretrained', checkpoint={given!r}) alone."
            )
            yield Finding('error', 'pretrained', place, message)


def _initial(value: Any, path: str) -> Iterator[tuple[str, Mapping]]:
    """The entries that name a checkpoint, with their places: init_cfg, and mm's older ``pretrained``."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _initial(item, f'{path}[{index}]')
    elif isinstance(value, Mapping):
        if str(value.get('type')).rpartition('.')[2] == 'Pretrained' and isinstance(value.get('checkpoint'), str):
            yield path, value
            return
        if isinstance(value.get('pretrained'), str):
            # of a whole model it is the backbone's, as mmseg hands it on
            part = f'{path}.backbone' if 'backbone' in value else path
            yield f'{path}.pretrained', {'checkpoint': value['pretrained'], 'part': part}
        for name, item in value.items():
            yield from _initial(item, f'{path}.{name}')


def _random(cfg: Config, model: nn.Module | None) -> Iterator[Finding]:
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    frozen = backbone.get('frozen_stages', -1)
    fixed = [
        *(['norm_eval=True'] if backbone.get('norm_eval') and _has_statistics(model) else []),
        *([f'frozen_stages={frozen}'] if isinstance(frozen, int) and frozen >= 0 else []),
    ]
    if fixed:
        message = (
            f'{" and ".join(fixed)} keeps what it starts with, and no weights are named: the backbone would stay '
            "random; give --load-from, or init_cfg=dict(type='densevit.Pretrained', checkpoint=...)."
        )
        yield Finding('warning', 'frozen-random-weights', 'model.backbone', message)
    else:
        message = 'all weights start random: no --load-from, and no init_cfg names a checkpoint (docs/weights.md).'
        yield Finding('note', 'random-weights', 'load_from', message)


def _has_statistics(model: nn.Module | None) -> bool:
    parts = getattr(model, 'backbone', nn.BatchNorm2d(1)).modules()
    return any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in parts)


# -------------------------------------------------------------------------------------------------- the files
def _whole_model(cfg: Config, model: nn.Module | None, place: str, source: str) -> Iterator[Finding]:
    content = yield from _content(place, source)
    if content is None:
        return
    state = [key for key in _STATE if isinstance(content, Mapping) and content.get(key)]
    if place == 'load_from' and cfg.get('resume') and len(state) < len(_STATE):
        message = (
            f'{source!r} holds weights but not the state of a training run, so none can be resumed from it; set '
            'resume=False to start a new run from these weights, or name an iter_*.pth or epoch_*.pth.'
        )
        yield Finding('error', 'resume-without-state', place, message)
    elif place == 'load_from' and not cfg.get('resume') and state and _in_work_dir(cfg, source):
        message = (
            f'{source!r} is a checkpoint of this run itself: its weights would be taken and the training begun at '
            'iteration 0; did you mean --resume (resume=True)?'
        )
        yield Finding('warning', 'load-from-instead-of-resume', place, message)
    yield from _fits(model, place, source, content, new_classes=bool(cfg.get('new_classes')))


def _of_part(model: nn.Module | None, place: str, given: Mapping) -> Iterator[Finding]:
    source = given['checkpoint']
    if '://' in source and not is_url(source):  # torchvision://, open-mmlab://
        yield Finding('note', 'weights-not-here', place, f'{source!r} is fetched when the run starts: not checked.')
        return
    content = yield from _content(place, source, given.get('sha256'))
    if content is None or model is None:
        return
    prefix = given.get('prefix')
    tensors = unwrap(content, source)
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        tensors = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        if not tensors:
            message = f'no tensor of {source!r} has a name that begins with prefix={prefix!r}; leave prefix out.'
            yield Finding('error', 'weights-do-not-fit', place, message)
            return
    part = _part(model, given.get('part') or place.rpartition('.init_cfg')[0].partition('[')[0])
    if part is None:
        return
    ours = type(part).__module__.startswith('densevit.') or str(given.get('type')).startswith('densevit.')
    if ours:
        yield from _fits(part, place, source, tensors)
    elif 'load_checkpoint' in inspect.getsource(type(part).init_weights):
        message = f'{type(part).__name__} renames the tensors of {source!r} in its own way: not checked.'
        yield Finding('note', 'weights-not-checked', place, message)
    else:
        yield from _coverage(part, place, source, tensors)


def _part(model: nn.Module, place: str) -> nn.Module | None:
    try:
        return model.get_submodule(place.removeprefix('model').removeprefix('.'))
    except AttributeError:
        return None


def _content(place: str, source: str, sha256: str | None = None) -> Iterator[Finding]:
    """What is in a file, as the value of the generator; None where that cannot be known here."""
    if is_url(source):
        yield Finding('note', 'weights-not-here', place, f'{source!r} is fetched when the run starts: not checked.')
        return None
    try:
        content = read_checkpoint(source, sha256=sha256)
        tensors = unwrap(content, repr(source))
    except CheckpointError as error:
        kind = 'weights-unreadable'
        if isinstance(error.__cause__, UnpicklingError):
            kind = 'weights-would-run-code' if 'could run code' in str(error) else kind
        elif 'does not exist' in str(error):
            kind = 'weights-not-found'
        elif 'has the sha256' in str(error) or 'is damaged' in str(error):
            kind = 'weights-hash'
        yield Finding('error', kind, place, str(error), (source,))
        return None
    weights = {name: each for name, each in tensors.items() if each.is_floating_point()}
    broken = [name for name, each in weights.items() if not bool(each.isfinite().all())]
    if broken:
        message = f'{len(broken)} tensors of {source!r} hold NaN or infinity, {broken[0]} for one: take an earlier one.'
        yield Finding('error', 'weights-not-finite', place, message, (source,))
        return None
    if weights and not any(bool(each.any()) for each in weights.values()):
        message = f'all {len(weights)} weights of {source!r} are zero, so nothing could be learnt: write the file anew.'
        yield Finding('error', 'weights-all-zero', place, message, (source,))
        return None
    return content


def _fits(
    model: nn.Module | None, place: str, source: str, content: Any, *, new_classes: bool = False
) -> Iterator[Finding]:
    """All or nothing, as densevit loads."""
    if model is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch: values that go to the meta device are lost
            report = load_weights(model, content, new_classes=new_classes)
    except CheckpointError as error:
        kind = 'weights-of-other-classes' if '--new-classes' in str(error) else 'weights-do-not-fit'
        yield Finding('error', kind, place, f'{source!r}: {error}', (source,))
        return
    yield Finding('note', 'weights', place, f'{source!r}: {report}', (source,))


def _coverage(part: nn.Module, place: str, source: str, tensors: Mapping[str, Tensor]) -> Iterator[Finding]:
    """What mmengine's own loader, which takes what fits and is silent about the rest, would find."""
    own = part.state_dict()
    names = [name for name in own if not name.endswith('num_batches_tracked')]
    fitting = [name for name in names if name in tensors and tensors[name].shape == own[name].shape]
    said = f'{len(fitting)} of {len(names)} tensors of {type(part).__name__} are in {source!r}'
    if names and len(fitting) < _ENOUGH * len(names):
        nested = next((p for p in ('backbone.', 'module.', 'model.') if any(p + name in tensors for name in names)), '')
        cure = f"write init_cfg=dict(..., prefix='{nested}')" if nested else 'take a file of the same model'
        message = f'{said}, the rest would stay random ({len(fitting) / len(names):.0%} loaded); {cure}.'
        yield Finding('error', 'weights-do-not-fit', place, message, (source,))
    elif len(fitting) < len(names):
        missing = [name for name in names if name not in fitting]
        message = f'{said}; random stay {", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}.'
        yield Finding('warning', 'weights-in-part', place, message, (source,))
    else:
        yield Finding('note', 'weights', place, f'{said}, all of them.', (source,))


def _in_work_dir(cfg: Config, source: str) -> bool:
    work_dir = cfg.get('work_dir')
    return bool(work_dir) and Path(source).resolve().parent == Path(work_dir).resolve()
