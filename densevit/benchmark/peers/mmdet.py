"""mmdetection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mmdet.models  # noqa: F401  (registers its parts)
from torch import nn

from ..models import Spec
from ._mm import mm_backbones, mm_whole
from .base import Peer

__all__ = ['backbones', 'whole']


def backbones(config: Mapping[str, Any], model: nn.Module, size: tuple[int, int]) -> list[Peer]:
    """Its own backbone."""
    return mm_backbones('mmdet', config, model)


def whole(spec: Spec, model: nn.Module) -> list[Peer]:
    """The config with its own parts."""
    return mm_whole('mmdet', spec, model)
