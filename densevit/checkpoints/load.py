"""Loading weights into a model, with a report of every tensor, or a refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from .errors import CheckpointError
from .names import BACKBONE, CLASS_ATTENTION, CLASSIFIER
from .origins import DENSEVIT, Recognised, family_of, to_names_of
from .read import read_state_dict, unwrap

__all__ = ['CheckpointError', 'LoadReport', 'load_weights']

_FEW = 5  # names that a refusal lists of a kind
# By the beginnings of their tensors' names, as mmsegmentation and mmdetection call the heads.
_TASKS = {
    'segmentor': ('decode_head.', 'auxiliary_head.'),
    'detector': ('roi_head.', 'rpn_head.', 'bbox_head.', 'mask_head.'),
    'classifier': CLASSIFIER,
}


@dataclass(frozen=True)
class LoadReport:
    """What a load did, by tensor name.

    Attributes:
        origin: whose names the tensors had, ``'densevit'`` or ``'PatchConvNet, official'``.
        loaded: tensors of the model that were set.
        skipped: tensors of the checkpoint that this model has no use for, such as a classifier's head for a backbone.
        kept: tensors of the model that the checkpoint does not have, such as a segmentor's head for a classifier's.
        renewed: tensors of heads that stay as they are, since the checkpoint has them for another number of classes.
        resized: those of the loaded ones that the checkpoint has for another size of image or window.
        completed: those of the loaded ones that are 0, wholly or in part, where the origin has nothing and no output
            depends on it.
        note: what the backbone does otherwise now, to compute as the origin does.
    """

    origin: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=())
    kept: tuple[str, ...] = field(default=())
    renewed: tuple[str, ...] = field(default=())
    resized: tuple[str, ...] = field(default=())
    completed: tuple[str, ...] = field(default=())
    note: str = ''

    def __str__(self) -> str:
        """One line that accounts for every tensor; where there are many, by the beginnings of their names."""
        total = len(self.loaded) + len(self.kept) + len(self.renewed)
        parts = [f'{self.origin}: loaded {len(self.loaded)} of {total} tensors']
        for verb, names, how in (
            ('resized', self.resized, ''),
            ('completed', self.completed, ' with zeros'),
            ('skipped', self.skipped, ''),
            ('kept', self.kept, ' as they were'),
        ):
            if names:
                parts.append(f'{verb} {len(names)}{how} ({_outline(names)})')
        if self.renewed:
            parts.append(f'for new classes: {", ".join(self.renewed)}')
        return ', '.join(parts) + (f'; {self.note}' if self.note else '')


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    *,
    new_classes: bool = False,
    trust: bool = False,
    sha256: str | None = None,
) -> LoadReport:
    """Load a checkpoint into a backbone, a classifier, or a whole segmentor or detector.

    The origin is recognised from the names: densevit's own, or one of ``checkpoints/origins.py``. A backbone takes the
    backbone's tensors of a whole model, and a whole segmentor or detector those of a classifier or of a backbone alone;
    what lies behind the backbone is then skipped, and what the checkpoint does not have stays as it is. Tables for
    another size of image or window are resized as the originals do it, see :meth:`Backbone.resized`.

    Args:
        model: where to.
        source: path or URL of a .pth or .safetensors file, or its content.
        new_classes: leave a head's tensors as they are where the checkpoint's have another first dimension.
        trust: run the code that a torch file asks to run, see :func:`densevit.checkpoints.read_checkpoint`.
        sha256: hash of the file, or its first 8 digits or more, to be verified.

    Returns:
        What was loaded and what was skipped on purpose.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message lists them. The model is
            unchanged then.
    """
    if isinstance(source, Mapping):
        tensors = unwrap(source)
    else:
        tensors = read_state_dict(source, trust=trust, sha256=sha256)
    own = model.state_dict()
    recognise = getattr(getattr(model, 'backbone', model), 'recognise', None)
    given = (recognise and recognise(tensors)) or to_names_of(own, tensors)
    _check_family(given, own, model)
    _check_task(given, own, model)
    if check := getattr(getattr(model, 'backbone', model), 'check_derived', None):
        check({name.removeprefix(BACKBONE): table for name, table in given.tables.items()})
    _check_kinds(given.tensors)
    fitting, skipped, required = _select(given, own, model)
    resized, of_classes, mismatched = _compare(fitting, own, model, is_own=given.origin == DENSEVIT)
    fitting |= resized
    renewed = of_classes if new_classes else []
    if not new_classes:
        mismatched = of_classes + mismatched
    missing = [name for name in own if name in required and name not in fitting]
    unexpected = [name for name in fitting if name not in own]
    if missing or unexpected or mismatched:
        is_foreign = given.origin == DENSEVIT and len(unexpected) == len(fitting)
        shapes = [f'{name} {tuple(fitting[name].shape)} instead of {tuple(own[name].shape)}' for name in mismatched]
        lists = (
            ('missing', missing),
            ('unexpected', [_with_nearest(name, missing) for name in unexpected[:_FEW]] + unexpected[_FEW:]),
            ('of another shape', shapes),
        )
        raise CheckpointError(
            f'the checkpoint ({"of no known origin" if is_foreign else given.origin}, {len(tensors)} tensors) does not '
            f'fit {type(model).__name__}: '
            + '; '.join(f'{len(names)} {what} ({_some(names)})' for what, names in lists if names)
            + '. Nothing was loaded; '
            + (
                'where only the classes are others, train.py --new-classes (new_classes=True) starts from the rest.'
                if mismatched == of_classes and not missing and not unexpected
                else 'check that config and checkpoint are of the same model.'
            )
        )
    for name in renewed:
        del fitting[name]
    model.load_state_dict(fitting, strict=False)
    follow = getattr(getattr(model, 'backbone', model), 'follow', None)
    has_heads = given.of_whole and not all(name.startswith((BACKBONE, *CLASSIFIER)) for name in given.tensors)
    note = follow(given.origin, has_heads) if follow else ''
    completed = {_shortened(name, model) for name in given.completed}
    return LoadReport(
        given.origin,
        loaded=tuple(fitting),
        skipped=skipped,
        kept=tuple(name for name in own if name not in fitting and name not in renewed),
        renewed=tuple(renewed),
        resized=tuple(resized),
        completed=tuple(name for name in fitting if name in completed),
        note=note,
    )


def _select(
    given: Recognised, own: Mapping[str, Tensor], model: nn.Module
) -> tuple[dict[str, Tensor], tuple[str, ...], set[str]]:
    """What of a checkpoint is meant for a model, what the model has no place for, and what it needs; by its own names.

    A backbone has no place for what lies behind one, a segmentor or detector none for a classifier's head; these need
    no heads from a classifier or a backbone alone. Class attention may be missing or too much. Whatever else does not
    fit is left for the refusal.
    """
    backbone = getattr(model, 'backbone', model)
    is_whole, is_classifier = backbone is not model, hasattr(model, 'pool')
    tensors = given.tensors
    if is_whole and any(BACKBONE + name in own for name in tensors):
        tensors = {BACKBONE + name: tensor for name, tensor in tensors.items()}  # of a backbone alone
    trunk = {name for name in tensors if name.startswith(BACKBONE)}
    of_classifier = {name for name in tensors if name.startswith(CLASSIFIER)}

    beside: set[str] = set()
    if trunk and not is_whole:
        # heads of a segmentor or detector can have any name
        beside = set(tensors) - trunk if given.of_whole else of_classifier
    elif trunk and not is_classifier:
        beside = of_classifier
    is_unbuilt = getattr(backbone, 'is_unbuilt', lambda name: False)
    for name in trunk or tensors:
        if _shortened(name, model) not in own and is_unbuilt(name.removeprefix(BACKBONE)):
            beside.add(name)

    required = set(own)
    if is_whole and not is_classifier and set(tensors) == trunk | of_classifier:
        required = {name for name in own if name.startswith(BACKBONE)}
    # a head that any segmentor or detector can have or not have, trained with the rest or added to it
    of_attention = {name for name in tensors if name.startswith(CLASS_ATTENTION)}
    if not of_attention:
        required = {name for name in required if not name.startswith(CLASS_ATTENTION)}
    elif not any(name.startswith(CLASS_ATTENTION) for name in own):
        beside |= of_attention
    dense_only = getattr(backbone, 'DENSE_ONLY', None)
    if dense_only and not is_classifier:
        dense = {name for name in tensors if dense_only.match(name.removeprefix(BACKBONE))}
        if of_classifier or not dense:  # not even one: of a backbone that has none
            required = {name for name in required if not dense_only.match(name.removeprefix(BACKBONE))}

    fitting = {_shortened(name, model): tensor for name, tensor in tensors.items() if name not in beside}
    skipped = tuple(_shortened(name, model) for name in tensors if name in beside)
    return fitting, given.derived + skipped, required


def _compare(
    fitting: Mapping[str, Tensor], own: Mapping[str, Tensor], model: nn.Module, *, is_own: bool
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Of the tensors that have another size than the model's: those that it can resize, resized; the names of heads
    for other classes; the names of the rest."""
    backbone = getattr(model, 'backbone', model)
    prefix = '' if backbone is model else BACKBONE
    resize = getattr(backbone, 'resized', lambda name, tensor: None)
    resized, of_classes, rest = {}, [], []
    for name, tensor in fitting.items():
        if name not in own or (is_own and tensor.shape == own[name].shape):
            continue
        fresh = resize(name.removeprefix(prefix), tensor) if name.startswith(prefix) else None
        if fresh is not None:
            resized[name] = fresh
        elif tensor.shape == own[name].shape:
            continue
        elif prefix and _counts_classes(name, tensor, own[name]):
            of_classes.append(name)
        else:
            rest.append(name)
    return resized, of_classes, rest


def _check_family(given: Recognised, own: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse the weights of another family by one word, where a list of names would be as long as the model."""
    theirs, ours = family_of(given.tensors), family_of(own)
    if theirs and ours and theirs != ours:
        raise CheckpointError(
            f'the checkpoint ({given.origin}) has weights of {theirs}, and the backbone of this {type(model).__name__} '
            f'is {ours}. Nothing was loaded; check that config and checkpoint are of the same model.'
        )


def _check_task(given: Recognised, own: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse the weights of a model for another task, likewise; a classifier's serve all of them."""
    theirs, ours = _task_of(given.tensors), _task_of(own)
    if theirs in (None, 'classifier', ours) or ours is None:
        return
    raise CheckpointError(
        f'the checkpoint ({given.origin}) is that of a {theirs}, and this {type(model).__name__} is a {ours}. Nothing '
        f'was loaded; give the checkpoint of a {ours}, or start from the backbone alone: '
        "model.backbone.init_cfg=dict(type='densevit.Pretrained', checkpoint=...)."
    )


def _task_of(names: Iterable[str]) -> str | None:
    return next((task for task, heads in _TASKS.items() if any(name.startswith(heads) for name in names)), None)


def _check_kinds(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot be copied into parameters, or that would be without the scale that they mean."""
    odd = [
        f'{name} ({tensor.layout}, {tensor.dtype})'
        for name, tensor in tensors.items()
        if tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.is_complex()
        or not (tensor.is_floating_point() or name.endswith('num_batches_tracked') or tensor.ndim == 0)
    ]
    if odd:
        raise CheckpointError(
            f'{len(odd)} tensors of the checkpoint are no plain floating-point ones ({_some(odd)}); convert them first.'
        )


def _shortened(name: str, model: nn.Module) -> str:
    """What the model calls a tensor; a backbone alone has no ``backbone.`` in its names."""
    return name if hasattr(model, 'backbone') else name.removeprefix(BACKBONE)


def _counts_classes(name: str, given: Tensor, own: Tensor) -> bool:
    """Whether a tensor of another shape can be due to the number of classes: a head's, and one row per class or box."""
    return not name.startswith((BACKBONE, 'neck.')) and given.ndim == own.ndim and given.shape[1:] == own.shape[1:]


def _with_nearest(name: str, candidates: Sequence[str]) -> str:
    """The name, and behind it the nearest of the candidates where one is near."""
    nearest = get_close_matches(name, candidates, n=1, cutoff=0.8)
    return f'{name} [near {nearest[0]}]' if nearest else name


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    return ', '.join(names[:_FEW]) + (', ...' if len(names) > _FEW else '')


def _outline(names: Sequence[str]) -> str:
    """All names; of more than three, those with the same beginning as one: ``backbone.blocks.* 12, head.* 2``."""
    if len(names) <= 3:
        return ', '.join(names)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault('.'.join(name.split('.')[: 1 + name.startswith(BACKBONE)]), []).append(name)
    return ', '.join(f'{beginning}.* {len(of)}' if len(of) > 1 else of[0] for beginning, of in groups.items())
