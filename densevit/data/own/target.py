"""The folder of a data set that is made of the files of somebody else, and brought up to date."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UserError

__all__ = ['Target']

_RECORD = 'import.json'


@dataclass
class Target:
    """A folder that is filled, and which of its files an earlier run has put there."""

    folder: Path
    copy: bool
    written: dict[str, str] = field(default_factory=dict)  # path in the folder: what it was made from
    earlier: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        record = self.folder / _RECORD
        if record.is_file():
            try:
                self.earlier = dict(json.loads(record.read_text())['files'])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f'{str(record)!r} cannot be read; remove it and its folder, or change --out.'
                ) from error
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UserError(f'--out {str(self.folder)!r} is there already and is not of this tool; give a new folder.')

    def link(self, place: str, source: Path) -> None:
        """A link to a file, or a copy of it."""
        path, source = self._parent(place), source.resolve()
        state = f'{"copy" if self.copy else "link"} {source} {source.stat().st_mtime_ns}'
        if self.earlier.get(place) != state or not path.exists():
            path.unlink(missing_ok=True)
            if self.copy:
                shutil.copyfile(source, path)
            else:
                try:
                    path.symlink_to(source)
                except OSError:  # Windows asks for a privilege
                    shutil.copyfile(source, path)
        self.written[place] = state

    def make(self, place: str, source: Path, state: str, content: Callable[[], bytes]) -> None:
        """A file that is made of another."""
        path = self._parent(place)
        state = f'{state} {source.resolve()} {source.stat().st_mtime_ns}'
        if self.earlier.get(place) != state or not path.exists():
            path.unlink(missing_ok=True)  # it may be a link to the user's file
            _replace(path, content())
        self.written[place] = state

    def text(self, place: str, content: str) -> None:
        """A text file of this tool."""
        _replace(self._parent(place), content.encode())
        self.written[place] = hashlib.sha256(content.encode()).hexdigest()

    def _parent(self, place: str) -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _RECORD).exists():  # an interrupted run may be started again
            _replace(self.folder / _RECORD, b'{"files": {}}\n')
        return path

    def finish(self) -> None:
        """Remove what an earlier run has put there and this one has not, and note what is there."""
        for place in self.earlier.keys() - self.written.keys():
            (self.folder / place).unlink(missing_ok=True)
        _replace(self.folder / _RECORD, (json.dumps({'files': self.written}, indent=1) + '\n').encode())


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f'.{path.name}.part')
    beside.write_bytes(content)
    os.replace(beside, path)
