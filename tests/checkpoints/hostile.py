"""A checkpoint that, unpickled, leaves a mark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class Bomb:
    """Makes a folder when it is unpickled; in a real one it would be another call."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.makedirs, (self.mark, 0o777, True)


def hostile(path: Path, content: dict[str, Any]) -> Path:
    """Save ``content`` and a bomb beside it to ``path``; return the place of its mark."""
    mark = path.with_name(f'{path.name} ran')
    # in front, so that whoever reads only the beginning meets it
    torch.save({'more': Bomb(mark), **content}, path)
    return mark
