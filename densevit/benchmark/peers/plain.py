"""PatchConvNet as the official code writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..plain_patchconvnet import plain_patchconvnet
from .base import Absent, Peer, family, load

__all__ = ['backbones']


def backbones(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """The plain trunk."""
    if family(config) != 'PatchConvNet':
        raise Absent(f'there is a plain PatchConvNet only, no {family(config)}.')
    options = {key: config[key] for key in ('out_indices', 'drop_path_rate') if key in config}
    peer = plain_patchconvnet(config.get('arch', 'S60'), **options)
    load(peer, dict(model.state_dict()))
    return [Peer('plain', peer, 'as the official code, which no package has')]
