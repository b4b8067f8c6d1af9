"""mmengine's default scope, which a run or an inference function sets for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.registry import DefaultScope


@contextmanager
def scope_restored() -> Iterator[None]:
    """Leave the default scope as it was: tests of other files would find mmseg's classes, or not find mmdet's."""
    before = dict(DefaultScope._instance_dict)
    try:
        yield
    finally:
        DefaultScope._instance_dict.clear()
        DefaultScope._instance_dict.update(before)
