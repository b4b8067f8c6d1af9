"""densevit: vision backbones for dense prediction, registered for the OpenMMLab stack.

``import densevit`` is cheap: it makes mmcv's operators available where mmcv is not compiled (:mod:`densevit.compat`)
and imports nothing else. The parts are attributes that are imported when they are first used::

    from densevit import PatchConvNet
    maps = PatchConvNet('S60', out_indices=(19, 29, 39, 59))(images)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .compat import install as _install_compat

__version__ = '0.1.0'

_install_compat()


def __getattr__(name: str) -> Any:
    """Import a part on first use: ``densevit.PatchConvNet``, ``densevit.fold``, ..."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name == 'checkpoints':  # the one module that users call by its path: densevit.checkpoints.load_weights
        return import_module('densevit.checkpoints')
    from .registry import FUNCTIONS, PARTS, import_part

    public = {**PARTS, **FUNCTIONS}
    if name not in public:
        from .errors import did_you_mean

        raise AttributeError(f'module {__name__!r} has no attribute {name!r}{did_you_mean(name, public)}')
    return import_part(name)


def __dir__() -> list[str]:
    from .registry import FUNCTIONS, PARTS

    return sorted({*globals(), *PARTS, *FUNCTIONS})
