"""mmcv's operators without a compiled mmcv, taken from torchvision.

``pip install onedl-mmcv`` builds mmcv without its compiled module ``mmcv._ext``, and ``mmdet.models`` cannot
be imported then. :func:`install` provides that module; :mod:`densevit` calls it on import. A compiled
``mmcv._ext`` is always preferred and left alone.
"""

from __future__ import annotations

import sys

from .finder import OpsFinder
from .state import OpsState, ops_state

__all__ = ['OpsState', 'install', 'ops_state']


def install() -> None:
    """Let ``import mmcv._ext`` find torchvision's operators where mmcv was not compiled.

    Imports none of torch, torchvision and mmcv. Calling it again changes nothing. Only where parts of mmcv,
    mmdet or mmseg that ask for operators were imported before, what they left half done is repaired
    (:mod:`densevit.compat.repair`).
    """
    if any(isinstance(finder, OpsFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(OpsFinder())  # at the end: asked only when nobody else has the module
    if not sys.modules.keys().isdisjoint(('mmcv.cnn.bricks.transformer', 'mmdet', 'mmseg')):
        from .repair import repair_half_imported

        repair_half_imported()
