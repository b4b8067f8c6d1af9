"""The import finder that answers for ``mmcv._ext`` where no compiled one exists."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

__all__ = ['EXTENSION', 'OPS_FILE', 'OpsFinder']

EXTENSION = 'mmcv._ext'
OPS_FILE = str(Path(__file__).with_name('ops.py'))


class OpsFinder:
    """Serves ``ops.py`` of this folder under the name ``mmcv._ext``; for every other name it has no answer.

    The module gets a spec of its own, because mmengine and mmcv ask with ``find_spec`` whether there are
    operators (``mmengine.utils.dl_utils.mmcv_full_available``, ``mmcv.utils.ext_loader.check_ops_exist``).
    Both then say yes: what their callers do next is ``import mmcv.ops``, and that works.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of our operators for ``mmcv._ext``, None for any other module."""
        return spec_from_file_location(fullname, OPS_FILE) if fullname == EXTENSION else None
