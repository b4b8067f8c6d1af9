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
    """

    origin: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=())
    kept: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        skipped = f', skipped {len(self.skipped)} ({_some(self.skipped)})' if self.skipped else ''
        return f'{self.origin}: loaded {len(self.loaded)} of {len(self.loaded) + len(self.kept)} tensors{skipped}'


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Load a checkpoint into a backbone, a classifier, or a whole segmentor or detector.

    The origin is recognised from the names: densevit's own, or the official PatchConvNet's. A backbone takes the
    backbone's tensors of a whole model, and a whole segmentor or detector those of a classifier; what lies behind
    the backbone is then skipped, and what the checkpoint does not have stays as it is.

    Args:
        model: where to.
        source: path of a .pth or .safetensors file, or its content.

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
    if not has_backbone and any(name.startswith('backbone.') for name in tensors):
        # from a whole model into a backbone
        fitting = {name.removeprefix('backbone.'): t for name, t in tensors.items() if name.startswith('backbone.')}
        skipped = [name for name in tensors if not name.startswith('backbone.')]
        required = set(own)
    elif any(name.startswith('pool.') for name in tensors) and not hasattr(model, 'pool'):
        # from a classifier into a segmentor or detector
        fitting = {name: t for name, t in tensors.items() if name.startswith('backbone.')}
        skipped = [name for name in tensors if not name.startswith('backbone.')]
        required = {name for name in own if name.startswith('backbone.')}
    else:
        fitting, skipped, required = dict(tensors), [], set(own)

    backbone = getattr(model, 'backbone', model)
    skipped += [name for name in fitting if name not in own and _behind_last_output(name, backbone)]
    fitting = {name: t for name, t in fitting.items() if name not in skipped}

    missing = sorted(required - set(fitting))
    unexpected = sorted(set(fitting) - set(own))
    mismatched = [
        f'{name} {tuple(t.shape)} instead of {tuple(own[name].shape)}'
        for name, t in fitting.items()
        if name in own and t.shape != own[name].shape
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
            + '. Nothing was loaded; check that config and checkpoint are of the same model.'
        )
    model.load_state_dict(fitting, strict=False)
    return LoadReport(origin, tuple(fitting), tuple(skipped), tuple(name for name in own if name not in fitting))


def _behind_last_output(name: str, backbone: nn.Module) -> bool:
    """Whether a tensor belongs to a block that the backbone does not build, as no output needs it."""
    match = re.fullmatch(r'(?:backbone\.)?blocks\.(\d+)\..*', name)
    return bool(match) and int(match[1]) > max(getattr(backbone, 'out_indices', (0,)))


def _some(names: list[str] | tuple[str, ...]) -> str:
    """The first few names."""
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
