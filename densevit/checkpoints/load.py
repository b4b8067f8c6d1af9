"""Loading weights into a model, with a report of every tensor, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ..errors import did_you_mean
from . import patchconvnet
from .errors import CheckpointError
from .read import read_state_dict, unwrap

__all__ = ['CheckpointError', 'LoadReport', 'load_weights']


@dataclass(frozen=True)
class LoadReport:
    """What a load did, by tensor name.

    Attributes:
        origin: whose names the tensors had, ``'densevit'`` or ``'PatchConvNet, official'``.
        loaded: tensors of the model that were set.
        skipped: tensors of the checkpoint that this model has no use for, such as a classifier's head for a backbone.
        kept: tensors of the model that the checkpoint does not have, such as a segmentor's head for a classifier's.
        renewed: tensors of heads that stay as they are, since the checkpoint has them for another number of classes.
    """

    origin: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=())
    kept: tuple[str, ...] = field(default=())
    renewed: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        skipped = f', skipped {len(self.skipped)} ({_some(self.skipped)})' if self.skipped else ''
        kept = f', kept {len(self.kept)} as they were ({_some(self.kept)})' if self.kept else ''
        renewed = f', for new classes: {", ".join(self.renewed)}' if self.renewed else ''
        total = len(self.loaded) + len(self.kept) + len(self.renewed)
        return f'{self.origin}: loaded {len(self.loaded)} of {total} tensors{skipped}{kept}{renewed}'


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Tensor], *, new_classes: bool = False
) -> LoadReport:
    """Load a checkpoint into a backbone, a classifier, or a whole segmentor or detector.

    The origin is recognised from the names: densevit's own, or the official PatchConvNet's. A backbone takes the
    backbone's tensors of a whole model, and a whole segmentor or detector those of a classifier or of a backbone alone;
    what lies behind the backbone is then skipped, and what the checkpoint does not have stays as it is.

    Args:
        model: where to.
        source: path of a .pth or .safetensors file, or its content.
        new_classes: leave a head's tensors as they are where the checkpoint's have another first dimension.

    Returns:
        What was loaded and what was skipped on purpose.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message lists them. The model is
            unchanged then.
    """
    tensors = unwrap(source) if isinstance(source, Mapping) else read_state_dict(source)
    origin = 'densevit'
    if patchconvnet.is_official(tensors):
        origin, tensors = 'PatchConvNet, official', patchconvnet.from_official(tensors)

    own = model.state_dict()
    has_backbone = any(name.startswith('backbone.') for name in own)
    if has_backbone and not hasattr(model, 'pool') and any(f'backbone.{name}' in own for name in tensors):
        tensors = {f'backbone.{name}': t for name, t in tensors.items()}  # of a backbone alone
    if not has_backbone and any(name.startswith('backbone.') for name in tensors):
        # from a whole model into a backbone
        fitting = {name.removeprefix('backbone.'): t for name, t in tensors.items() if name.startswith('backbone.')}
        skipped = [name for name in tensors if not name.startswith('backbone.')]
        required = set(own)
    elif not hasattr(model, 'pool') and _of_classifier_or_backbone(tensors):
        # into a segmentor or detector
        fitting = {name: t for name, t in tensors.items() if name.startswith('backbone.')}
        skipped = [name for name in tensors if not name.startswith('backbone.')]
        required = {name for name in own if name.startswith('backbone.')}
    else:
        fitting, skipped, required = dict(tensors), [], set(own)

    backbone = getattr(model, 'backbone', model)
    skipped += [name for name in fitting if name not in own and _behind_last_output(name, backbone)]
    fitting = {name: t for name, t in fitting.items() if name not in skipped}

    other_shape = [name for name, t in fitting.items() if name in own and t.shape != own[name].shape]
    of_classes = [name for name in other_shape if has_backbone and _counts_classes(name, fitting[name], own[name])]
    renewed = of_classes if new_classes else []
    fitting = {name: t for name, t in fitting.items() if name not in renewed}

    missing = sorted(required - {*fitting, *renewed})
    unexpected = sorted(set(fitting) - set(own))
    mismatched = [
        f'{name} {tuple(fitting[name].shape)} instead of {tuple(own[name].shape)}'
        for name in other_shape
        if name not in renewed
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f'the checkpoint ({origin}, {len(tensors)} tensors) does not fit {type(model).__name__}: '
            + '; '.join(
                part
                for part in (
                    missing and f'{len(missing)} missing ({_some(missing)})',
                    unexpected
                    and f'{len(unexpected)} unexpected ({_some(unexpected)})' + did_you_mean(unexpected[0], missing),
                    mismatched and f'{len(mismatched)} of another shape ({_some(mismatched)})',
                )
                if part
            )
            + '. Nothing was loaded; '
            + (
                'where only the classes are others, train.py --new-classes starts from the rest.'
                if of_classes == other_shape and mismatched and not missing and not unexpected
                else 'check that config and checkpoint are of the same model.'
            )
        )
    model.load_state_dict(fitting, strict=False)
    kept = tuple(name for name in own if name not in fitting and name not in renewed)
    return LoadReport(origin, tuple(fitting), tuple(skipped), kept, tuple(renewed))


def _of_classifier_or_backbone(names: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has nothing for the heads of a segmentor or detector."""
    return any(name.startswith('pool.') for name in names) or all(name.startswith('backbone.') for name in names)


def _counts_classes(name: str, given: Tensor, own: Tensor) -> bool:
    """Whether a tensor of another shape can be due to the number of classes: a head's, and one row per class or box."""
    return not name.startswith(('backbone.', 'neck.')) and given.ndim == own.ndim and given.shape[1:] == own.shape[1:]


def _behind_last_output(name: str, backbone: nn.Module) -> bool:
    """Whether a tensor belongs to a block that the backbone does not build, as no output needs it."""
    match = re.fullmatch(r'(?:backbone\.)?blocks\.(\d+)\..*', name)
    return bool(match) and int(match[1]) > max(getattr(backbone, 'out_indices', (0,)))


def _some(names: list[str] | tuple[str, ...]) -> str:
    """The first few names."""
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
