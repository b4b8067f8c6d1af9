"""Where mmcv's operators come from in this process, for people to read."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Literal, NamedTuple

from .finder import EXTENSION, OPS_FILE

__all__ = ['OpsState', 'ops_state']


class OpsState(NamedTuple):
    """Where mmcv's operators come from, and which file or version, or why there are none."""

    source: Literal['compiled', 'torchvision', 'missing']
    detail: str

    def __str__(self) -> str:
        return f'{self.source} ({self.detail})'


def ops_state() -> OpsState:
    """Find out whether mmcv's operators work: imports mmcv and what is behind its operators, raises nothing.

    ``compiled``: mmcv's own, all of them. ``torchvision``: nms and roi_align, by :mod:`densevit.compat.ops`.
    ``missing``: neither loads; the detail says why.
    """
    try:
        if find_spec('mmcv') is None:
            return OpsState('missing', 'mmcv is not installed')
        spec = find_spec(EXTENSION)
        if spec is None:
            return OpsState('missing', 'mmcv has no compiled operators, and densevit is not imported')
        extension = import_module(EXTENSION)
        if spec.origin != OPS_FILE:
            return OpsState('compiled', str(spec.origin))
        extension.load_torchvision_ops()
        return OpsState('torchvision', import_module('torchvision').__version__)
    except Exception as error:  # a broken binary can raise anything; the caller wants a line, not a traceback
        return OpsState('missing', f'{type(error).__name__}: {error}')
